"""What an update costs when half of the tasks are active: ``python -m benchmarks.scheduling``.

Whole updates of MTSAC as the training loop makes them (samples, TD targets, critic, actor, temperatures) under
SON-GOKU, with the groups held still: all tasks in one group, or in two halves that take turns.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch

from agents import MTSAC
from benchmarks.timing import Timing, machine, take_turns, timing_table
from benchmarks.update import fill, shapes_env

INNER = ("unitary", "pcgrad", "moco")


def measure(
    inner: str,
    rounds: int = 15,
    num_tasks: int = 10,
    samples: int = 128,
    hidden_sizes: Sequence[int] = (400, 400, 400),
    updates: int = 2,
) -> list[Timing]:
    """Time updates of all tasks and of halves in turns.

    :param inner: method within the groups
    :param rounds: turns of each
    :param num_tasks: K
    :param samples: B
    :param hidden_sizes: widths of actor and critics
    :param updates: in a turn; an even number gives both halves theirs
    """
    env = shapes_env(num_tasks)
    halves = torch.arange(num_tasks) % 2 == torch.arange(2)[:, None]
    agents = {}
    for name, groups in (("all tasks", torch.ones(1, num_tasks, dtype=torch.bool)), ("two halves in turn", halves)):
        agent = MTSAC(
            "MultiTaskPolicy", env, batch_size=samples * num_tasks, buffer_size=500 * num_tasks,
            balancer=f"son_goku:{inner}", balancer_kwargs={"refresh_every": 10**9},
            policy_kwargs={"hidden_sizes": list(hidden_sizes)}, device="cpu", seed=0,
        )  # fmt: skip
        agent.critic_balancer.groups = groups
        fill(agent, 500)
        agents[f"son_goku:{inner}, {name}"] = agent
    timings = take_turns({name: partial(agent.train, updates) for name, agent in agents.items()}, rounds)
    env.close()
    return timings


def report(rounds: int = 15) -> str:
    """The measured tables in Markdown."""
    title = "two updates: K = 10, B = 128, 3x400, twin critics"
    return "\n\n".join(timing_table(title, measure(inner, rounds)) for inner in INNER)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default 15)")
    arguments = parser.parse_args()
    print(machine(), report(arguments.rounds), sep="\n\n")


if __name__ == "__main__":
    main()
