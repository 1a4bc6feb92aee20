"""K task losses of one set of parameters, and their K gradients at the price of one backward pass.

Where every layer takes grouped parameters (agents/networks/layers.py), one backward pass gives all task gradients,
written out or as factors (task_gradients.py); any other loss is differentiated by ``vmap(grad(loss))``, which computes
the same at a higher cost per call.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

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
from agents.errors import ConfigurationError


class TaskObjective:
    """Task losses of one batch; everything is computed on first touch and kept.

    :param loss_function: pure function ``(parameters, *batch) -> (losses [G], metrics)`` of G groups of samples;
        every metric has G as its first dimension
    :param parameters: the P balanced parameters by name
    :param batch: tensors with the tasks as first dimension: all K of them, or those that are present
    :param present: tasks that the batch is of, boolean ``[K]`` on the host, None for all. To a balancer the others have
        NaN for a loss and zero for a gradient
    :param task_of_group: task of each group ``[G]`` on the host, where a task may have several: its loss is their mean,
        and there are no task gradients; `present` must agree
    :param grouped: whether the loss function takes grouped parameters: `takes_grouped_parameters` of its network
    :param layerwise: keep the task gradients as factors of the layers, never as a ``[K, P]`` Jacobian; needs `grouped`
    :param scratch: memory that such an objective may use, and leaves to the next
    :param step: updates made so far
    :param progress: what balancers may know beyond the losses (returns and success per task)
    :param temperatures: entropy temperatures of the tasks ``[K]``, for balancers that look at them
    :param learning_rate: of the step to come
    :param task_names: names for error messages
    """

    def __init__(
        self,
        loss_function: LossFunction,
        parameters: Parameters,
        batch: Sequence[Tensor],
        *,
        present: Tensor | None = None,
        task_of_group: Tensor | None = None,
        grouped: bool = False,
        layerwise: bool = False,
        scratch: Scratch | None = None,
        step: int = 0,
        progress: Any = None,
        temperatures: Tensor | None = None,
        learning_rate: float | None = None,
        task_names: Sequence[str] = (),
    ) -> None:
        self.loss_function = loss_function if task_of_group is None else _TaskMeans(loss_function, task_of_group)
        self.parameters = dict(parameters)
        self.batch = tuple(batch)
        self.present = present
        self.rows = None if present is None else present.nonzero().squeeze(-1).to(self.batch[0].device)
        self.grouped = grouped
        self.layerwise = layerwise
        self.scratch = scratch
        self.step = step
        self.progress = progress
        self.temperatures = temperatures
        self.learning_rate = learning_rate
        self.task_names = tuple(task_names)
        self._graph: Tensor | None = None  # the losses with their graph, where the plain forward pass was made
        self._losses: Tensor | None = None
        self._metrics: dict[str, Tensor] = {}
        self._gradients: TaskGradients | None = None

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.batch[0]) if self.present is None else len(self.present)

    @property
    def losses(self) -> Tensor:
        """Losses ``[K]``, detached."""
        if self._losses is None:
            self._forward()
        assert self._losses is not None
        return self._losses

    @property
    def metrics(self) -> dict[str, Tensor]:
        """What the loss function reports beside the losses, detached; first dimension K."""
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
    def gramian(self) -> Tensor:
        """Inner products of the task gradients ``[K, K]``."""
        gramian = self.take_gradients().gramian()
        return gramian if self.rows is None else self._spread(self._spread(gramian).mT)

    @cached_property
    def jacobian(self) -> Tensor:
        """Task gradients as rows ``[K, P]``, parameters in the order of `parameters`; not there if `layerwise`."""
        rows = torch.cat([gradient.flatten(1) for gradient in self.task_gradients.values()], dim=1)
        return self._spread(rows)

    def blocks(self) -> Iterator[Block]:
        """The Jacobian column block by column block: columns and ``[K, M]`` numbers, which do not outlive the next."""
        for columns, rows in self.take_gradients().blocks():
            yield columns, self._spread(rows)

    def backward(self, weights: Tensor) -> None:
        """Set ``.grad`` of the parameters to ``(1/K) sum_k weights[k] g_k``.

        Uses the task gradients if a balancer has asked for them, else one weighted backward pass.

        :param weights: ``[K]``
        """
        mean_weights = weights.detach() / self.num_tasks
        if self.rows is not None:
            mean_weights = mean_weights[self.rows]
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
        for parameter, part in zip(self.parameters.values(), direction.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    @torch.no_grad()
    def losses_now(self) -> Tensor:
        """Losses ``[K]`` on the same batch with the parameters as they are now: a balancer's second look."""
        return self._spread(self.loss_function(self.parameters, *self.batch)[0], float("nan"))

    def _forward(self) -> None:
        losses, metrics = self.loss_function(self.parameters, *self.batch)
        self._graph = losses
        self._keep(losses, metrics)

    def _differentiate(self) -> tuple[TaskGradients, Tensor, dict[str, Tensor]]:
        if not self.grouped:
            return self._by_vmap()
        if self.layerwise:
            return factored_gradients(self.loss_function, self.parameters, self.batch, self.scratch)
        return dense_gradients(self.loss_function, self.parameters, self.batch)

    def _by_vmap(self) -> tuple[TaskGradients, Tensor, dict[str, Tensor]]:
        over_tasks = torch.func.vmap(
            torch.func.grad_and_value(self._one_task, has_aux=True), in_dims=(None, *(0 for _ in self.batch))
        )
        detached = {name: parameter.detach() for name, parameter in self.parameters.items()}
        gradients, (losses, metrics) = over_tasks(detached, *(tensor.unsqueeze(1) for tensor in self.batch))
        return DenseGradients(self.parameters, gradients), losses, metrics

    def _keep(self, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        self._losses = self._spread(losses.detach(), float("nan"))
        self._metrics = {name: self._spread(value.detach(), float("nan")) for name, value in metrics.items()}

    def present_only(self, values: Tensor) -> Tensor:
        """Values ``[K]`` with zeros for the tasks that are not present, whose losses are NaN and mean nothing."""
        return values if self.present is None else torch.where(self.present.to(values.device), values, 0.0)

    def _spread(self, values: Tensor, missing: float = 0.0) -> Tensor:
        """Values of the tasks that are present as values of all K."""
        if self.rows is None:
            return values
        return values.new_full((self.num_tasks, *values.shape[1:]), missing).index_copy_(0, self.rows, values)

    def _one_task(self, parameters: Parameters, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = self.loss_function(parameters, *batch)
        return losses.squeeze(0), {name: value.detach().squeeze(0) for name, value in metrics.items()}


class _TaskMeans:
    """A loss function of groups as one of the tasks that they are of: means over the groups of a task.

    :param task_of_group: ``[G]``, on the host
    """

    def __init__(self, loss_function: LossFunction, task_of_group: Tensor) -> None:
        self.loss_function = loss_function
        _, self.place, self.count = task_of_group.unique(return_inverse=True, return_counts=True)

    def __call__(self, parameters: Parameters, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = self.loss_function(parameters, *batch)
        return self._means(losses), {name: self._means(values) for name, values in metrics.items()}

    def _means(self, values: Tensor) -> Tensor:
        sums = values.new_zeros(len(self.count)).index_add(0, self.place.to(values.device), values)
        return sums / self.count.to(values)
