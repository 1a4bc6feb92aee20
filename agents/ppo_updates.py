"""The losses of multitask PPO as pure functions of parameters and batch.

Shapes: G groups (tasks) of B samples. Every function returns one number per group, so a balancer can weigh them.
Source: Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from agents.critics import Value
from agents.gaussian import GaussianActor, entropy, log_density, mean_std
from agents.networks import TaskNetwork
from agents.policies import call
from agents.rollout import RolloutSample

Losses = tuple[Tensor, dict[str, Tensor]]


class StateCritic(nn.Module):
    """E value networks of the state.

    :param network: ``[G, B, S], [G] -> [E, G, B, O]``
    :param value: what the O outputs mean
    """

    def __init__(self, network: TaskNetwork, value: Value) -> None:
        super().__init__()
        self.network = network
        self.value = value

    def forward(self, states: Tensor, task: Tensor) -> Tensor:
        """``[G, B, S], [G] -> [E, G, B, O]``."""
        return self.network(states, task)

    def values(self, states: Tensor, task: Tensor) -> Tensor:
        """One value of the E networks for every state: ``[G, B, S], [G] -> [G, B]``."""
        return self.value.for_tasks(task).reduced(self(states, task))


def policy_losses(
    actor: GaussianActor,
    parameters: Mapping[str, Tensor],
    batch: RolloutSample,
    task: Tensor,
    clip_range: float,
    entropy_coefficient: float,
) -> Losses:
    """Actor loss of every task ``[G]``: ``-mean_b min(r A, clip(r) A) - c H``, r the ratio of new to old densities.

    :param batch: advantages normalised as wanted
    :param task: ``[G]``
    :param clip_range: epsilon, ratios count within ``[1 - epsilon, 1 + epsilon]``
    :param entropy_coefficient: c
    """
    mean, log_std = call(actor, parameters, batch.states, task)
    own = actor.own(task)
    log_ratio = log_density(mean, log_std, batch.actions, own) - batch.log_probabilities
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    surrogate = torch.minimum(ratio * batch.advantages, clipped * batch.advantages).mean(-1)
    entropies = entropy(log_std, own).mean(-1)
    with torch.no_grad():
        metrics = {
            "surrogate": surrogate.detach(),
            "entropy": entropies.detach(),
            "std": mean_std(log_std, own),
            # Schulman's estimator: unbiased, and never negative.
            "approx_kl": (ratio - 1 - log_ratio).mean(-1),
            "clip_fraction": ((ratio - 1).abs() > clip_range).to(ratio.dtype).mean(-1),
        }
    return -surrogate - entropy_coefficient * entropies, metrics


def value_losses(critic: StateCritic, parameters: Mapping[str, Tensor], batch: RolloutSample, task: Tensor) -> Losses:
    """Critic loss of every task ``[G]``, of the returns; half the squared error where values are numbers."""
    value = critic.value.for_tasks(task)
    outputs = call(critic, parameters, batch.states, task)
    target = value.target_of(batch.returns)
    return value.losses(outputs, target), value.metrics(outputs.detach(), target)
