"""The way into training from a shell: registered balancers become choices, errors become sentences and exit codes."""

import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from mtrl.errors import ConfigError, exit_code, nearest, sentence
from mtrl.plugins import load_plugins, setting_of, take_plugins, use_working_directory
from mtrl.shadowing import refuse_foreign_packages

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mtrl.config import RunConfig
    from mtrl.sweep import Sweep

_HOME = Path(__file__).resolve().parent
# Beside the modules where the toolkit is installed from a wheel, in a checkout beside the package.
CONFIGS = _HOME / "configs" if (_HOME / "configs").is_dir() else _HOME.parent / "configs"
_DEBUG_SETTING = "debug=true"
_FLAGS = {"--debug": _DEBUG_SETTING, "--takeover": "takeover=true"}
# A balancer's name, or a composition of names, as the value of an override.
_BALANCER = re.compile(r"^balancer=(?P<choices>[\w+:,]+)$")
# Groups whose settings no file names: they belong to a suite, a network or a balancer, and are checked against it.
_OPEN_GROUP = re.compile(r"^(env\.options|network\.options|balancer\.actor_options)[.=]")
_OTHER_CONFIGS = ("--config-dir", "-cd", "hydra.searchpath")


def launch(train: Callable[[], None], configs: Path) -> NoReturn:
    """Run a Hydra main function as a command: exit code 0, 1 (fault), 2 (bad input), 75 or 130 (stopped).

    Of a sweep, every run is made whatever becomes of the others; the exit code then tells the worst of them.

    :param train: what ``@hydra.main`` returns
    :param configs: the folder that it composes configs from
    """
    sys.argv[1:] = [_FLAGS.get(argument, argument) for argument in sys.argv[1:]]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    try:
        sys.exit(guarded(partial(_train, train, configs), debug=_DEBUG_SETTING in sys.argv))
    finally:
        for stream in (sys.stdout, sys.stderr):
            _finish(stream)


def train_command(arguments: Sequence[str]) -> NoReturn:
    """``mtrl train``: what ``train.py`` does, wherever the toolkit is installed.

    :param arguments: as ``train.py`` takes them
    """
    import hydra

    sys.argv = ["mtrl train", *arguments]
    launch(hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(_run_composed), CONFIGS)


def _run_composed(config: "DictConfig") -> None:
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(config, resolve=True)
    run_or_exit(values)


def guarded(command: Callable[[], None], debug: bool) -> int:
    """Run a command; say in one sentence on stderr what was wrong, and return the exit code.

    :param debug: show the traceback too
    """
    use_working_directory()
    error = _error_of(command, debug)
    return 0 if error is None else exit_code(error)


def _error_of(command: Callable[[], None], debug: bool) -> BaseException | None:
    """Run a command; say what was wrong, and return it."""
    try:
        command()
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        told = _from_hydra(error) or error
        with suppress(OSError):  # the exit code must not depend on whether somebody reads this
            print(sentence(told), file=sys.stderr, flush=True)
        return told
    return None


