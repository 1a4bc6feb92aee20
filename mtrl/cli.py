"""``mtrl``: train, list choices, evaluate agents, compare methods, tune task weights, run sweeps."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl.errors import ConfigError, exit_code, sentence
from mtrl.launch import guarded, train_command
from mtrl.plugins import load_plugins, setting_of, take_plugins
from mtrl.shadowing import refuse_foreign_packages

if TYPE_CHECKING:
    from envs import TaskSuite
    from mtrl.compare import Comparison
    from mtrl.config import RunConfig
    from mtrl.evaluation import EvaluationResult, Policy

    Chosen = tuple[str, RunConfig, Policy, Path]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command ``mtrl``; returns its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["train"]:  # all that follows is for Hydra, --help among it
        train_command(words[1:])
    try:
        words, plugins = take_plugins(words)
    except ConfigError as error:
        print(sentence(error), file=sys.stderr)
        return exit_code(error)
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    options.plugins = plugins
    if rest:  # argparse takes positional arguments from one place alone; settings may stand after options too
        if unknown := [word for word in rest if word.startswith("-") or "overrides" not in options]:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        options.overrides += rest
    return guarded(partial(_run, options), debug=options.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mtrl", description="Multitask RL: train one agent on many tasks.")
    commands = parser.add_subparsers(dest="verb", metavar="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument(  # taken before the others are looked at: also written plugins=[myrl], as train.py has it
        "--plugins", metavar="MODULES", help="modules of your own to import, such as myrl,other; or plugins=[myrl]"
    )

    commands.add_parser("train", help="train one agent: what train.py does in a checkout; mtrl train --help tells more")
    listing = commands.add_parser("list", parents=[common], help="what can be chosen in a config")
    listing.add_argument("what", choices=sorted(_LISTS))
    listing.set_defaults(command=_list)

    evaluation = commands.add_parser("evaluate", parents=[common], help="success per task of a trained agent")
    evaluation.add_argument("run", type=Path, nargs="?", metavar="RUN_DIR", help="the folder of a run")
    evaluation.add_argument(
        "--pretrained", metavar="NAME", help="a policy that came with the toolkit, instead of a run"
    )
    evaluation.add_argument("--episodes", type=int, default=50, help="per task (default: 50, every goal once)")
    evaluation.add_argument("--seed", type=int, help="of the goals (default: the run's, the goals of its training)")
    evaluation.add_argument(
        "--goal-seeds", type=int, metavar="N", help="also on the goals of N other seeds, beside those of the training"
    )
    evaluation.add_argument("--workers", type=int, help="simulating processes (default: one per core)")
    evaluation.add_argument("--video", action="store_true", help="also write an MP4 with an episode of every task")
    evaluation.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the results (default: evaluations/... in the run's folder)"
    )
    evaluation.set_defaults(command=_evaluate)

    exporting = commands.add_parser("export", parents=[common], help="the policy of a run as a small file with a card")
    exporting.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a run")
    exporting.add_argument("--out", type=Path, default=Path("policy.zip"), help="file to write (default: policy.zip)")
    exporting.add_argument("--episodes", type=int, default=50, help="per task, for the card (default: 50)")
    exporting.add_argument("--workers", type=int, help="simulating processes (default: one per core)")
    exporting.set_defaults(command=_export)

    data = commands.add_parser("export-dataset", parents=[common], help="episodes of a policy as a Minari dataset")
    data.add_argument("run", type=Path, nargs="?", metavar="RUN_DIR", help="the folder of the run that acts")
    data.add_argument("--pretrained", metavar="NAME", help="a policy that came with the toolkit, instead of a run")
    data.add_argument(
        "--expert", nargs="+", metavar="TASK", help="Meta-World's scripted experts in these tasks, or in a suite: mt10"
    )
    data.add_argument("--name", required=True, help="of the dataset, with a version: mt10/expert-v0")
    data.add_argument("--episodes", type=int, default=50, help="per task (default: 50, every goal once)")
    data.add_argument("--seed", type=int, help="of the goals (default: the run's, the goals of its training; 0)")
    data.add_argument("--stochastic", action="store_true", help="draw actions instead of taking the mean ones")
    data.add_argument("--workers", type=int, help="simulating processes (default: one per core)")
    data.add_argument("--out", type=Path, metavar="FOLDER", help="of all datasets (default: ~/.minari/datasets)")
    data.set_defaults(command=_export_dataset)

    comparison = commands.add_parser(
        "compare", parents=[common], help="a report: which method is better, and by how much"
    )
    comparison.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders of them")
    comparison.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (default: report)")
    comparison.add_argument("--baseline", metavar="METHOD", help="what the others are compared with (default: unitary)")
    comparison.add_argument("--allow-mixed", action="store_true", help="take runs of different protocols too")
    comparison.add_argument("--labels", nargs="+", default=[], metavar="METHOD=NAME", help="other names for methods")
    comparison.add_argument("--worst", type=int, metavar="K", help="worst tasks of a run (default: a fifth of them)")
    comparison.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    comparison.add_argument(
        "--primary", metavar="MEASURE", help="primary outcome, declared beforehand: final, worst, auc or per_minute"
    )
    comparison.add_argument(
        "--factors", metavar="A,B", help="effects of two settings and their interaction: agent.critic,balancer"
    )
    comparison.add_argument("--reference", metavar="NAME", help="published results to show beside: bests")
    comparison.add_argument("--by-protocol", action="store_true", help="a part for each suite and protocol of the runs")
    comparison.set_defaults(command=_compare)
    _add_tune(commands, common)
    return parser


def _add_tune(commands: Any, common: argparse.ArgumentParser) -> None:
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "overrides", nargs="*", metavar="SETTING=VALUE", help="as train.py takes them: env=mt10 seed=3"
    )
    place = settings.add_argument_group("where it runs (Ray, the extra `tune`)")
    place.add_argument("--workers", type=int, help="runs at a time on this machine (default: one per core)")
    place.add_argument("--cpus", type=float, default=1.0, help="cores of a run (default: 1)")
    place.add_argument("--gpus", type=float, default=0.0, help="GPUs of a run; 0.25 lets four share one (default: 0)")
    place.add_argument("--address", help="of a running Ray cluster, or auto (default: start Ray here)")

    place.add_argument(
        "--storage", metavar="URI",
        help="folder or bucket (s3://bucket/path) that run folders travel through where nodes share no disk",
    )  # fmt: skip

    search = commands.add_parser(
        "tune", parents=[common, settings], help="search task weights with a population of runs"
    )
    search.add_argument("--out", type=Path, default=Path("tune"), help="folder of the search (default: tune)")
    search.add_argument("--resume", action="store_true", help="resume the search in --out")
    search.add_argument("--takeover", action="store_true", help="resume where the owner, on another host, is dead")
    search.add_argument("--population", type=int, default=8, help="members (default: 8)")
    search.add_argument("--algorithm", choices=("pbt", "pb2", "random"), default="pbt", help="default: pbt")
    search.add_argument("--intervals", type=int, default=10, help="between which members are copied (default: 10)")
    search.add_argument(
        "--metric", choices=("mean_success", "worst_success", "mean_return"), default="mean_success",
        help="of training episodes, ties broken by the worst task (default: mean_success)",
    )  # fmt: skip
    search.add_argument("--quantile", type=float, default=0.25, help="share that is replaced (default: 0.25)")
    search.add_argument(
        "--floor", type=float, default=0.05, help="least weight of a task, 1 being equal (default: 0.05)"
    )
    search.add_argument(
        "--weights-on", choices=("loss", "sampling"), default="loss",
        help="weigh the losses, or sample tasks in proportion (default: loss)",
    )  # fmt: skip
    search.add_argument("--also", nargs="+", default=[], metavar="SETTING", help="learning_rate, target_entropy")
    search.add_argument(
        "--baselines", nargs="+", default=[], metavar="BALANCER", help="trained for N seeds each afterwards"
    )
    search.set_defaults(command=_tune)

    grid = commands.add_parser("sweep", parents=[common, settings], help="runs of every combination: seed=1,2,3")
    grid.set_defaults(command=_sweep)


def _tune(options: argparse.Namespace) -> None:
    from mtrl.tune.commands import tune

    tune(options)


def _sweep(options: argparse.Namespace) -> None:
    from mtrl.tune.commands import sweep

    sweep(options)


def _run(options: argparse.Namespace) -> None:
    refuse_foreign_packages()
    load_plugins(options.plugins)
    if options.plugins and "overrides" in options and not getattr(options, "resume", False):
        options.overrides.append(setting_of(options.plugins))
    options.command(options)


def _evaluate(options: argparse.Namespace) -> None:
    """Evaluate a policy; the table is printed, then kept: in the run's folder, or where ``--out`` says."""
    from mtrl.console import print_results, say, without_harm
    from mtrl.run_report import write_results

    chosen = _chosen(options)
    if options.goal_seeds is not None:
        _evaluate_unseen(options, chosen)
        return
    name, config, model, home = chosen
    seed = config.evaluation_seed if options.seed is None else options.seed
    place = options.out or home / "evaluations" / f"seed{seed}-episodes{options.episodes}"
    _require_place(place)
    if options.video:
        from mtrl.video import require_imageio, write_mosaic

        require_imageio()
    suite = config.make_suite()
    result = _measure(options, chosen, suite, seed)
    print_results(result.to_frame(), f"{name}, goals of seed {seed}")
    place.mkdir(parents=True, exist_ok=True)
    write_results(result, place)
    say(f"Written to {place}")
    if options.video:
        video = place / "mosaic.mp4"
        if without_harm("The video", write_mosaic, model, suite, video, seed=seed, horizon=config.evaluation.horizon):
            say(f"Video: {video}")


