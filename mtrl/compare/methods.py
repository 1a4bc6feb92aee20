"""Which runs are seeds of one method, what the method is called, and which seeds it lacks."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agents.algorithms import DEFAULT, find_algorithm
from agents.balancing.registry import BALANCERS, methods_of
from agents.errors import ConfigurationError
from agents.networks import NETWORKS
from agents.settings import Changes, walk
from mtrl.compare.protocol import protocol_of
from mtrl.compare.runs import Run
from mtrl.config import flatten
from mtrl.errors import ConfigError, nearest

_GROUPS = ("balancer", "agent", "network")  # the settings that make a method; the others make the protocol
_BALANCER, _NAMES = "balancer.name", ("agent.name", "network.name")
BASELINE = "unitary"
_SEARCH = "balancer.options.search"
_SEARCHED = ("balancer.options.times", "balancer.options.weights", "agent.learning_rate", "agent.target_entropy")


@dataclass(frozen=True)
class Method:
    """Runs of one method, one per seed.

    :param label: what it is called, unique in a comparison
    :param balancer: the registered name of its balancer
    :param agent: what its agent's settings are called
    :param runs: the finished ones, in the order of their seeds
    :param unfinished: the others
    :param missing: seeds that another method of the comparison has, and this one neither has nor has begun
    """

    label: str
    balancer: str
    agent: str
    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...] = ()
    missing: tuple[int, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the finished runs."""
        return tuple(run.seed for run in self.runs)


def group_methods(
    runs: Sequence[Run], labels: Mapping[str, str] | None = None, also_apart: Collection[str] = ()
) -> list[Method]:
    """Runs by method, in the order of their labels.

    :param labels: other names for the labels that are made here
    :param also_apart: fields of the protocol that set methods apart, where protocols are mixed
    :raises ConfigError: for two finished runs of one method and seed, or a label that is not there
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_settings(run, also_apart), sort_keys=True, default=str), []).append(run)
    names = _rename(_labels([_settings(members[0], also_apart) for members in groups.values()]), labels or {})
    seeds = {run.seed for run in runs}
    methods = [_method(name, members, seeds) for name, members in zip(names, groups.values(), strict=True)]
    return sorted(methods, key=lambda method: method.label)


def choose_baseline(methods: Sequence[Method], wanted: str | None) -> Method:
    """The method that the others are compared with: the one asked for, or plain averaging.

    :raises ConfigError: if there is no such method, or if several are plain averages
    """
    labels = [method.label for method in methods]
    if wanted is not None:
        if wanted not in labels:
            raise ConfigError(f"baseline must be a method of these runs, found {wanted!r}{nearest(wanted, labels)}")
        return methods[labels.index(wanted)]
    if len(methods) == 1:
        return methods[0]
    plain = [method for method in methods if method.balancer == BASELINE]
    usual = Counter(method.agent for method in methods).most_common(1)[0][0]
    candidates = plain if len(plain) == 1 else [method for method in plain if method.agent == usual]
    if len(candidates) != 1:
        which = "none of these runs is" if not candidates else "several of these methods are"
        raise ConfigError(f"baseline must be named, since {which} the plain average; known: {', '.join(labels)}.")
    return candidates[0]


def _method(label: str, runs: Sequence[Run], seeds: set[int]) -> Method:
    finished = sorted((run for run in runs if run.finished), key=_seed)
    for first, second in pairwise(finished):
        if first.seed == second.seed:
            raise ConfigError(
                f"'{first.folder}' and '{second.folder}' are both {label} with seed {first.seed}: give one of them."
            )
    done = {run.seed for run in finished}
    unfinished = sorted((run for run in runs if not run.finished and run.seed not in done), key=_seed)
    missing = seeds - done - {run.seed for run in unfinished}
    config = flatten(runs[0].config)
    names = str(config.get(_BALANCER, "unknown")), str(config.get("agent.name", "unknown"))
    return Method(label, *names, tuple(finished), tuple(unfinished), tuple(sorted(missing)))


def _settings(run: Run, also_apart: Collection[str]) -> dict[str, Any]:
    flat = _of_method(run.config)
    protocol = protocol_of(run) if also_apart else {}
    flat |= {field: protocol.get(field) for field in also_apart}
    flat |= _sources(run.record)
    # Members of a search are runs of one method, each with numbers of its own.
    apart = _SEARCHED if flat.get(_SEARCH) else ()
    return {key: value for key, value in flat.items() if value not in (None, {}) and key not in apart}


def _of_method(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a method, flat: without those that change no result, or came later and have a default."""
    flat = _without_defaults(flatten({group: config.get(group, {}) for group in _GROUPS}))
    try:
        preset = find_algorithm(str(flat.get("agent.algorithm", DEFAULT))).preset()
    except ConfigurationError:
        return flat  # of an algorithm that is not known here
    for setting in walk(preset, "agent."):
        as_before = setting.unnamed and flat.get(setting.name) == setting.value
        if setting.changes is Changes.NOTHING or as_before:
            flat.pop(setting.name, None)
    return flat