def _finish(stream: TextIO) -> None:
    """Write out what waits in a stream, or drop it: Python would end with an exit code of its own if it cannot."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run_or_exit(values: Mapping[str, Any]) -> None:
    """Run a composed config; an error is said here, where Hydra cannot add to it.

    It ends the process, but for a run of a sweep: there only a stop does.

    :param values: the config as a plain dict
    """
    from mtrl.sweep import Sweep

    sweep = Sweep.current()
    if sweep is not None:
        _run_of_sweep(values, sweep)
    elif code := guarded(partial(_run, values), debug=bool(values.get("debug"))):
        sys.exit(code)


def _run_of_sweep(values: Mapping[str, Any], sweep: "Sweep") -> None:
    from hydra.core.hydra_config import HydraConfig

    from mtrl.console import say
    from mtrl.sweep import FAILED, FINISHED, SKIPPED

    hydra = HydraConfig.get()
    name = sweep.name_of_run(hydra.overrides.task)
    say(sweep.describe_start(hydra.job.num + 1, name))
    if _is_finished(values):
        sweep.note(name, SKIPPED)
        return
    if hydra.runtime.choices["hydra/launcher"] != "basic":  # runs side by side would write over each other's bars
        values = {**values, "tracking": {**values["tracking"], "progress": False}}
    error = _error_of(partial(_run, values), debug=bool(values.get("debug")))
    code = 0 if error is None else exit_code(error)
    if isinstance(error, KeyboardInterrupt) and getattr(error, "by_signal", True):
        sys.exit(code)  # a signal is meant for all of them, a limit of the wall time for each
    del error  # it holds the frames of the run, and they
    gc.collect()  # the run's simulators, hundreds of megabytes in cycles that Python would let pile up
    sweep.note(name, FAILED if code else FINISHED, code)


def _is_finished(values: Mapping[str, Any]) -> bool:
    from mtrl.run_state import is_finished

    try:
        return is_finished(composed_config(values))
    except ConfigError:  # which the run itself will say
        return False


def _run(values: Mapping[str, Any]) -> None:
    from mtrl.experiment import run

    run(composed_config(values))


def composed_config(values: Mapping[str, Any]) -> "RunConfig":
    """The config that was composed for this command, here or in the process that started it: its plug-ins are loaded.

    :param values: as a plain dict; never what was read from a run's folder, which must not cause an import
    """
    from mtrl.config import RunConfig

    names = values.get("plugins") or ()
    load_plugins([names] if isinstance(names, str) else names)
    return RunConfig.from_dict(values)


def _train(train: Callable[[], None], configs: Path) -> None:
    from mtrl.command_line import readable
    from mtrl.console import say
    from mtrl.sweep import Sweep, refuse_one_folder, register_callback

    refuse_foreign_packages()
    arguments = readable(sys.argv[1:])
    refuse_one_folder(_overrides_of_sweep(arguments))
    arguments = prepare(arguments, configs)
    register_callback()
    sys.argv[1:] = _with_callback(_with_options_of_all(arguments))
    code = 0
    try:
        train()
    finally:
        if sweep := Sweep.current():
            say(sweep.describe_end())
            code = sweep.end()
    sys.exit(code)


def prepare(arguments: Sequence[str], configs: Path) -> list[str]:
    """The arguments of a command line as Hydra can compose them; what is registered by name becomes a choice.

    Every group has a choice already, so ``+experiment=mt10_laptop`` means what it means without the plus.

    :param arguments: as `mtrl.command_line.readable` gives them
    :param configs: the folder that Hydra composes configs from
    :raises ConfigError: for what Hydra would pass over or explain badly: an unknown experiment, or option of a balancer
    """
    groups = {folder.name for folder in configs.iterdir() if folder.is_dir()}
    arguments = [argument[1:] if _adds(argument) in groups else argument for argument in arguments]
    arguments = _with_plugins(arguments, configs)
    register_networks(with_files=_choices(configs, "network"))
    register_suites(with_files=_choices(configs, "env"))
    register_algorithms(with_files=_choices(configs, "agent"))
    register_experiments(configs)
    register_balancers(arguments, with_files=_choices(configs, "balancer"))
    if not any(argument.startswith(_OTHER_CONFIGS) for argument in arguments):
        _refuse_unknown_experiments(arguments, _choices(configs, "experiment"))
    _refuse_unknown_options(arguments)
    if "~experiment" in arguments:  # without its experiment a suite has the agents' own settings
        arguments = [*arguments, "~experiment/of_algorithm"]
    return [f"++{argument}" if _OPEN_GROUP.match(argument) else argument for argument in arguments]


def _adds(argument: str) -> str:
    """What a setting adds that need not be there before, as in ``+experiment=mt10_laptop``."""
    return argument.partition("=")[0][1:] if re.match(r"\+\w", argument) else ""


def _with_plugins(arguments: Sequence[str], configs: Path) -> list[str]:
    """Load the plug-ins of the command line, or else of the user's own config: what they register is a choice then."""
    rest, names = take_plugins(arguments)
    load_plugins(names or _plugins_of_files(arguments, configs))
    if not names:
        return rest
    # Beside another override: Hydra's parser takes them only in one piece.
    place = next((i for i, word in enumerate(rest) if "=" in word and not word.startswith("-")), len(rest))
    return [*rest[:place], setting_of(names), *rest[place:]]


