"""States on one scale: running mean and variance over all environments, kept with the policy."""

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name

OBSERVATION_SCALES = ("running", "none")


class ObservationScale(nn.Module):
    """``(s - mean) / std`` of every state number, cut off at ``+-limit``; nothing but the limit before any `update`.

    Its statistics are buffers, so a saved, exported or loaded policy has them. Source: `VecNormalize` of
    Stable-Baselines3, for states alone.

    :param size: S
    :param limit: largest absolute value
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, limit: float = 8.0) -> None:
        super().__init__()
        if not limit > 0:
            raise ConfigurationError(f"The limit of scaled observations must be greater than 0, found {limit:g}.")
        self.limit = limit
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))

    def forward(self, states: Tensor) -> Tensor:
        """``[..., S] -> [..., S]``, in the precision of the states."""
        inverse = (self.variance + 1e-8).rsqrt()
        scaled = (states - self.mean.to(states.dtype)) * inverse.to(states.dtype)
        return scaled.clamp(-self.limit, self.limit)

    @torch.no_grad()
    def update(self, states: Tensor) -> None:
        """Add states ``[..., S]`` to the statistics (Chan et al. 1979)."""
        rows = states.reshape(-1, states.shape[-1]).to(self.mean.dtype)
        total = self.count + len(rows)
        share = len(rows) / total
        difference = rows.mean(0) - self.mean
        spread = rows.var(0, correction=0).lerp(self.variance, 1 - share)
        self.variance.copy_(spread + share * (1 - share) * difference.square())
        self.mean.add_(share * difference)
        self.count.copy_(total)


def make_observation_scale(name: str, size: int) -> nn.Module:
    """The scale of states by its name.

    :param name: ``running`` or ``none``
    :param size: S
    :raises ConfigurationError: for any other name
    """
    if name not in OBSERVATION_SCALES:
        raise unknown_name("observation_scale", name, OBSERVATION_SCALES)
    return ObservationScale(size) if name == "running" else nn.Identity()