def _evaluate_unseen(options: argparse.Namespace, chosen: "Chosen") -> None:
    """Evaluate on the goals of the training and on those of other seeds, one table over both."""
    from mtrl.console import print_rows, say
    from mtrl.run_report import write_results
    from mtrl.unseen_goals import UnseenGoals, refuse_endless_goals, table_rows, unseen_seeds

    if options.seed is not None or options.video:
        raise ConfigError("--goal-seeds chooses the seeds itself and films nothing: leave --seed and --video out.")
    name, config, _, home = chosen
    folder = options.out or home / "evaluations"
    _require_place(folder)
    suite, seeds = config.make_suite(), unseen_seeds(config.seed, options.goal_seeds)
    refuse_endless_goals(suite)
    results = {seed: _measure(options, chosen, suite, seed) for seed in (config.seed, *seeds)}
    found = UnseenGoals(results[config.seed], {seed: results[seed] for seed in seeds})
    say(f"{name}: goals of its training (seed {config.seed}), and of seeds {seeds[0]} to {seeds[-1]}.")
    print_rows(*table_rows(found))
    for seed, result in results.items():
        place = folder / f"seed{seed}-episodes{options.episodes}"
        place.mkdir(parents=True, exist_ok=True)
        write_results(result, place)
    say(f"Written to {found.write(folder)}")