def _plugins_of_files(arguments: Sequence[str], configs: Path) -> list[str]:
    """Plug-ins of the main config and of the experiment that a command names; Hydra reads them only after this."""
    from omegaconf import OmegaConf

    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    folders = [configs, *(Path(folder) for folder in _values_of(arguments, given, "--config-dir", "-cd"))]
    names = [*_values_of(arguments, given, "--config-name", "-cn"), "config"][:1]
    names += [f"experiment/{given[key]}" for key in ("experiment", "+experiment") if key in given]
    found: list[str] = []
    for file in (folder / f"{name.removesuffix('.yaml')}.yaml" for folder in folders for name in names):
        values: Any = OmegaConf.load(file) if file.is_file() else {}
        found += values.get("plugins") or []
    return found


def _values_of(arguments: Sequence[str], given: Mapping[str, str], *flags: str) -> list[str]:
    """What follows a flag, as in ``--config-dir mine`` and ``--config-dir=mine``."""
    following = [after for word, after in pairwise(arguments) if word in flags]
    return following + [given[flag] for flag in flags if flag in given]


def _choices(configs: Path, group: str) -> set[str]:
    """The files of a group."""
    return {file.stem for file in (configs / group).glob("*.yaml")}


def _refuse_unknown_experiments(arguments: Iterable[str], known: Collection[str]) -> None:
    """Hydra leaves an unknown one out: the group is optional, because most suites have none of their own."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = [argument for argument in arguments if argument.startswith("experiment=")]
    for override in OverridesParser.create().parse_overrides(given):
        value = list(override.sweep_string_iterator()) if override.is_sweep_override() else override.value()
        for choice in value if isinstance(value, list) else [value]:
            name = "null" if choice is None else str(choice).strip("'\"").removesuffix(".yaml")
            if name not in known and "${" not in name:
                raise ConfigError(f"experiment has no choice '{name}'{nearest(name, known)}")


def _refuse_unknown_options(arguments: Sequence[str]) -> None:
    """Refuse options that no balancer of the command line has."""
    names, prefix = _named_balancers(arguments), "balancer.options."
    known = [key for name in names for key in _option_settings(_known_options(name))]
    for key in (argument.partition("=")[0] for argument in arguments):
        if names and key.startswith(prefix) and not any(f"{name}.".startswith(f"{key}.") for name in known):
            ends = {name.removeprefix(prefix) for name in known}
            hint = nearest(key.removeprefix(prefix), ends) if ends else ", which takes none."
            raise ConfigError(f"'{key}' is no option of {' or '.join(names)}{hint}")


def _with_callback(arguments: Sequence[str]) -> list[str]:
    """The arguments of a sweep with our callback; it is in no file, so that configs compose in other processes too."""
    overrides = _overrides_of_sweep(arguments)
    if not overrides:
        return list(arguments)
    first = arguments.index(overrides[0])
    # Beside another override: Hydra's parser takes them only in one piece.
    return [*arguments[:first], "hydra/callbacks=[sweep]", *arguments[first:]]


def _with_options_of_all(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the options that a sweep gives to several balancers as Hydra takes them.

    Hydra also composes the config without the sweep, and there stands the default balancer, which lacks the option:
    it must be forced (``++``).

    :raises ConfigError: for an option that some of the balancers lack
    """
    overrides = _overrides_of_sweep(arguments)
    names = _named_balancers(overrides)
    if len(names) < 2:
        return list(arguments)
    return [f"++{a}" if a in overrides and _have_all(names, a.partition("=")[0]) else a for a in arguments]


