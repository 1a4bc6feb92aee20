"""``python -m benchmarks``: every table of docs/performance.md, on this machine."""

import argparse
from collections.abc import Callable

from benchmarks import checkpoint, env_steps, footprint, jacobian, networks, pipeline, ppo, scheduling, update
from benchmarks.timing import machine

REPORTS: dict[str, Callable[[], str]] = {
    "update": update.report,
    "ppo": ppo.report,
    "jacobian": jacobian.report,
    "networks": networks.report,
    "scheduling": scheduling.report,
    "env_steps": lambda: env_steps.table(env_steps.measure()),
    "footprint": footprint.report,
    "checkpoint": checkpoint.report,
    "pipeline": pipeline.report,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(REPORTS)}; without a name: all")
    names = parser.parse_args().names or list(REPORTS)
    for name in names:
        if name not in REPORTS:
            parser.error(f"there is no benchmark '{name}': choose from {', '.join(REPORTS)}")
    print(machine())
    for name in names:
        print(f"\n{REPORTS[name]()}", flush=True)


if __name__ == "__main__":
    main()