def _measure(options: argparse.Namespace, chosen: "Chosen", suite: "TaskSuite", seed: int) -> "EvaluationResult":
    from mtrl.evaluation import evaluate

    _, config, model, _ = chosen
    horizon, workers = config.evaluation.horizon, options.workers
    return evaluate(model, suite, options.episodes, seed=seed, workers=workers, horizon=horizon)


def _require_place(folder: Path) -> None:
    """:raises ConfigError: if the results of an evaluation cannot be written there, or would replace those of a run"""
    from mtrl.places import require_folder
    from mtrl.run_folder import RECORD_FILE

    if (folder / RECORD_FILE).exists():
        raise ConfigError(f"--out must be a folder for the results, found '{folder}', which is a run.")
    require_folder(folder, "--out")


def _chosen(options: argparse.Namespace) -> "Chosen":
    """What is to be evaluated: its name, its config, the policy, and the folder that takes the results."""
    from agents import load_policy
    from mtrl.config import RunConfig
    from mtrl.pretrained import pretrained_policy
    from mtrl.run_folder import AGENT_FILE, RunFolder

    if (options.run is None) == (options.pretrained is None):
        raise ConfigError(f"mtrl {options.verb} takes either the folder of a run or --pretrained NAME.")
    if options.pretrained is not None:
        policy = pretrained_policy(options.pretrained)
        config = RunConfig.from_dict(policy.card["config"])
        return policy.name, config, policy.load(config.device), Path(f"pretrained-{policy.name}")
    folder = RunFolder.existing(options.run)
    config = folder.config()
    return folder.path.name, config, load_policy(folder.path / AGENT_FILE, config.device), folder.path


def _export(options: argparse.Namespace) -> None:
    """Write the policy of a run and its card; print what the card says."""
    from mtrl.console import print_results, say
    from mtrl.export import export
    from mtrl.run_folder import RunFolder

    path = options.out
    if path.is_dir() or not path.name:
        raise ConfigError(f"--out must be a file to write, found the folder '{path}'.")
    if path.suffix != ".zip":
        path = path.with_name(f"{path.name}.zip")

    def told(result: "EvaluationResult") -> None:
        print_results(result.to_frame(), f"{path.name}, {path.stat().st_size / 1e6:.2f} MB")

    export(RunFolder.existing(options.run), path, options.episodes, options.workers, told)
    say(f"Written to {path} and {path.with_suffix('.json')}")


def _export_dataset(options: argparse.Namespace) -> None:
    """Write episodes of a run's policy, one that came with the toolkit, or scripted experts."""
    from mtrl.console import say
    from mtrl.datasets import MetaWorldExperts, export_dataset

    if options.expert is not None and (options.run is not None or options.pretrained is not None):
        raise ConfigError("mtrl export-dataset takes one of RUN_DIR, --pretrained NAME and --expert TASK.")
    model: Policy
    if options.expert is not None:
        suite, horizon, seed = _suite_of(options.expert), None, 0
        model, about = MetaWorldExperts(suite.task_names), "scripted experts of Meta-World"
    else:
        about, config, model, _ = _chosen(options)
        suite, horizon, seed = config.make_suite(), config.evaluation.horizon, config.evaluation_seed
    place = export_dataset(
        model,
        suite,
        options.name,
        options.out,
        episodes=options.episodes,
        seed=seed if options.seed is None else options.seed,
        horizon=horizon,
        workers=options.workers,
        deterministic=not options.stochastic,
        about=about,
    )
    say(f"Written to {place}")


