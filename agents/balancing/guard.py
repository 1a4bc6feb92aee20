"""Numbers that are not finite: an update stops at the first one, is counted, and too many in a row end the training.

What an update did before that number stays; after it nothing is applied: no step, no temperature, no target critic. So
parameters are always finite, and a balancer sees finite losses only. The answers are read at once, on every device.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agents.errors import NonFiniteUpdate


class UpdateGuard:
    """Looks at the numbers of an update.

    :param most_in_a_row: updates stopped one after the other at which `stuck` is true
    """

    def __init__(self, most_in_a_row: int) -> None:
        self.most = most_in_a_row
        self.skipped = 0  # updates that were stopped
        self.streak = 0  # of them, up to now in a row
        self.stopped = False  # the running update
        self.seen: list[tuple[str, Tensor]] = []  # what the running update has looked at, in order

    def begin(self, **inputs: Tensor) -> None:
        """An update begins.

        :param inputs: what it is computed from, for the error: looked at only when it comes to that
        """
        self.stopped, self.seen = False, list(inputs.items())

    def passes(self, term: str, numbers: Tensor) -> bool:
        """Look at numbers of the running update; False where it has stopped.

        :param term: what they are, for the error
        """
        if not self.stopped:
            self.seen.append((term, numbers))
            # A sum is finite only if all its terms are, and costs a sixth of asking each of them.
            self.stopped = not math.isfinite(numbers.sum().item())
        return not self.stopped

    def refuse(self, term: str) -> None:
        """Stop the running update for a term that was found bad elsewhere."""
        self.seen.append((term, torch.full((), torch.nan)))
        self.stopped = True

    def blame(self, term: str, numbers: Tensor) -> None:
        """Name what made the number bad that the running update has just stopped at.

        :param term: what it is, for the error
        """
        self.seen.insert(len(self.seen) - 1, (term, numbers))

    def end(self) -> bool:
        """An update ends; False if its numbers are to enter no mean."""
        self.skipped += self.stopped
        self.streak = self.streak + 1 if self.stopped else 0
        return not self.stopped

    def stuck(self) -> bool:
        """Whether too many updates in a row were stopped."""
        return self.streak >= self.most

    def culprit(self) -> tuple[str, Tensor] | None:
        """What the latest update met first that is not finite: its name, and the numbers."""
        return next((look for look in self.seen if not bool(look[1].sum().isfinite())), None)

    def error(self, task_names: Sequence[str], update: int, gradient_norms: Callable[[str], Tensor]) -> NonFiniteUpdate:
        """The error that ends the training, with the offending batch.

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
        """The counts: updates stopped in all, and up to now in a row."""
        return {"skipped": self.skipped, "streak": self.streak}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Undo `state_dict`."""
        self.skipped, self.streak = int(state["skipped"]), int(state["streak"])
