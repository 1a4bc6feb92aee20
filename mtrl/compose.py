"""Configs from what a command line gives, for commands that start several runs: ``env=mt10 balancer=famo seed=1,2``."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtrl.command_line import readable
from mtrl.config import RunConfig
from mtrl.errors import ConfigError
from mtrl.launch import CONFIGS, composed_config, prepare


@dataclass(frozen=True)
class Composed:
    """One point of a grid.

    :param overrides: the settings that tell it from the others, ``balancer=famo seed=2``
    :param config: of the run
    """

    overrides: str
    config: RunConfig


def compose(overrides: Sequence[str]) -> RunConfig:
    """The config that ``train.py`` would compose.

    :raises ConfigError: for a setting that cannot work, or a setting with several values
    """
    found = compose_grid(overrides)
    if len(found) > 1:
        raise ConfigError(f"Each setting takes one value here, found several: {found[1].overrides}.")
    return found[0].config


def compose_grid(overrides: Sequence[str]) -> list[Composed]:
    """The configs of all combinations, as ``train.py -m`` would make them: the last setting varies fastest."""
    from hydra import compose as compose_with_hydra
    from hydra import initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    if not CONFIGS.is_dir():
        raise ConfigError(f"The folder of configs is missing, '{CONFIGS}': install the toolkit again.")
    fixed, swept = [], []
    for override in OverridesParser.create().parse_overrides(prepare(readable(overrides), CONFIGS)):
        if override.is_sweep_override():
            key = override.get_key_element()
            swept.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            fixed.append(str(override.input_line))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        grid = []
        for point in itertools.product(*swept):
            values: Any = OmegaConf.to_container(compose_with_hydra("config", [*fixed, *point]), resolve=True)
            grid.append(Composed(" ".join(setting.lstrip("+") for setting in point), composed_config(values)))
    return grid