def _suite_of(tasks: Sequence[str]) -> "TaskSuite":
    """The suite of this name, or of these tasks of Meta-World."""
    from envs import list_suites, make_suite

    if len(tasks) == 1 and tasks[0] in list_suites():
        return make_suite(tasks[0])
    return make_suite("metaworld", tasks=list(tasks))


def _compare(options: argparse.Namespace) -> None:
    """Print the verdict on some runs, and write their report."""
    from mtrl.compare import split_by_protocol, write_overview, write_report
    from mtrl.compare.report import require_place
    from mtrl.console import say

    require_place(options.out)
    if not options.by_protocol:
        comparison = _comparison(options, options.runs)
        _print_verdict(options, comparison)
        page = write_report(comparison, options.out)
    else:
        parts, left_out = split_by_protocol(options.runs)
        comparisons = {part.title: _comparison(options, part.folders) for part in parts}
        for title, comparison in comparisons.items():
            say(f"\n{title}")
            _print_verdict(options, comparison)
        page = write_overview(comparisons, options.out, left_out)
    say(f"Written to {page}")


def _comparison(options: argparse.Namespace, paths: Sequence[Path]) -> "Comparison":
    from mtrl.compare import compare_runs
    from mtrl.compare.factorial import split_factors

    return compare_runs(
        paths,
        baseline=options.baseline,
        allow_mixed=options.allow_mixed,
        labels=dict(map(_renaming, options.labels)),
        worst=options.worst,
        seed=options.seed,
        primary=options.primary,
        factors=None if options.factors is None else split_factors(options.factors),
        reference=options.reference,
    )


def _print_verdict(options: argparse.Namespace, comparison: "Comparison") -> None:
    from mtrl.compare import judge
    from mtrl.compare.tables import narrow, summary_table
    from mtrl.console import print_rows, say

    verdict, summary = judge(comparison), narrow(summary_table(comparison))
    print_rows(summary.header, summary.rows)
    lines = (verdict.declared, verdict.headline, verdict.worst, verdict.change, *verdict.caution, *verdict.seeds)
    for line in filter(None, lines):
        say(line)
    if options.reference is not None and not comparison.references:
        say(f"No published result of '{options.reference}' is of {comparison.suite}.")


def _renaming(text: str) -> tuple[str, str]:
    # From the right: a method's own label may hold "gamma=0.01".
    label, equals, name = text.rpartition("=")
    if not (label and equals and name):
        raise ConfigError(f"labels must be given as METHOD=NAME, found {text!r}.")
    return label, name


def _list(options: argparse.Namespace) -> None:
    from mtrl.console import print_rows

    print_rows(*_LISTS[options.what]())


Listing = tuple[list[str], list[list[str]]]


def _balancers() -> Listing:
    from agents.balancers import list_balancers

    rows = [[record.name, record.family, record.cost, record.summary, record.paper] for record in list_balancers()]
    return ["balancer", "family", "cost", "what it does", "paper"], rows


def _networks() -> Listing:
    from agents.networks import NETWORKS
    from agents.networks.matching import metaworld_parameter_counts
    from mtrl.network_options import known_options

    counts = {name: metaworld_parameter_counts(name) for name in NETWORKS}
    rows = [
        [
            one.name,
            one.summary,
            ", ".join(known_options(one.name)) or "-",
            *(f"{count:,}" for count in counts[one.name].values()),
        ]
        for one in NETWORKS.listed()
    ]
    return ["network", "what it is", "network.options", *(f"parameters, {side}" for side in counts["mlp"])], rows


def _suites() -> Listing:
    from envs import list_suites

    return ["suite", "what it is"], [[name, line] for name, line in list_suites().items()]


def _pretrained() -> Listing:
    from mtrl.pretrained import list_pretrained, pretrained_policy

    return ["policy", "what it is"], [[name, pretrained_policy(name).summary()] for name in list_pretrained()]


def _algorithms() -> Listing:
    from agents import list_algorithms

    return ["algorithm", "what it is"], [[record.name, record.summary] for record in list_algorithms()]


_LISTS = {
    "algorithms": _algorithms,
    "balancers": _balancers,
    "networks": _networks,
    "pretrained": _pretrained,
    "suites": _suites,
}


if __name__ == "__main__":
    sys.exit(main())
