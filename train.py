"""Train one agent on many tasks: ``python train.py env=mt10 balancer=unitary seed=3``."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from mtrl.launch import launch, run_or_exit


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def train(config: DictConfig) -> None:
    """Run the composed config."""
    run_or_exit(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    launch(train, Path(__file__).parent / "configs")
