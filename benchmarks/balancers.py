"""What a balancer costs: one full MTSAC update with it, divided by the same update with ``unitary``.

``python -m benchmarks.balancers``. Meta-World's shapes, 3x400 networks, twin critics; gradient-space methods balance
critic *and* actor, methods that need positive losses the critic alone. Beside each ratio the extra memory at the peak,
and for some methods the ratio when the K gradients come from K backward passes, as in the published programs.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents import MTSAC
from agents.balancers import Balancer, Needs, list_balancers, make_balancer
from agents.balancing.objective import TaskObjective
from agents.balancing.sides import balancer_of_actor
from agents.balancing.task_gradients import JACOBIANS, DenseGradients, TaskGradients
from agents.precision import PRECISIONS, float32_products
from agents.replay import ReplaySample
from benchmarks.timing import machine, markdown, take_turns
from benchmarks.update import ACTIONS, STATES, shapes_env

BASELINE = "unitary"
PUBLISHED_WAY = ("pcgrad", "mgda")  # methods also timed with K backward passes


class BackwardPasses(TaskObjective):
    """Task gradients by K backward passes over one graph."""

    def _differentiate(self) -> tuple[TaskGradients, Tensor, dict[str, Tensor]]:
        losses, metrics = self.loss_function(self.parameters, *self.batch)
        passes = [torch.autograd.grad(loss, list(self.parameters.values()), retain_graph=True) for loss in losses]
        stacked = [torch.stack(rows) for rows in zip(*passes, strict=True)]
        return DenseGradients(self.parameters, dict(zip(self.parameters, stacked, strict=True))), losses, metrics


class PublishedWay(MTSAC):
    """MTSAC whose task gradients cost K backward passes."""

    def _setup_learners(self) -> None:
        super()._setup_learners()
        for learner in (self.critic_learner, self.actor_learner):
            learner.objective = partial(BackwardPasses, learner.losses, learner.parameters)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active and still alive, and remembers the most.

    :ivar peak: bytes
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in inputs:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known or size == 0:
            return
        self._known[address] = weakref.finalize(storage, self._forget, address, size)
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _forget(self, address: int, size: int) -> None:
        self._known.pop(address, None)
        self.alive -= size


def random_batch(num_tasks: int, samples: int, device: str = "cpu") -> tuple[ReplaySample, Tensor]:
    """Transitions of Meta-World's shapes, and the noise of an update ``[2, K, B, A]``."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    sample = ReplaySample(
        states=normal(num_tasks, samples, STATES),
        actions=normal(num_tasks, samples, ACTIONS).tanh(),
        rewards=normal(num_tasks, samples).abs(),
        next_states=normal(num_tasks, samples, STATES),
        terminals=torch.zeros(num_tasks, samples, device=device),
    )
    return sample, normal(2, num_tasks, samples, ACTIONS)


