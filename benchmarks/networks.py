"""What the architectures cost: K task gradients against the gradient of the mean, and an MLP of equal parameters.

``python -m benchmarks.networks``. Twin critics of every architecture with its default options on MT10's shapes, beside
an MLP of as many parameters (``network.options.match``); then whole updates of agents. Times are processor time on one
thread, which other work on the machine changes less than the time on the clock.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from agents import MTSAC
from agents.allocator import keep_freed_memory
from agents.networks import NETWORKS
from agents.precision import fastest_exact_float32, float32_products
from benchmarks.jacobian import Contest
from benchmarks.timing import Timing, machine, markdown, take_turns
from benchmarks.update import fill, shapes_env

BASELINE = "mlp"
MATCHED = "mlp of as many parameters"
MEAN, JACOBIAN, MATCHED_MEAN = "gradient of the mean", "K task gradients", f"gradient of the mean, {MATCHED}"
SIZES = {"soft_modules": (256, 256), "bronet": (256, 256)}
USUAL = (400, 400, 400)


def gradients(name: str, rounds: int, num_tasks: int = 10, samples: int = 128) -> tuple[list[Timing], float]:
    """Gradient of the mean, K task gradients, and the mean's gradient of a matched MLP, in turns.

    :return: timings with their ratio to the first, and the largest error of the task gradients
    """
    sizes = SIZES.get(name, USUAL)
    contest = Contest(num_tasks, samples, sizes, name)
    ways: dict[str, Callable[[], object]] = {MEAN: contest.mean_gradient, JACOBIAN: contest.task_gradients}
    if name != BASELINE:
        ways[MATCHED_MEAN] = Contest(num_tasks, samples, sizes, BASELINE, match=name).mean_gradient
    return take_turns(ways, rounds, clock=time.process_time), contest.largest_error()


def updates(name: str, rounds: int, num_tasks: int = 10, samples: int = 128, balancer: str = "unitary") -> list[Timing]:
    """Whole updates of an agent, and of one whose networks are matched MLPs, in turns."""
    env = shapes_env(num_tasks)

    def agent(network: str, **options: Any) -> MTSAC:
        policy = {"network": network, "hidden_sizes": list(SIZES.get(name, USUAL)), "network_kwargs": options}
        model = MTSAC(
            "MultiTaskPolicy", env, batch_size=samples * num_tasks, buffer_size=500 * num_tasks, balancer=balancer,
            policy_kwargs=policy, device="cpu", seed=0,
        )  # fmt: skip
        fill(model, 500)
        return model

    models = {MATCHED: agent(BASELINE, match=name), name: agent(name)}
    calls: dict[str, Callable[[], object]] = {
        key: partial(model.train, gradient_steps=1, batch_size=model.batch_size) for key, model in models.items()
    }
    timings = take_turns(calls, rounds, clock=time.process_time)
    env.close()
    return timings


def report(rounds: int = 9, names: Sequence[str] = tuple(NETWORKS)) -> str:
    """The measured table in Markdown."""
    keep_freed_memory()  # as MTSAC does
    torch.set_num_threads(1)
    rows = []
    for name in names:
        with float32_products(fastest_exact_float32(torch.device("cpu"))):
            (mean, jacobian, *matched), error = gradients(name, rounds)
        ratios = [f"{matched[0].ratio:.2f}", f"{updates(name, rounds)[1].ratio:.2f}"] if matched else ["-", "-"]
        rows.append([name, f"{mean.seconds * 1e3:.0f}", f"{jacobian.ratio:.2f}", f"{error:.0e}", *ratios])
    header = [
        "K = 10, B = 128, twin critics",
        "gradient of the mean, ms",
        "K task gradients : it",
        "largest error",
        f"{MATCHED} : it",
        f"whole update : that of an {MATCHED}",
    ]
    return markdown(header, rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="turns per contender (default 9)")
    parser.add_argument("--networks", nargs="*", default=tuple(NETWORKS))
    arguments = parser.parse_args()
    table = report(arguments.rounds, arguments.networks)
    print(machine(), table, sep="\n\n")


if __name__ == "__main__":
    main()
