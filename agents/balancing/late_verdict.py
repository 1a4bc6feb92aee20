"""Looking at a tensor's values without making the accelerator wait."""

import torch
from torch import Tensor


class LateVerdict:
    """Hands tensors to the host: at once on the CPU; from an accelerator as soon as a copy has arrived.

    An update must not wait for the device, so there the answer belongs to an earlier call, by one update as a rule.
    """

    def __init__(self) -> None:
        self._copies: tuple[Tensor, ...] = ()
        self._arrived: torch.cuda.Event | None = None

    def exchange(self, *tensors: Tensor) -> tuple[Tensor, ...] | None:
        """Give the tensors of this call, get those of the latest call that have arrived; None while there are none."""
        if tensors[0].device.type != "cuda":
            return tensors
        arrived = None
        if self._arrived is not None and self._arrived.query():
            arrived, self._arrived = self._copies, None
        if self._arrived is None:
            self._copies = tuple(tensor.detach().to("cpu", non_blocking=True) for tensor in tensors)
            with torch.cuda.device(tensors[0].device):  # an event belongs to the device that is current
                self._arrived = torch.cuda.Event()
                self._arrived.record()
        return arrived

    def __deepcopy__(self, memo: dict[int, object]) -> "LateVerdict":
        return LateVerdict()
