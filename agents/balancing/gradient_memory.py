"""Task gradients that a method remembers, as state of the module."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents.balancing.balancer import Balancer
from agents.balancing.tasks import Tasks


class GradientMemory(nn.Module):
    """Moving averages of the K task gradients ``rows [K, P]``; empty until the first update tells P.

    :param num_tasks: K
    :ivar clocks: updates of every task ``[K]``, for averages whose step depends on time; the method counts
    :ivar num_parameters: P, where the agent has said it: then a state of another size is refused
    """

    task_buffers: ClassVar[dict[str, int]] = {"rows": 1, "clocks": 1}
    rows: Tensor
    clocks: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(num_tasks, 0))
        self.register_buffer("clocks", torch.zeros(num_tasks))
        self.num_parameters: int | None = None

    @torch.no_grad()
    def blend(self, tasks: Tasks, share: float | Tensor, scale: Tensor | None = None) -> Tensor:
        """Move the memory towards the task gradients by a share of the way, from zero at the start; returns it.

        The memory is the only ``[K, P]`` numbers there are: the gradients come block by block. Ask `gradient_norms`
        first: what is not finite must not enter.

        :param share: one for all, or one for every task ``[K]``
        :param scale: factor of every task's gradient ``[K]``
        """
        if self.rows.shape[-1] == 0:
            shapes = [rows.shape for _, rows in tasks.blocks()]
            self.rows = self.rows.new_zeros(*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        weight = share.to(self.rows).unsqueeze(-1) if isinstance(share, Tensor) else share
        for columns, rows in tasks.blocks():
            self.rows[..., columns].lerp_((rows if scale is None else rows * scale.unsqueeze(-1)).to(self.rows), weight)
        return self.rows.to(tasks.losses)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        clocks = state_dict.get(f"{prefix}clocks")
        if clocks is not None and bool((clocks < 0).any()):
            error_msgs.append(f"{prefix}clocks are negative: {clocks.tolist()}")
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None:
            num_tasks, size = self.rows.shape[-2], self.num_parameters
            expected = (num_tasks, saved.shape[-1] if size is None and saved.ndim else size)
            if saved.shape not in ((num_tasks, 0), expected):
                wanted = f"not that of {num_tasks} gradients in {'any number of' if size is None else size} parameters"
                error_msgs.append(f"{prefix}rows has shape {list(saved.shape)}, {wanted}")
                return
            self.rows = self.rows.new_zeros(saved.shape)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def expect_parameters(balancer: nn.Module, num_parameters: int) -> None:
    """Tell the gradient memories of a balancer how many parameters there are, so that they take no other state.

    :param balancer: any module
    :param num_parameters: P
    """
    for module in balancer.modules():
        if isinstance(module, GradientMemory):
            module.num_parameters = num_parameters


def gradient_norms(balancer: Balancer, tasks: Tasks) -> Tensor:
    """Norms of the task gradients ``[K]``.

    :raises BalancerError: for a gradient that is not finite
    """
    balancer.refuse_gradients(tasks.gradient_norms, tasks)
    return tasks.gradient_norms


def only_gradient(tasks: Tasks) -> Tensor:
    """The gradient ``[P]`` of a single task."""
    return torch.cat([rows[..., 0, :].clone() for _, rows in tasks.blocks()], dim=-1)
