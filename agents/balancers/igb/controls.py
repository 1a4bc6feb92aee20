"""Controls of IGB-RL that need a finished run of it: its weights without its agent."""

import zlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.balancing.allocation import ShareWeighting
from agents.balancing.registry import register_balancer
from agents.balancing.tasks import Progress
from agents.errors import ConfigurationError
from agents.files.agent_file import AgentFileError, read_agent


class RecordedWeights(ShareWeighting):
    """Weights of a finished run of `igb_rl`, or of another method that decides, from its ``agent.zip``.

    :param source: folder of a run of ``igb_rl``, or its ``agent.zip``
    :param weights_on: ``sampling`` draws each task's samples in proportion; ``loss`` multiplies the losses
    :cvar average: hold the mean over time instead of following the record
    :cvar permuted: give every task the weights of another
    """

    name: ClassVar[str]
    average: ClassVar[bool] = False
    permuted: ClassVar[bool] = False
    times: Tensor
    schedule: Tensor
    origin: Tensor

    def __init__(
        self, num_tasks: int, source: str, weights_on: str = "sampling", generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_tasks, self.name, weights_on, generator)
        times, weights = read_record(source, num_tasks)
        if self.average:
            times, weights = times[:1], weights.mean(0, keepdim=True)
        if self.permuted:
            # One random cycle through all tasks: none keeps its own weights.
            order = torch.randperm(num_tasks, generator=self.generator)
            weights = weights[:, order.roll(1)[order.argsort()]]
        self.register_buffer("times", times)  # share of the budget at each decision, [n]
        self.register_buffer("schedule", weights)  # [n, K]
        self.register_buffer("origin", torch.tensor(zlib.crc32(str(source).encode())))  # tells sources apart

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A saved record stands, whatever has become of the run at its source; another source is another record."""
        times, schedule, origin = (prefix + name for name in ("times", "schedule", "origin"))
        if int(state_dict.get(origin, self.origin)) != int(self.origin):
            state_dict |= {times: self.times, schedule: self.schedule, origin: self.origin}
        count = len(state_dict[times])
        if count > 0 and state_dict[schedule].shape == (count, self.num_tasks):
            self.times, self.schedule = self.times.new_empty(count), self.schedule.new_empty(count, self.num_tasks)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def shares_now(self, progress: Progress | None) -> Tensor:
        used = self.times.new_tensor([0.0 if progress is None else progress.budget_used])
        latest = torch.searchsorted(self.times, used, right=True) - 1
        return self.schedule.index_select(0, latest.clamp(min=0)).squeeze(0).cpu()


def read_record(source: str, num_tasks: int) -> tuple[Tensor, Tensor]:
    """Share of the budget ``[n]`` and weights ``[n, K]`` of all decisions of a run of `igb_rl`.

    :param source: the run's folder, or its ``agent.zip``
    :raises ConfigurationError: if there is no such record, or not one of K tasks
    """
    path = Path(source)
    path = path / "agent.zip" if path.is_dir() else path
    try:
        _, tensors = read_agent(path)
    except AgentFileError as error:
        raise ConfigurationError(f"source must be a run of igb_rl: {error}") from error
    state = tensors.get("critic_balancer", {})
    record = next((state[name] for name in state if name.endswith("record._extra_state")), None)
    if record is None or len(record) == 0 or record.shape[1] != 1 + 4 * num_tasks:
        raise ConfigurationError(f"source must be a run of igb_rl with {num_tasks} tasks, and '{path}' is none.")
    return record[:, 0].float(), record[:, 1 : 1 + num_tasks].float()


@register_balancer(
    "igb_rl_frozen",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="control of igb_rl: the time average of the weights of a finished run",
)
class FrozenAverage(RecordedWeights):
    """The mean over time of the weights that `igb_rl` executed in a finished run, constant from the first update on.

    If it does as well as that run, what counts is how much weight each task got, and not when.
    """

    name = "igb_rl_frozen"
    average = True


@register_balancer(
    "igb_rl_permuted",
    family="loss",
    cost="O(1)",
    paper="arXiv 2307.15429",
    summary="control of igb_rl: the weights of a finished run, each given to another task",
)
class PermutedRecord(RecordedWeights):
    """The weights that `igb_rl` executed in a finished run, at the same shares of the budget, for the wrong tasks.

    If it does as well as that run, what counts is that weights moved, and not which task they favoured. The order is
    drawn from the run's seed; no task keeps its own weights.
    """

    name = "igb_rl_permuted"
    permuted = True
