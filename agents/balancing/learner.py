"""One side of an agent: parameters, their K task losses, and the one step that a balancer makes of these."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.balancing.balancer import Balanced, Balancer, Needs, NonFiniteError
from agents.balancing.guard import UpdateGuard
from agents.balancing.objective import GradientLayout, TaskObjective
from agents.balancing.task_gradients import LossFunction
from agents.balancing.tasks import UpdateContext
from agents.balancing.unsaved import UnsavedState
from agents.selection import Selection


@dataclass(frozen=True)
class Report:
    """What came of one step.

    :param objective: losses and metrics, each ``[K]``, NaN for idle tasks
    :param selection: the tasks that learnt
    :param norm: of the balanced gradient before clipping; NaN if the update stopped before it was known
    """

    objective: TaskObjective
    selection: Selection
    norm: Tensor


class Learner:
    """Parameters, a pure loss function of them, the balancer of its K losses, and their optimizer.

    :param name: ``critic`` or ``actor``, for errors
    :param parameters: what is learnt, by name
    :param losses: ``(parameters, *batch) -> (losses [G], metrics)``
    :param balancer: makes one update of the losses
    :param optimizer: of the parameters
    :param layout: of the task gradients
    :param max_grad_norm: clip the norm of the balanced gradient; None does not clip
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, nn.Parameter],
        losses: LossFunction,
        balancer: Balancer,
        optimizer: torch.optim.Optimizer,
        layout: GradientLayout,
        max_grad_norm: float | None,
    ) -> None:
        self.name, self.parameters, self.losses = name, parameters, losses
        self.balancer, self.optimizer, self.layout = balancer, optimizer, layout
        self.max_grad_norm = max_grad_norm
        self.selection = Selection.whole(balancer.num_tasks)  # the tasks that learnt in the latest step
        self._unsaved = UnsavedState(balancer)
        self._balanced: Balanced | None = None  # the balancer's latest answer
        self._latest: tuple[tuple[Tensor, ...], UpdateContext] | None = None

    def step(self, batch: Sequence[Tensor], context: UpdateContext, guard: UpdateGuard) -> Report:
        """One balanced, clipped step on a batch.

        :param batch: what the loss function takes beside the parameters, each ``[G, ...]``
        :param guard: of the update that this step belongs to; once that has stopped, nothing is applied
        """
        self._latest = tuple(batch), context
        self.selection = context.selection
        objective = self.objective(batch, context)
        norm = torch.full((), torch.nan, device=batch[0].device)
        if self._balance(objective, guard):
            limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
            norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), limit, foreach=True)
            if guard.passes(f"{self.name} gradient", norm):
                self.optimizer.step()
                self._look_again(objective, guard)
            else:
                self._blame_balancer(guard)
            self._unsaved.refuse()
        return Report(objective, self.selection, norm)

    def objective(self, batch: Sequence[Tensor], context: UpdateContext) -> TaskObjective:
        """The task losses of a batch, as the balancer sees them."""
        return TaskObjective(self.losses, self.parameters, batch, context, self.layout)

    def _balance(self, objective: TaskObjective, guard: UpdateGuard) -> bool:
        """Set the gradients of the parameters as the balancer wants them; False if they are not to be used."""
        if guard.stopped:
            return False
        needs = self.balancer.needs_now(objective.selection)
        if needs & Needs.TASK_GRADIENTS:
            objective.take_gradients()  # one pass for gradients and losses, before the losses alone are asked for
        if not guard.passes(f"{self.name} loss", objective.selection.active_only(objective.losses)):
            return False
        if Needs.GRAMIAN in needs and not bool(objective.gramian.sum().isfinite()):
            guard.refuse(f"{self.name} gradient")
            return False
        try:
            balanced = self.balancer.balance(objective)
        except NonFiniteError:  # a norm of the task gradients, or a gradient that an earlier method has weighted
            guard.refuse(f"{self.name} gradient")
            return False
        self.selection, self._balanced = balanced.selection, balanced
        objective.apply(balanced)
        return True

    def _blame_balancer(self, guard: UpdateGuard) -> None:
        """Losses were finite and their gradient is not: say so where the balancer's answer was not finite either."""
        assert self._balanced is not None
        title, weights, direction = self.balancer.title, self._balanced.weights, self._balanced.direction
        if not bool(weights.isfinite().all()):
            guard.blame(f"weight that {title} gives the {self.name} loss", weights)
        elif direction is not None and not bool(direction.isfinite().all()):
            guard.blame(f"direction that {title} makes of the {self.name} losses", direction.sum().expand_as(weights))

    def _look_again(self, objective: TaskObjective, guard: UpdateGuard) -> None:
        if Needs.SECOND_LOOK in self.balancer.needs:
            losses = objective.losses_now()
            if guard.passes(f"{self.name} loss after the step", objective.selection.active_only(losses)):
                self.balancer.observe(losses)

    def latest_gradient_norms(self) -> Tensor:
        """Norms of the task gradients in the latest step, computed again.

        :return: of the tasks ``[K]``, or of the groups of the batch ``[G]`` where a task had several
        """
        assert self._latest is not None
        batch, context = self._latest
        if context.selection.repeats:
            context = context.narrowed(Selection.whole(len(batch[0])))
        return self.objective(batch, context).gradient_norms