def _have_all(names: Sequence[str], key: str) -> bool:
    """Whether a setting is an option of all these balancers; it may be one of none."""
    owners = [name for name in names if key in _option_settings(_known_options(name))]
    if owners and len(owners) < len(names):
        raise ConfigError(
            f"'{key}' is an option of {', '.join(owners)} but not of every balancer of this sweep: give these a sweep "
            f"of their own, 'balancer={','.join(owners)} {key}=...', and the others another; finished runs are skipped."
        )
    return bool(owners)


def _option_settings(options: Mapping[str, Any], prefix: str = "balancer.options") -> Iterator[str]:
    """The settings that a balancer's options are, such as ``balancer.options.c``."""
    for name, below in options.items():
        if below is None:
            yield f"{prefix}.{name}"
        else:
            yield from _option_settings(below, f"{prefix}.{name}")


def _overrides_of_sweep(arguments: Sequence[str]) -> list[str]:
    """The settings that a sweep is given; none if this is no sweep."""
    if not {"-m", "--multirun"} & set(arguments):
        return []
    return [argument for argument in arguments if "=" in argument and not argument.startswith("-")]


def register_algorithms(with_files: Collection[str]) -> None:
    """Make every registered algorithm, with its defaults, a choice of the group `agent`; files say what differs.

    :param with_files: choices that have a YAML file
    """
    import dataclasses

    from hydra.core.config_store import ConfigStore

    from agents.algorithms import list_algorithms

    for record in list_algorithms():
        if record.name not in with_files:
            preset = record.preset()
            node: dict[str, Any] = dataclasses.asdict(preset)
            if preset.NETWORK is not None:
                node = {"defaults": [{"override /network@_global_.network": preset.NETWORK}, "_self_"], **node}
            ConfigStore.instance().store(group="agent", name=record.name, node=node)


def register_networks(with_files: Collection[str]) -> None:
    """Make every registered network, with its own defaults, a choice of the group `network`.

    :param with_files: choices that have a YAML file
    """
    import dataclasses

    from hydra.core.config_store import ConfigStore

    from agents.networks import NETWORKS
    from mtrl.config import NetworkConfig

    for record in NETWORKS.listed():
        if record.name not in with_files:
            own = {name: value for name, value in record.defaults.items() if name in ("hidden_sizes", "task_id")}
            node = {**dataclasses.asdict(NetworkConfig()), "name": record.name, **own}
            node["hidden_sizes"] = list(node["hidden_sizes"])
            ConfigStore.instance().store(group="network", name=record.name, node=node)


def register_suites(with_files: Collection[str]) -> None:
    """Make every registered suite a choice of the group `env`.

    :param with_files: choices that have a YAML file
    """
    import dataclasses

    from hydra.core.config_store import ConfigStore

    from envs import list_suites
    from mtrl.config import EnvConfig

    for name in list_suites():
        if name not in with_files:
            node = {**dataclasses.asdict(EnvConfig()), "suite": name}
            ConfigStore.instance().store(group="env", name=name, node=node)