def _without_defaults(flat: dict[str, Any]) -> dict[str, Any]:
    """The settings without options of balancers and networks that have their default: it need not be written down."""
    defaults: dict[str, Any] = {}
    for side, options in (("name", "options"), ("actor", "actor_options")):
        methods = [word for word in methods_of(str(flat.get(f"balancer.{side}"))) if word in BALANCERS]
        for method in methods:
            inner = f"{method}." if len(methods) > 1 else ""
            defaults |= {f"balancer.{options}.{inner}{key}": v for key, v in BALANCERS[method].defaults.items()}
    if (network := str(flat.get("network.name"))) in NETWORKS:
        defaults |= {f"network.options.{key}": value for key, value in NETWORKS[network].defaults.items()}
    return {key: value for key, value in flat.items() if key not in defaults or value != defaults[key]}


def _sources(record: Mapping[str, Any]) -> dict[str, str]:
    """The source of the plug-ins that a run was made with: another one is another method."""
    plugins = record.get("plugins") or {}
    return {f"plugin.{name}": str(one.get("sha256"))[:12] for name, one in plugins.items() if one.get("registers")}


def _labels(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """The balancer's name, and in brackets as few settings as tell methods of the same balancer apart."""
    labels = [str(settings.get(_BALANCER, "unknown")) for settings in methods]
    for balancer in set(labels):
        members = [i for i, label in enumerate(labels) if label == balancer]
        if len(members) > 1:
            for i, text in zip(members, _differences([methods[i] for i in members]), strict=True):
                labels[i] = f"{balancer} ({text})"
    return labels


def _differences(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = sorted({key for settings in methods for key in settings})
    varied = [key for key in keys if len({str(settings.get(key)) for settings in methods}) > 1]
    # A name stands for the settings that come with it, as long as names suffice.
    names = [key for key in _NAMES if key in varied]
    for chosen in (names, varied):
        texts = [", ".join(_setting(key, settings.get(key)) for key in chosen) for settings in methods]
        if len(set(texts)) == len(texts):
            return texts
    raise AssertionError("methods that differ in no setting are one method")


def _setting(key: str, value: Any) -> str:
    if key in _NAMES:
        return str(value)
    return f"{key.rpartition('.')[2]}={'default' if value is None else value}"


def _rename(labels: list[str], new: Mapping[str, str]) -> list[str]:
    for label in new:
        if label not in labels:
            raise ConfigError(f"labels must rename a method of these runs, found {label!r}{nearest(label, labels)}")
    renamed = [new.get(label, label) for label in labels]
    if len(set(renamed)) < len(renamed):
        raise ConfigError(f"labels must be different for every method, found {', '.join(sorted(renamed))}.")
    return renamed


def _seed(run: Run) -> int:
    return run.seed
