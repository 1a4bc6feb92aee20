"""What training computes, as digests: run it before and after a refactoring, and compare the two files.

``python -m benchmarks.fingerprint --out before.json``, then ``--out after.json --against before.json``. Every agent
preset is trained with every balancer below and every network on point masses, in float32, on one thread, uncompiled.
A row holds SHA-256 digests of the policy, the optimizers and temperatures and the balancers' state, and every metric.
Rows of one machine and one PyTorch can be compared; others differ in rounding. A new metric is not a difference.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtrl.build import make_agent, make_training_env
from mtrl.compose import compose
from mtrl.places import require_file

AGENTS = ("mtsac", "mtsac_baseline", "mtsac_regularized", "brc")
NETWORKS = ("mlp", "multihead", "bronet")
SIZES = {"bronet": "[32,32]"}
# With settings that make each method do in two hundred updates what it does in a run: decide, learn, draw graphs.
BALANCERS: dict[str, Sequence[str]] = {
    "unitary": (),
    "famo": (),
    "pcgrad": (),
    "cagrad": (),
    "graddrop": (),
    "moco": (),
    "nash_mtl": (),
    "igb_rl": ("window=10", "learn_after=4", "updates=2", "warmup=0.3"),
    "igb_v1+cagrad": ("base_start=20", "base_window=20"),
    "son_goku:pcgrad": ("refresh_every=8", "warmup=30", "anneal=60", "tau_initial=0.5", "tau=0.001", "beta=0"),
    "static": ("weights=[1,2,1,4]", "weights_on=sampling"),
    "gradnorm": (),
}
PARTS = ("policy", "learning", "balancers")
CLOCKS = "seconds"  # metrics with this in their names differ from run to run

Row = dict[str, Any]  # a digest for each of PARTS, and "metrics": numbers in hexadecimal, by tag


def combinations(
    agents: Sequence[str] = AGENTS, balancers: Sequence[str] = tuple(BALANCERS), networks: Sequence[str] = NETWORKS
) -> list[tuple[str, str, str]]:
    """Every agent with every balancer and every network."""
    return list(product(agents, balancers, networks))


def fingerprint(agent: str, balancer: str, network: str, updates: int = 200) -> Row:
    """Train one combination, on one thread of this process.

    :param updates: vector steps with updates
    """
    torch.set_num_threads(1)
    config = compose(
        [
            *("env=pointmass", "env.horizon=10", f"agent={agent}", f"network={network}", f"balancer={balancer}"),
            *(f"network.hidden_sizes={SIZES.get(network, '[32,24]')}", "agent.samples_per_task=8"),
            *("agent.warmup_steps_per_task=20", f"env.steps_per_task={20 + updates}", "env.workers=0", "device=cpu"),
            *(
                "agent.precision=float32",
                "agent.learning_rate=1e-2",
                "agent.final_learning_rate=1e-3",
                "agent.compile=false",
            ),
            *(f"balancer.options.{option}" for option in BALANCERS.get(balancer, ())),
        ]
    )
    env = make_training_env(config, config.make_suite())
    try:
        model = make_agent(config, env)
        model.float32_mode = "highest"
        model.learn(config.budget(env.num_tasks), log_interval=None)
        parts = model.state()["parts"]
        balancing = {name: parts.pop(name) for name in list(parts) if name.endswith("balancer")}
        digests = [digest(what) for what in (parts.pop("policy"), parts, balancing)]
        metrics = model.metrics.flush(model.task_names)
    finally:
        env.close()
    kept = {tag: float(value).hex() for tag, value in sorted(metrics.items()) if CLOCKS not in tag}
    return {**dict(zip(PARTS, digests, strict=True)), "metrics": kept}


def digest(value: Any) -> str:
    """The first sixteen digits of the SHA-256 of nested tensors, numbers and text; names do not count."""
    found = hashlib.sha256()
    for leaf in _leaves(value):
        found.update(leaf)
    return found.hexdigest()[:16]


def _leaves(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield value.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield repr(value).encode()


def differences(before: Mapping[str, Row], after: Mapping[str, Row]) -> list[str]:
    """One line for every row that only one side has, or that differs in a part or in a metric of the first side."""
    lines = [f"{name}: only {'before' if name in before else 'after'}" for name in sorted(before.keys() ^ after.keys())]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        changed = [part for part in PARTS if old[part] != new[part]]
        changed += [tag for tag, value in old["metrics"].items() if new["metrics"].get(tag) != value]
        if changed:
            lines.append(f"{name}: {', '.join(changed)}")
    return lines


def machine() -> dict[str, str]:
    """What rows must share to be comparable."""
    return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}


def measure(chosen: Sequence[tuple[str, str, str]], updates: int = 200, jobs: int = 1) -> dict[str, Row]:
    """The rows of some combinations, printed as they come.

    :param jobs: processes
    """
    found = {}
    with ProcessPoolExecutor(jobs) as pool:
        for names, row in zip(chosen, pool.map(fingerprint, *zip(*chosen, strict=True), repeat(updates)), strict=False):
            found[" ".join(names)] = row
            print(f"{' '.join(names):45s}", *(row[part] for part in PARTS), digest(row["metrics"]), flush=True)
    return found


def main() -> None:
    """Command line: exit code 1 where two files differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="*", default=AGENTS)
    parser.add_argument("--balancers", nargs="*", default=tuple(BALANCERS))
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--updates", type=int, default=200, help="vector steps with updates (default 200)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--against", type=Path, help="compare with the rows of such a file")
    arguments = parser.parse_args()
    if arguments.out:
        require_file(arguments.out, "--out")
    before = json.loads(arguments.against.read_text(encoding="utf-8")) if arguments.against else None
    chosen = combinations(arguments.agents, arguments.balancers, arguments.networks)
    found = measure(chosen, arguments.updates, arguments.jobs)
    made = {**machine(), "updates": arguments.updates, "rows": found}
    if arguments.out:
        arguments.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if before is not None:
        rows = {name: row for name, row in before["rows"].items() if name in {" ".join(names) for names in chosen}}
        other = [key for key in (*machine(), "updates") if before[key] != made[key]]
        lines = [f"another {key}: rows cannot be compared" for key in other] or differences(rows, found)
        print("\n".join(lines) or f"all {len(found)} rows are equal")
        sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
