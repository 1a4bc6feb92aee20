"""The gradients of K critic losses against the gradient of their mean and against K backward passes.

``python -m benchmarks.jacobian``. Twin 3x400 critics on MT10's shapes; the gradients are compared as well.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agents.allocator import keep_freed_memory
from agents.balancing.objective import GradientLayout, TaskObjective
from agents.balancing.task_gradients import Scratch
from agents.balancing.tasks import UpdateContext
from agents.critics import ScalarValue
from agents.networks import NetworkShape, make_network
from agents.policies import Critic
from agents.precision import fastest_exact_float32, float32_products
from agents.selection import Selection
from agents.updates import critic_losses
from benchmarks.timing import Timing, machine, take_turns, timing_table

BASELINE = "gradient of the mean"
JACOBIAN = "K task gradients at once"
PASSES = "K backward passes"
WRITTEN_OUT = "and a Gramian, and a weighted gradient"
LAYER_BY_LAYER = "the same, layer by layer"
STATES, ACTIONS = 39, 4


class Contest:
    """One critic, one batch, and the ways to its gradients.

    :param num_tasks: K
    :param samples: B
    :param hidden_sizes: widths of the critics
    :param network: their architecture
    :param options: its further options
    """

    def __init__(
        self,
        num_tasks: int,
        samples: int,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        network: str = "mlp",
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        normal = partial(torch.randn, generator=generator)
        shape = NetworkShape(STATES + ACTIONS, 1, num_tasks, members=2, generator=generator)
        made = make_network(network, shape, hidden_sizes=tuple(hidden_sizes), **options)
        self.critic = Critic(made, ScalarValue())
        self.batch = (
            normal(num_tasks, samples, STATES),
            normal(num_tasks, samples, ACTIONS).tanh(),
            normal(num_tasks, samples),
            torch.arange(num_tasks),
        )
        self.ones = torch.ones(num_tasks)
        self.scratch = Scratch()

    def objective(self, layerwise: bool = False) -> TaskObjective:
        """A fresh objective: nothing of it is computed."""
        parameters, losses = dict(self.critic.named_parameters()), partial(critic_losses, self.critic)
        context = UpdateContext(Selection.whole(len(self.ones)))
        return TaskObjective(losses, parameters, self.batch, context, GradientLayout(True, layerwise, self.scratch))

    def mean_gradient(self) -> None:
        """What unitary scalarization costs; leaves the gradient in ``.grad``."""
        self.objective().backward(self.ones)

    def task_gradients(self) -> dict[str, Tensor]:
        """Gradient of every task by parameter, each ``[K, *shape]``."""
        return self.objective().task_gradients

    def balanced(self, layerwise: bool) -> None:
        """What a Gramian-based balancer costs without its solver: Gramian, then the weighted gradient in ``.grad``."""
        objective = self.objective(layerwise)
        _ = objective.gramian
        objective.backward(self.ones)

    def backward_passes(self) -> list[tuple[Tensor, ...]]:
        """The usual way: one pass for each task, over one graph."""
        parameters = dict(self.critic.named_parameters())
        losses, _ = critic_losses(self.critic, parameters, *self.batch)
        return [torch.autograd.grad(loss, list(parameters.values()), retain_graph=True) for loss in losses]

    def largest_error(self) -> float:
        """Largest difference between task gradients and backward passes, relative to the largest gradient entry."""
        gradients, passes = self.task_gradients(), self.backward_passes()
        pairs = [
            (gradient[k], alone[i]) for i, gradient in enumerate(gradients.values()) for k, alone in enumerate(passes)
        ]
        largest = max(float(alone.abs().max()) for _, alone in pairs)
        return max(float((mine - alone).abs().max()) for mine, alone in pairs) / largest


def measure(
    num_tasks: int,
    samples: int,
    rounds: int = 9,
    rounds_of_passes: int = 2,
    hidden_sizes: Sequence[int] = (400, 400, 400),
) -> tuple[list[Timing], float]:
    """Time the ways in turns, and compare their results.

    :param rounds: turns of the mean's gradient and of the K gradients
    :param rounds_of_passes: turns of the K backward passes, beside the mean's gradient once more
    :return: timings with their ratio to the gradient of the mean, and the largest error (`Contest.largest_error`)
    """
    keep_freed_memory()  # as MTSAC does
    contest = Contest(num_tasks, samples, hidden_sizes)
    ways: dict[str, Callable[[], object]] = {
        BASELINE: contest.mean_gradient,
        JACOBIAN: contest.task_gradients,
        WRITTEN_OUT: partial(contest.balanced, layerwise=False),
        LAYER_BY_LAYER: partial(contest.balanced, layerwise=True),
    }
    slow: dict[str, Callable[[], object]] = {BASELINE: contest.mean_gradient, PASSES: contest.backward_passes}
    with float32_products(fastest_exact_float32(torch.device("cpu"))):
        return [*take_turns(ways, rounds), take_turns(slow, rounds_of_passes, warmup=1)[1]], contest.largest_error()


def report(rounds: int = 9) -> str:
    """The measured tables in Markdown."""
    tables = []
    for num_tasks, samples in ((10, 128), (50, 128), (10, 32), (50, 32)):
        timings, error = measure(num_tasks, samples, rounds)
        title = f"K = {num_tasks}, B = {samples} (largest relative difference {error:.0e})"
        tables.append(timing_table(title, timings))
    return "\n\n".join(tables)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="turns per contender (default 9)")
    arguments = parser.parse_args()
    print(machine(), report(arguments.rounds), sep="\n\n")


if __name__ == "__main__":
    main()