def register_experiments(configs: Path) -> None:
    """Let what a suite changes of an algorithm count for every choice of `agent` that builds on it.

    ``experiment/of_algorithm/pointmass_mtsac.yaml`` then counts for ``agent=brc`` too.

    :param configs: the folder that Hydra composes configs from
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from agents.algorithms import ALGORITHMS

    group = "experiment/of_algorithm"
    names = _choices(configs, group)
    for choice in _choices(configs, "agent") - ALGORITHMS.keys():
        algorithm = _algorithm_of(choice, configs)
        for name in (name for name in names if name.endswith(f"_{algorithm}")):
            own, node = name.removesuffix(algorithm) + choice, OmegaConf.load(configs / group / f"{name}.yaml")
            if own not in names:
                ConfigStore.instance().store(own, node, group=group, package="_global_")


def _algorithm_of(choice: str, configs: Path) -> str:
    """The algorithm whose settings a file of the group `agent` begins with, or another file that it builds on."""
    from omegaconf import OmegaConf

    file = configs / "agent" / f"{choice}.yaml"
    if not file.exists():
        return choice
    settings: Any = OmegaConf.load(file)
    return _algorithm_of(str(settings.defaults[0]), configs)


def register_balancers(overrides: Sequence[str], with_files: Collection[str]) -> None:
    """Make every registered balancer, and every composition that the overrides name, a choice of the group `balancer`.

    :param overrides: arguments of the command line
    :param with_files: choices that have a YAML file already
    """
    from hydra.core.config_store import ConfigStore

    from agents.balancers import list_balancers

    composed = {name for name in _named_balancers(overrides) if re.search("[+:]", name)}
    for name in {*(record.name for record in list_balancers()), *composed} - set(with_files):
        node = {"name": name, "options": _known_options(name), "actor": None, "actor_options": {}}
        ConfigStore.instance().store(group="balancer", name=name, node=node)


def _known_options(name: str) -> dict[str, Any]:
    """The options of a balancer or composition, unset; those of a composition also below the method they belong to."""
    from agents.balancers import list_balancers

    options = {record.name: sorted(record.options) for record in list_balancers()}
    parts = [part for part in re.split("[+:]", name) if part in options]
    if len(parts) == 1:
        return dict.fromkeys(options[parts[0]])
    return {part: dict.fromkeys(options[part]) for part in parts} | dict.fromkeys(_unshared(parts, options))


def _named_balancers(overrides: Iterable[str]) -> list[str]:
    """The balancers that overrides choose or sweep over."""
    named = [match["choices"].split(",") for match in map(_BALANCER.match, overrides) if match]
    return [name for names in named for name in names]


def _unshared(parts: Sequence[str], options: dict[str, list[str]]) -> Iterable[str]:
    """Options that only one part of a composition has: they need no ``<method>.`` before them."""
    flat = [option for part in parts for option in options[part]]
    return [option for option in flat if flat.count(option) == 1]


def _from_hydra(error: BaseException) -> ConfigError | None:
    """An error of Hydra or OmegaConf as one sentence of ours; None for any other error."""
    from hydra.errors import HydraException
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException

    from mtrl.command_line import PLACES

    text = str(error)
    if isinstance(error, ValueError) and text.startswith("Only one of --"):  # said of options, by no class of Hydra's
        return ConfigError(text)
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    if missing := re.search(r"Could not find '([^']+?)/([^/']+)'", text):
        group, choice = missing.groups()
        known = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        return ConfigError(f"{group} has no choice '{choice}'{nearest(choice, known)}")
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return ConfigError(_unknown_setting(unknown[1]))
    if ambiguous := re.search(r"Ambiguous value for argument '(.+?)=(.+)'", text):
        key, values = ambiguous.groups()
        as_one = (
            f"a name quotation marks, '{key}=\"{values}\"'"
            if key in PLACES
            else f"one list of them brackets, '{key}=[{values}]'"
        )
        return ConfigError(f"'{key}={values}' are several values: a sweep over them needs -m, {as_one}.")
    if there := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return ConfigError(f"'{there[1]}' is a setting already: give it without the plus, {there[1]}=...")
    if isinstance(error, GrammarParseError) or "Error merging override" in text:
        return ConfigError(
            f"{text.splitlines()[0].rstrip('.')}: what stands in ${{...}} must be the name of a setting."
        )
    return ConfigError(text.splitlines()[0])


def _unknown_setting(key: str) -> str:
    from agents.algorithms import list_algorithms
    from mtrl.config import RunConfig
    from mtrl.schema import nearest_setting, setting_names

    if key.startswith("balancer.options."):  # the options of a balancer that is named were looked at before
        return f"'{key}' is no option of the balancer that is set: name its own beside it, such as balancer=cagrad."
    of_agents = {record.name: setting_names(record.preset, "agent") for record in list_algorithms()}
    owners = [f"agent={name}" for name, names in of_agents.items() if key in names]
    if owners:
        return f"'{key}' is a setting of {' and '.join(owners)}, not of the agent that is chosen."
    known = {name for names in of_agents.values() for name in names}
    return f"Unknown setting '{key}'{nearest_setting(key, [*setting_names(RunConfig), *sorted(known)])}"
