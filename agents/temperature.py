"""Entropy temperatures of SAC: one per task, or one shared by all; learned, or fixed.

Source: Haarnoja et al. 2018 (arXiv 1812.05905, section 5); one temperature per task as in the Meta-World baselines.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from agents.balancing.guard import UpdateGuard
from agents.errors import ConfigurationError, unknown_name
from agents.selection import Selection

TEMPERATURES = ("per_task", "shared")


class Temperature(nn.Module):
    """Temperatures alpha, learned through their logarithm.

    :param num_tasks: K
    :param ent_coef: ``auto``, ``auto_<initial value>``, or a fixed number (SB3's argument)
    :param kind: ``per_task`` or ``shared``
    :param target_entropy: the entropy that learning keeps, in nats, of all tasks or of each ``[K]``; lower acts more
        greedily
    """

    target_entropy: Tensor  # [K]

    def __init__(self, num_tasks: int, ent_coef: str | float, kind: str, target_entropy: float | Tensor) -> None:
        super().__init__()
        if kind not in TEMPERATURES:
            raise unknown_name("temperature", kind, TEMPERATURES)
        self.num_tasks = num_tasks
        wanted = torch.as_tensor(target_entropy, dtype=torch.float32).expand(num_tasks).clone()
        self.register_buffer("target_entropy", wanted, persistent=False)  # a setting, not a state
        self.learned = str(ent_coef).startswith("auto")
        initial = _initial_value(ent_coef)
        log_alpha = torch.full((num_tasks if kind == "per_task" else 1,), initial).log()
        self.log_alpha = nn.Parameter(log_alpha, requires_grad=self.learned)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if not self.learned:  # a setting, not a state: whoever resumes with another one means the other one
            state_dict[prefix + "log_alpha"] = self.log_alpha.detach()
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def value(self) -> Tensor:
        """Temperatures ``[K]``, detached."""
        return self.log_alpha.detach().exp().expand(self.num_tasks)

    def losses(self, log_probabilities: Tensor) -> Tensor:
        """Temperature losses ``[K]`` of the mean log-probability of each task's actions ``[K]``."""
        return -self.log_alpha.expand(self.num_tasks) * (log_probabilities.detach() + self.target_entropy)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        log_probabilities: Tensor,
        selection: Selection,
        guard: UpdateGuard,
    ) -> Tensor:
        """One step of the temperatures, each task's own or the shared one for the mean task; returns losses ``[K]``.

        :param log_probabilities: ``[K]``
        :param selection: the active tasks; the temperatures of the others stay, and their losses are NaN
        :param guard: of the update that this step belongs to
        """
        if selection.is_whole:
            losses = self.losses(log_probabilities)
            self._descend(optimizer, losses, selection.size, guard)
            return losses.detach()
        active = selection.active.to(log_probabilities.device)
        losses = self.losses(torch.where(active, log_probabilities, -self.target_entropy))  # idle: no change wanted
        before = self._state(optimizer) if len(self.log_alpha) > 1 else []
        self._descend(optimizer, losses, selection.size, guard)
        for values, kept in before:
            values.copy_(torch.where(active, values, kept))
        return torch.where(active, losses.detach(), float("nan"))

    def _descend(self, optimizer: torch.optim.Optimizer, losses: Tensor, num_tasks: int, guard: UpdateGuard) -> None:
        if self.learned and guard.passes("temperature loss", losses.detach()):
            optimizer.zero_grad()
            (losses.sum() / num_tasks if len(self.log_alpha) == 1 else losses.sum()).backward()
            optimizer.step()

    def _state(self, optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
        """What a step changes of every task, with a copy of it as it is."""
        known = optimizer.state.get(self.log_alpha, {})  # asked for with [], an empty entry would be made and saved
        moments = [value for value in known.values() if value.shape == self.log_alpha.shape]
        return [(values, values.clone()) for values in (self.log_alpha.detach(), *moments)]


def _initial_value(ent_coef: str | float) -> float:
    text = str(ent_coef)
    try:
        value = 1.0 if text == "auto" else float(text.removeprefix("auto_"))
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise ConfigurationError(f"ent_coef must be 'auto', 'auto_<value>' or a positive number, found {ent_coef!r}.")
    return value


def target_entropy_of(setting: str | float, action_size: float) -> float:
    """The target entropy in nats.

    :param setting: a number; ``auto`` is ``-A``, ``auto_<share>`` that share of it: ``auto_0.5`` is ``-A / 2``
    :param action_size: how many numbers the action of a task has
    :raises ConfigurationError: for anything else
    """
    text = str(setting)
    try:
        share = 1.0 if text == "auto" else float(text.removeprefix("auto_"))
    except ValueError:
        share = math.nan
    value = -share * action_size if text.startswith("auto") else share
    if not math.isfinite(value):
        raise ConfigurationError(
            f"target_entropy must be 'auto', a share of it such as 'auto_0.5', or a number in nats, found {setting!r}."
        )
    return value