class Contest:
    """One agent whose balancers are exchanged, always on the same batch.

    :param num_tasks: K
    :param samples: B, transitions per task
    :param hidden_sizes: widths of actor and critics
    :param critic_layer_norm: LayerNorm in the critics
    :param device: where they learn
    :param settings: of the agents, such as ``jacobian`` and ``precision``
    """

    def __init__(
        self,
        num_tasks: int,
        samples: int,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        critic_layer_norm: bool = False,
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        self.num_tasks = num_tasks
        self.env = shapes_env(num_tasks)
        self.agents = [
            kind(
                "MultiTaskPolicy",
                self.env,
                batch_size=samples * num_tasks,
                buffer_size=100 * num_tasks,
                policy_kwargs={"hidden_sizes": list(hidden_sizes), "critic_layer_norm": critic_layer_norm},
                device=device,
                seed=0,
                **settings,
            )
            for kind in (MTSAC, PublishedWay)
        ]
        self.sample, self.noise = random_batch(num_tasks, samples, device)

    def call(self, name: str, published_way: bool = False) -> Callable[[], object]:
        """One update with the balancer of that name, as a call without arguments."""
        agent = self.agents[published_way]
        critic = self._balancer(name)
        is_same = Needs.POSITIVE_LOSSES not in critic.needs
        actor_name = name if is_same else BASELINE
        actor = balancer_of_actor(critic, self._balancer(actor_name), (name, actor_name), is_same)

        def update() -> None:
            agent.critic_learner.balancer, agent.actor_learner.balancer = critic, actor
            with float32_products(agent.float32_mode):
                agent.update(self.sample, self.noise)

        return update

    def _balancer(self, name: str) -> Balancer:
        ones = [1.0] * self.num_tasks
        given: dict[str, dict[str, Any]] = {
            "static": {"weights": ones},
            "schedule": {"times": [0.0], "weights": [ones]},
        }
        return make_balancer(name, num_tasks=self.num_tasks, **given.get(name, {}))

    def memory(self, name: str) -> float:
        """Megabytes of tensors at the peak of one update."""
        update = self.call(name)
        update()
        with PeakMemory() as counter:
            update()
        return counter.peak / 1e6

    def close(self) -> None:
        """Close the environment that gave the shapes."""
        self.env.close()


def methods() -> list[str]:
    """Registered methods that work alone, loss space first; one composition."""
    records = sorted(list_balancers(), key=lambda record: (record.family != "loss", record.name != BASELINE))
    alone = [record for record in records if record.family != "scheduler" and "source" not in record.options]
    return [record.name for record in alone] + ["igb_v1+cagrad"]


def measure(num_tasks: int, samples: int, rounds: int, names: Sequence[str], **options: Any) -> list[list[str]]:
    """Rows of the table: name, ratio to unitary, extra megabytes, ratio with K backward passes."""
    contest = Contest(num_tasks, samples, **options)
    contenders = {name: contest.call(name) for name in [BASELINE, *names]}
    timings = {timing.name: timing for timing in take_turns(contenders, rounds)}
    slow = {f"{name}, K passes": contest.call(name, published_way=True) for name in names if name in PUBLISHED_WAY}
    passes = take_turns({BASELINE: contenders[BASELINE], **slow}, rounds=2, warmup=1)
    published = {timing.name: timing.ratio for timing in passes}
    plain = contest.memory(BASELINE)
    rows = []
    for name, timing in timings.items():
        loop = published.get(f"{name}, K passes")
        extra = contest.memory(name) - plain
        rows.append([name, f"{timing.ratio:.2f}", f"{extra:.0f}", f"{loop:.1f}" if loop else ""])
    contest.close()
    return rows


def report(
    rounds: int = 7, samples: int = 128, tasks: Sequence[int] = (10, 50), names: Sequence[str] = (), **settings: Any
) -> str:
    """The measured tables in Markdown."""
    tables = []
    for num_tasks in tasks:
        header = [f"K = {num_tasks}, B = {samples}", "time / unitary", "extra memory, MB", "with K backward passes"]
        tables.append(markdown(header, measure(num_tasks, samples, rounds, names or methods(), **settings)))
    return "\n\n".join(tables)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="methods to time (default all)")
    parser.add_argument("--rounds", type=int, default=7, help="turns per method (default 7)")
    parser.add_argument("--tasks", type=int, nargs="*", default=[10, 50], help="numbers of tasks (default 10 50)")
    parser.add_argument("--samples", type=int, default=128, help="transitions per task (default 128)")
    parser.add_argument("--jacobian", choices=JACOBIANS, default="auto", help="as agent.jacobian (default auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="as agent.precision")
    arguments = parser.parse_args()
    settings = {"jacobian": arguments.jacobian, "precision": arguments.precision}
    table = report(arguments.rounds, arguments.samples, arguments.tasks, arguments.methods, **settings)
    print(machine(), f"jacobian={arguments.jacobian}, {arguments.precision}", table, sep="\n\n")


if __name__ == "__main__":
    main()
