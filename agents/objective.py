"""K task losses of one set of parameters, and their K gradients at the price of one backward pass.

A batch is stratified by task and a sample belongs to one task only, so the K gradients need the same matrix products
as the gradient of the mean, grouped by task. Layers that take grouped parameters (agents/layers.py) give every task its
own copy of the parameters, without memory, and one ordinary backward pass returns the gradient of every copy; any other
loss is differentiated by ``vmap(grad(loss))``, which computes the same at a higher cost per call.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]
LossFunction = Callable[..., tuple[Tensor, dict[str, Tensor]]]


class TaskObjective:
    """Task losses of one batch; everything is computed on first touch and kept.

    :param loss_function: pure function ``(parameters, *batch) -> (losses [G], metrics)`` of G groups of samples;
        every metric has G as its first dimension
    :param parameters: the P balanced parameters by name
    :param batch: tensors with the K tasks as first dimension
    :param grouped: whether the loss function takes grouped parameters: `takes_grouped_parameters` of its network
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
        grouped: bool = False,
        step: int = 0,
        progress: Any = None,
        temperatures: Tensor | None = None,
        learning_rate: float | None = None,
        task_names: Sequence[str] = (),
    ) -> None:
        self.loss_function = loss_function
        self.parameters = dict(parameters)
        self.batch = tuple(batch)
        self.grouped = grouped
        self.step = step
        self.progress = progress
        self.temperatures = temperatures
        self.learning_rate = learning_rate
        self.task_names = tuple(task_names)
        self._graph: Tensor | None = None  # the losses with their graph, where the plain forward pass was made
        self._losses: Tensor | None = None
        self._metrics: dict[str, Tensor] = {}
        self._task_gradients: dict[str, Tensor] | None = None

    @property
    def num_tasks(self) -> int:
        return len(self.batch[0])

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

    @property
    def task_gradients(self) -> dict[str, Tensor]:
        """Gradient of every task by parameter name, each ``[K, *shape]``."""
        if self._task_gradients is None:
            self._task_gradients = self._by_copies() if self.grouped else self._by_vmap()
        return self._task_gradients

    @cached_property
    def gramian(self) -> Tensor:
        """Inner products of the task gradients ``[K, K]``, accumulated over parameters without a ``[K, P]`` copy."""
        blocks = [_task_rows(gradient) for gradient in self.task_gradients.values()]
        return torch.stack([torch.bmm(rows, rows.mT).sum(0) for rows in blocks]).sum(0)

    @cached_property
    def jacobian(self) -> Tensor:
        """Task gradients as rows ``[K, P]``, parameters in the order of `parameters`."""
        return torch.cat([gradient.flatten(1) for gradient in self.task_gradients.values()], dim=1)

    def backward(self, weights: Tensor) -> None:
        """Set ``.grad`` of the parameters to ``(1/K) sum_k weights[k] g_k``.

        Uses the task gradients if a balancer has asked for them, else one weighted backward pass.

        :param weights: ``[K]``
        """
        mean_weights = weights.detach() / self.num_tasks
        if self._task_gradients is not None:
            gradients: Sequence[Tensor] = [
                torch.matmul(mean_weights.to(gradient.dtype), _task_rows(gradient)).view(gradient.shape[1:])
                for gradient in self._task_gradients.values()
            ]
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
        return self.loss_function(self.parameters, *self.batch)[0]

    def _forward(self) -> None:
        losses, metrics = self.loss_function(self.parameters, *self.batch)
        self._graph = losses
        self._keep(losses, metrics)

    def _by_copies(self) -> dict[str, Tensor]:
        copies = {
            name: parameter.detach().expand(self.num_tasks, *parameter.shape).requires_grad_()
            for name, parameter in self.parameters.items()
        }
        losses, metrics = self.loss_function(copies, *self.batch)
        gradients = torch.autograd.grad(losses.sum(), list(copies.values()))
        self._keep(losses, metrics)
        return dict(zip(copies, gradients, strict=True))

    def _by_vmap(self) -> dict[str, Tensor]:
        over_tasks = torch.func.vmap(
            torch.func.grad_and_value(self._one_task, has_aux=True), in_dims=(None, *(0 for _ in self.batch))
        )
        detached = {name: parameter.detach() for name, parameter in self.parameters.items()}
        gradients, (losses, metrics) = over_tasks(detached, *(tensor.unsqueeze(1) for tensor in self.batch))
        self._keep(losses, metrics)
        return gradients

    def _keep(self, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        self._losses = losses.detach()
        self._metrics = {name: value.detach() for name, value in metrics.items()}

    def _one_task(self, parameters: Parameters, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = self.loss_function(parameters, *batch)
        return losses.squeeze(0), {name: value.detach().squeeze(0) for name, value in metrics.items()}


def _task_rows(gradient: Tensor) -> Tensor:
    """``[K, E, ...] -> [E, K, M]`` without a copy: task gradients may lie in memory member by member."""
    return gradient.reshape(*gradient.shape[:2], -1).transpose(0, 1)
