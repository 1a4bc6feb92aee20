"""Numbers that are not finite: an update stops at the first one, is counted, and too many in a row end the training.

What an update did before that number stays; after it nothing is applied: no step, no temperature, no target critic, no
balancer's state. So parameters are always finite. Where the tensors live on the host, the answer is read at once; on an
accelerator reading it would make every update wait, so there the device itself decides, by masks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from agents.balancing.balancer import Balancer, NonFiniteError
from agents.balancing.kept import KeptState
from agents.balancing.late_verdict import LateVerdict
from agents.balancing.objective import TaskObjective
from agents.errors import NonFiniteUpdate

# In the place of losses that a balancer must not see: finite, positive, and above any lower bound it may know.
_STAND_IN = 1e6


class UpdateGuard:
    """Guards the updates of an agent whose tensors live on the host.

    :param most_in_a_row: updates stopped one after the other at which `stuck` is true
    """

    skipped: int  # updates that were stopped
    streak: int  # of them, up to now in a row

    def __init__(self, most_in_a_row: int) -> None:
        self.most = most_in_a_row
        self.stopped = False  # the running update, as far as the host knows
        self.seen: list[tuple[str, Tensor]] = []  # what the running update has looked at, in order
        self._states: dict[Balancer, KeptState] = {}
        self.load_state_dict({"skipped": 0, "streak": 0})

    def begin(self, **inputs: Tensor) -> None:
        """An update begins.

        :param inputs: what it is computed from, for the error: looked at only when it comes to that
        """
        self.stopped, self.seen = False, list(inputs.items())

    def passes(self, term: str, numbers: Tensor) -> bool:
        """Look at numbers of the running update; False where it is known here that it has stopped.

        :param term: what they are, for the error
        """
        if self.stopped:
            return False
        self.seen.append((term, numbers))
        # A sum is finite only if all its terms are, and costs a sixth of asking each of them.
        self.stopped = not math.isfinite(numbers.sum().item())
        return not self.stopped

    def balance(self, balancer: Balancer, objective: TaskObjective, name: str) -> bool:
        """Set an objective's gradients as the balancer wants them; False if they are not to be used."""
        if self.stopped:
            return False
        if balancer.wants_gradients(objective.present):
            _ = objective.take_gradients()  # one pass for gradients and losses, before the losses alone are asked for
        return self.passes(f"{name} loss", objective.present_only(objective.losses)) and self._try(
            balancer, objective, name
        )

    def _try(self, balancer: Balancer, objective: TaskObjective, name: str) -> bool:
        """Balance finite losses; their gradients need not be finite, and then the method says so."""
        self._keep(balancer)
        try:
            balancer.backward(objective)
        except NonFiniteError:
            self._states[balancer].restore()
            self.seen.append((f"{name} gradient", torch.full((), torch.nan)))
            self.stopped = True
        return not self.stopped

    def _keep(self, balancer: Balancer) -> None:
        if balancer not in self._states:
            self._states[balancer] = KeptState(balancer)
        self._states[balancer].keep()

    def step(self, optimizer: torch.optim.Optimizer, balancer: Balancer, norm: Tensor, name: str) -> None:
        """Step along a balanced gradient of this norm, or forget that it was ever balanced."""
        if self.passes(f"{name} gradient", norm):
            optimizer.step()
        else:
            self._states[balancer].restore()

    def step_unless_stopped(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, unless the update has stopped."""
        if not self.stopped:
            optimizer.step()

    def observe(self, balancer: Balancer, objective: TaskObjective, name: str) -> None:
        """Give a balancer its second look at the losses, unless the update has stopped."""
        if not self.stopped:
            losses = objective.losses_now()
            if self.passes(f"{name} loss after the step", objective.present_only(losses)):
                balancer.observe(losses)

    def follow(self, targets: list[Tensor], sources: list[Tensor], share: float) -> None:
        """Move the targets a share of the way to the sources, unless the update has stopped."""
        if not self.stopped:
            torch._foreach_lerp_(targets, sources, share)

    def end(self) -> bool:
        """An update ends; False if its numbers are to enter no mean."""
        self.skipped += self.stopped
        self.streak = self.streak + 1 if self.stopped else 0
        return not self.stopped

    def stuck(self) -> bool:
        """Whether too many updates in a row were stopped."""
        return self.streak >= self.most

    def culprit(self) -> tuple[str, Tensor] | None:
        """What the latest update met first that is not finite: its name, and the numbers. Waits for the device."""
        return next((look for look in self.seen if not bool(look[1].sum().isfinite())), None)

    def error(self, task_names: Sequence[str], update: int, gradient_norms: Callable[[str], Tensor]) -> NonFiniteUpdate:
        """The error that ends the training, with the offending batch. Waits for the device.

        :param update: number of the latest update
        :param gradient_norms: of every task ``[K]`` in the latest update, for the loss of a name
        """
        found = self.culprit()
        assert found is not None
        term, numbers = found
        if term.endswith(" gradient"):
            numbers = gradient_norms(term.removesuffix(" gradient"))
        rows = next(tensor for name, tensor in self.seen if name == "task").tolist()
        of_groups = " loss" not in term  # losses are of the tasks; all else is of the groups of the batch
        if of_groups and len(numbers.shape) > 0 and len(numbers) == len(rows):
            task_names = [task_names[row] for row in rows]
        bad = ~numbers.detach().isfinite().flatten(1 if numbers.ndim > 1 else 0)
        tasks = [name for name, row in zip(task_names, bad, strict=True) if bool(row.any())]
        kinds = " and ".join(sorted({f"{value:g}" for value in numbers.flatten()[bad.flatten()].tolist()}))
        sentence = (
            f"{self.most} updates in a row were skipped, the last of them number {update:,}: "
            f"the {term} of {', '.join(repr(task) for task in tasks) or 'all tasks together'} is {kinds or 'too large'}"
        )
        batch = {name.replace(" ", "_"): tensor.detach().cpu().float().numpy() for name, tensor in self.seen}
        return NonFiniteUpdate(sentence, term, tasks, batch)

    def state_dict(self) -> dict[str, int]:
        """The counts: updates stopped in all, and up to now in a row. Waits for the device."""
        return {"skipped": int(self.skipped), "streak": int(self.streak)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Undo `state_dict`."""
        self.skipped, self.streak = int(state["skipped"]), int(state["streak"])


class DeviceGuard(UpdateGuard):
    """Guards the updates of an agent on an accelerator: nothing waits, what is found acts through masks.

    A method that computes with task gradients, or acts on the host, waits for the device anyway: there the answer is
    read.

    :param most_in_a_row: updates stopped one after the other at which `stuck` is true, an update or so later
    :param device: of the tensors
    """

    skipped: Tensor  # type: ignore[assignment]
    streak: Tensor  # type: ignore[assignment]

    def __init__(self, most_in_a_row: int, device: torch.device) -> None:
        self.device = device
        self._late = LateVerdict()
        self._found = torch.zeros((), device=device)  # 1 once the running update has met a number that is not finite
        super().__init__(most_in_a_row)

    def begin(self, **inputs: Tensor) -> None:
        super().begin(**inputs)
        self._found = torch.zeros((), device=self.device)

    def passes(self, term: str, numbers: Tensor) -> bool:
        self.seen.append((term, numbers))
        self._found = torch.maximum(self._found, (~numbers.sum().isfinite()).float())
        return True

    def balance(self, balancer: Balancer, objective: TaskObjective, name: str) -> bool:
        if balancer.wants_gradients(objective.present):
            _ = objective.take_gradients()
        self.passes(f"{name} loss", objective.present_only(objective.losses))
        if balancer.uses_gradients or balancer.acts_on_host:
            self.stopped = bool(self._found)
            if self.stopped or not self._try(balancer, objective, name):
                self._found.fill_(1.0)
            return not self.stopped
        self._keep(balancer)
        balancer.backward(StandIn(objective, self._found))
        return True

    def step(self, optimizer: torch.optim.Optimizer, balancer: Balancer, norm: Tensor, name: str) -> None:
        self.passes(f"{name} gradient", norm)
        self.step_unless_stopped(optimizer)
        if not (balancer.uses_gradients or balancer.acts_on_host):
            self._states[balancer].restore_where(self._found)
        elif bool(self._found):
            self._states[balancer].restore()

    def step_unless_stopped(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.found_inf = self._found  # type: ignore[attr-defined]  # where it is 1, fused Adam leaves all as it is
        optimizer.step()

    def observe(self, balancer: Balancer, objective: TaskObjective, name: str) -> None:
        losses = objective.losses_now()
        self.passes(f"{name} loss after the step", objective.present_only(losses))
        self._keep(balancer)
        balancer.observe(torch.where(self._found > 0, _STAND_IN, losses))
        self._states[balancer].restore_where(self._found)

    def follow(self, targets: list[Tensor], sources: list[Tensor], share: float) -> None:
        weight = torch.where(self._found > 0, 0.0, share)
        torch._foreach_lerp_(targets, sources, [weight] * len(targets))

    def end(self) -> bool:
        self.skipped = self.skipped + self._found
        self.streak = (self.streak + 1) * self._found
        return True

    def stuck(self) -> bool:
        verdict = self._late.exchange(self.streak)
        return verdict is not None and int(verdict[0]) >= self.most and self.culprit() is not None

    def load_state_dict(self, state: dict[str, int]) -> None:
        counts = torch.tensor([state["skipped"], state["streak"]], dtype=torch.float64, device=self.device)
        self.skipped, self.streak = counts.unbind()


class StandIn:
    """An objective as a balancer sees it on an accelerator: with other losses, where its own are not finite.

    :param found: scalar, not zero where they are not
    """

    def __init__(self, objective: TaskObjective, found: Tensor) -> None:
        self._objective, self._found = objective, found

    @property
    def losses(self) -> Tensor:
        return torch.where(self._found > 0, _STAND_IN, self._objective.losses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


def make_guard(most_in_a_row: int, device: torch.device) -> UpdateGuard:
    """The guard for tensors of a device."""
    return UpdateGuard(most_in_a_row) if device.type == "cpu" else DeviceGuard(most_in_a_row, device)
