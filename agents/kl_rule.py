"""What keeps the policy's steps at a wanted size: an iteration that ends early, or the learning rate."""

import torch
from torch import Tensor, nn

from agents.errors import unknown_name

FACTOR = 1.5
KL_RULES = ("stop", "adapt")
STOP_AT = 1.5  # times the wanted divergence, as in SB3
LOWEST, HIGHEST = 0.1, 4.0  # times the scheduled learning rate


def adapted_to_kl(
    learning_rate: float, kl: float, desired_kl: float, lowest: float = 1e-5, highest: float = 1e-2
) -> float:
    """The next learning rate: lower after steps more than twice too far, higher after steps less than half as far.

    Source: the adaptive schedule of rl_games and rsl_rl, with their factor.

    :param kl: mean divergence of the new policy from the one that acted, in nats
    :param desired_kl: what it should be
    :param lowest: the smallest learning rate
    :param highest: the largest one
    """
    if kl > 2.0 * desired_kl:
        learning_rate /= FACTOR
    elif kl < 0.5 * desired_kl:
        learning_rate *= FACTOR
    return min(max(learning_rate, lowest), highest)


class KLRule(nn.Module):
    """Holds the divergence of the new policy from the one that acted near a wanted size.

    :param target: in nats, a mean over tasks; None lets it be
    :param rule: ``stop`` ends the epochs of an iteration once a minibatch is 1.5 times beyond it (Stable-Baselines3);
        ``adapt`` multiplies the learning rate after every iteration, see `adapted_to_kl`
    """

    factor: Tensor

    def __init__(self, target: float | None, rule: str) -> None:
        super().__init__()
        if rule not in KL_RULES:
            raise unknown_name("kl_rule", rule, KL_RULES)
        self.target, self.rule = target, rule
        self.register_buffer("factor", torch.ones((), dtype=torch.float64))

    def exceeded(self, kl: Tensor) -> bool:
        """Whether the iteration is to end.

        :param kl: of the latest minibatch, by task ``[K]``; NaN for idle tasks
        """
        if self.target is None or self.rule != "stop":
            return False
        return float(kl.nanmean()) > STOP_AT * self.target

    def adapt(self, kls: list[Tensor]) -> None:
        """An iteration has ended.

        :param kls: of the minibatches of its last epoch, each ``[K]``; NaN for idle tasks
        """
        if self.target is None or self.rule != "adapt" or not kls:
            return
        kl = float(torch.stack(kls).nanmean())
        if kl == kl:
            self.factor.fill_(adapted_to_kl(float(self.factor), kl, self.target, LOWEST, HIGHEST))
