"""``mtrl``: what can be chosen, and how good a trained agent is."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mtrl.launch import guarded
from mtrl.shadowing import refuse_foreign_packages


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command ``mtrl``; returns its exit code."""
    options = _parser().parse_args(arguments)
    return guarded(partial(_run, options), debug=options.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mtrl", description="Multitask RL: train one agent on many tasks.")
    commands = parser.add_subparsers(metavar="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")

    listing = commands.add_parser("list", parents=[common], help="what can be chosen in a config")
    listing.add_argument("what", choices=sorted(_LISTS))
    listing.set_defaults(command=_list)

    evaluation = commands.add_parser("evaluate", parents=[common], help="success per task of a trained agent")
    evaluation.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a run")
    evaluation.add_argument("--episodes", type=int, default=50, help="per task (default: 50, every goal once)")
    evaluation.add_argument("--seed", type=int, help="of the goals (default: the run's, the goals of its training)")
    evaluation.add_argument("--workers", type=int, help="simulating processes (default: one per core)")
    evaluation.add_argument("--video", action="store_true", help="also write an MP4 with an episode of every task")
    evaluation.set_defaults(command=_evaluate)
    return parser


def _run(options: argparse.Namespace) -> None:
    refuse_foreign_packages()
    options.command(options)


def _evaluate(options: argparse.Namespace) -> None:
    """Evaluate the agent of a run; the table is printed and kept in the run's folder."""
    from agents import MTSAC
    from mtrl.console import print_results, say, without_harm
    from mtrl.evaluation import evaluate
    from mtrl.report import write_results
    from mtrl.run_folder import AGENT_FILE, RunFolder

    folder = RunFolder.existing(options.run)
    config = folder.config()
    suite = config.make_suite()
    seed = config.evaluation_seed if options.seed is None else options.seed
    model = MTSAC.load(folder.path / AGENT_FILE, device=config.device)
    horizon = config.evaluation.horizon
    result = evaluate(model, suite, options.episodes, seed=seed, workers=options.workers, horizon=horizon)
    place = folder.path / "evaluations" / f"seed{seed}-episodes{options.episodes}"
    place.mkdir(parents=True, exist_ok=True)
    write_results(result, place)
    print_results(result.to_frame(), f"{folder.path.name}, goals of seed {seed}")
    say(f"Written to {place}")
    if options.video:
        from mtrl.video import write_mosaic

        video = place / "mosaic.mp4"
        if without_harm("The video", write_mosaic, model, suite, video, seed=seed, horizon=horizon):
            say(f"Video: {video}")


def _list(options: argparse.Namespace) -> None:
    from rich.table import Table

    from mtrl.console import print_table

    header, rows = _LISTS[options.what]()
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    print_table(table)


Listing = tuple[list[str], list[list[str]]]


def _balancers() -> Listing:
    from agents.balancers import list_balancers

    rows = [[record.name, record.family, record.cost, record.summary, record.paper] for record in list_balancers()]
    return ["balancer", "family", "cost", "what it does", "paper"], rows


def _networks() -> Listing:
    from agents.networks import NETWORKS

    rows = [[name, (network.__doc__ or "").strip().splitlines()[0]] for name, network in sorted(NETWORKS.items())]
    return ["network", "what it is"], rows


def _suites() -> Listing:
    from envs import list_suites

    return ["suite", "what it is"], [[name, line] for name, line in list_suites().items()]


_LISTS = {"balancers": _balancers, "networks": _networks, "suites": _suites}


if __name__ == "__main__":
    sys.exit(main())
