"""K task losses of one set of parameters, and their K gradients at the price of one backward pass.

Where every layer takes grouped parameters (agents/networks/layers.py), one backward pass gives all task gradients,
written out or as factors (task_gradients.py); any other loss is differentiated by ``vmap(grad(loss))``, which computes
the same at a higher cost per call.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from agents.balancing.balancer import Balanced
from agents.balancing.task_gradients import (
    Block,
    DenseGradients,
    LossFunction,
    Parameters,
    Scratch,
    TaskGradients,
    dense_gradients,
    factored_gradients,
)
from agents.balancing.tasks import Tasks, UpdateContext
from agents.errors import ConfigurationError


@dataclass(frozen=True)
class GradientLayout:
    """How task gradients are computed and kept.

    :param grouped: the loss function takes grouped parameters: `takes_grouped_parameters` of its network
    :param layerwise: keep them as factors of the layers, never as a ``[K, P]`` Jacobian; needs `grouped`
    :param scratch: memory that an objective may use, and leaves to the next
    """

    grouped: bool = False
    layerwise: bool = False
    scratch: Scratch = field(default_factory=Scratch)


class TaskObjective(Tasks):
    """Task losses of one batch; everything is computed on first touch and kept.

    :param loss_function: pure function ``(parameters, *batch) -> (losses [G], metrics)`` of G groups of samples;
        every metric has G as its first dimension
    :param parameters: the P balanced parameters by name
    :param batch: tensors ``[G, ...]`` whose groups are those of the context's selection. Where that repeats tasks, the
        loss of a task is the mean over its groups, and there are no task gradients
    :param context: what is known beside the losses
    :param layout: of the task gradients
    """

    def __init__(
        self,
        loss_function: LossFunction,
        parameters: Parameters,
        batch: Sequence[Tensor],
        context: UpdateContext,
        layout: GradientLayout | None = None,
    ) -> None:
        super().__init__(context)
        self.loss_function = loss_function
        self.parameters = dict(parameters)
        self.batch = tuple(batch)
        self.layout = layout or GradientLayout()
        self._graph: Tensor | None = None  # the losses with their graph, where the plain forward pass was made
        self._losses: Tensor | None = None
        self._metrics: dict[str, Tensor] = {}
        self._gradients: TaskGradients | None = None

    @property
    def num_tasks(self) -> int:
        """K."""
        return self.selection.num_tasks

    @property
    def losses(self) -> Tensor:
        if self._losses is None:
            self._forward()
        assert self._losses is not None
        return self._losses

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        if self._losses is None:
            self._forward()
        return self._metrics

    def take_gradients(self) -> TaskGradients:
        """The task gradients; the pass that makes them gives the losses too, so it comes before these."""
        if self._gradients is None:
            self._gradients, losses, metrics = self._differentiate()
            self._keep(losses, metrics)
        return self._gradients

    @property
    def task_gradients(self) -> dict[str, Tensor]:
        """Gradient of every task by parameter name, each ``[K, *shape]``.

        :raises ConfigurationError: if they are kept layer by layer
        """
        gradients = self.take_gradients()
        if not isinstance(gradients, DenseGradients):
            raise ConfigurationError(
                "jacobian='layerwise' never holds the task gradients as a whole: a balancer that needs them goes "
                "through tasks.blocks(), or runs with jacobian='full'."
            )
        return gradients.by_name

    @cached_property
    def _gramian(self) -> Tensor:
        gramian = self.take_gradients().gramian()  # symmetric up to rounding
        spread = self.selection.spread
        return gramian if self.selection.is_whole else spread(spread(gramian).mT)

    @property
    def gramian(self) -> Tensor:
        return self._gramian

    @cached_property
    def _jacobian(self) -> Tensor:
        rows = torch.cat([gradient.flatten(1) for gradient in self.task_gradients.values()], dim=1)
        return self.selection.spread(rows)

    @property
    def jacobian(self) -> Tensor:
        """Task gradients as rows ``[K, P]``, parameters in the order of `parameters`; not there if `layerwise`."""
        return self._jacobian

    def blocks(self) -> Iterator[Block]:
        for columns, rows in self.take_gradients().blocks():
            yield columns, self.selection.spread(rows)

    def apply(self, balanced: Balanced) -> None:
        """Set ``.grad`` of the parameters as a balancer wants it."""
        if balanced.direction is None:
            self.backward(balanced.weights)
        else:
            self.backward_direction(balanced.direction)

    def backward(self, weights: Tensor) -> None:
        """Set ``.grad`` of the parameters to ``(1/K) sum_k weights[k] g_k``.

        Uses the task gradients if a balancer has asked for them, else one weighted backward pass.

        :param weights: ``[K]``
        """
        mean_weights = weights.detach() / self.num_tasks
        if not self.selection.is_whole:
            mean_weights = mean_weights[self.selection.active.to(mean_weights.device)]
        if self._gradients is not None:
            gradients: Sequence[Tensor] = self._gradients.weighted(mean_weights)
        else:
            if self._graph is None:
                self._forward()
            assert self._graph is not None
            gradients = torch.autograd.grad((mean_weights * self._graph).sum(), list(self.parameters.values()))
            self._graph = None
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient

    def backward_direction(self, direction: Tensor) -> None:
        """Set ``.grad`` of the parameters to a direction ``[P]`` that a balancer composed itself."""
        sizes = [parameter.numel() for parameter in self.parameters.values()]
        if direction.numel() != sum(sizes):
            raise ConfigurationError(
                f"A direction must have one number for each of {sum(sizes):,} parameters, found {direction.numel():,}."
            )
        for parameter, part in zip(self.parameters.values(), direction.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    @torch.no_grad()
    def losses_now(self) -> Tensor:
        """Losses ``[K]`` on the same batch with the parameters as they are now: a balancer's second look."""
        return self.selection.spread(self._evaluate(self.parameters, *self.batch)[0], float("nan"))

    def _evaluate(self, parameters: Parameters, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and metrics of the active tasks ``[n]``."""
        losses, metrics = self.loss_function(parameters, *batch)
        if not self.selection.repeats:
            return losses, metrics
        means = self.selection.mean_by_task
        return means(losses), {name: means(values) for name, values in metrics.items()}

    def _forward(self) -> None:
        losses, metrics = self._evaluate(self.parameters, *self.batch)
        self._graph = losses
        self._keep(losses, metrics)

    def _differentiate(self) -> tuple[TaskGradients, Tensor, dict[str, Tensor]]:
        if not self.layout.grouped:
            return self._by_vmap()
        if self.layout.layerwise:
            return factored_gradients(self.loss_function, self.parameters, self.batch, self.layout.scratch)
        return dense_gradients(self.loss_function, self.parameters, self.batch)

    def _by_vmap(self) -> tuple[TaskGradients, Tensor, dict[str, Tensor]]:
        over_tasks = torch.func.vmap(
            torch.func.grad_and_value(self._one_task, has_aux=True), in_dims=(None, *(0 for _ in self.batch))
        )
        detached = {name: parameter.detach() for name, parameter in self.parameters.items()}
        gradients, (losses, metrics) = over_tasks(detached, *(tensor.unsqueeze(1) for tensor in self.batch))
        return DenseGradients(self.parameters, gradients), losses, metrics

    def _one_task(self, parameters: Parameters, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = self.loss_function(parameters, *batch)
        return losses.squeeze(0), {name: value.detach().squeeze(0) for name, value in metrics.items()}

    def _keep(self, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        spread, idle = self.selection.spread, float("nan")
        self._losses = spread(losses.detach(), idle)
        self._metrics = {name: spread(value.detach(), idle) for name, value in metrics.items()}
