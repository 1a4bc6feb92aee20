"""One MTSAC update against Stable-Baselines3's ``SAC.train`` with equal networks, batch and observations.

``python -m benchmarks.update``. Both learn from the same random transitions of MT10's shapes: ten tasks, states [39],
actions [4], twin critics. SB3 sees the task as the one-hot part of the observation, as any single-task agent would.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

from agents import MTSAC
from agents.precision import float32_products
from benchmarks.timing import Timing, machine, take_turns, timing_table
from envs import MultiTaskVecEnv, make_suite

BASELINE = "SB3 SAC.train"
STATES, ACTIONS = 39, 4


class MetaWorldShapes(gymnasium.Env):
    """Spaces of Meta-World and nothing behind them."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATES,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
    render_mode = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(STATES, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(STATES, np.float32), 0.0, False, False, {"success": False}


def shapes_env(num_tasks: int) -> MultiTaskVecEnv:
    """A vector of K environments of Meta-World's shapes."""
    tasks = {f"task-{k}": MetaWorldShapes for k in range(num_tasks)}
    return make_suite("gym", tasks=tasks, horizon=500).make_vec_env(seed=0)


def measure(
    rounds: int = 15,
    num_tasks: int = 10,
    samples: int = 128,
    hidden_sizes: Sequence[int] = (400, 400, 400),
    transitions: int = 500,
    compiled: bool = True,
) -> list[Timing]:
    """Time the contenders in turns.

    :param rounds: turns of each contender
    :param num_tasks: K
    :param samples: B
    :param hidden_sizes: widths of actor and critics
    :param transitions: of each task in the replay buffers
    :param compiled: time compiled agents too, which takes a minute at first
    """
    env = shapes_env(num_tasks)
    sizes = list(hidden_sizes)
    buffer_size = transitions * num_tasks

    def mtsac(
        precision: str = "float32",
        mode: str | None = None,
        per_task: int = samples,
        compile: bool = False,
        **options: Any,
    ) -> MTSAC:
        model = MTSAC(
            "MultiTaskPolicy", env, batch_size=per_task * num_tasks, buffer_size=buffer_size, precision=precision,
            compile=compile, policy_kwargs={"hidden_sizes": sizes, **options}, device="cpu", seed=0,
        )  # fmt: skip
        model.float32_mode = mode or model.float32_mode
        return model

    sac = SAC(
        "MlpPolicy", env, batch_size=samples * num_tasks, buffer_size=buffer_size,
        policy_kwargs={"net_arch": sizes}, device="cpu", seed=0,
    )  # fmt: skip
    settings: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16": {"precision": "bfloat16"}}
    if samples > 32:
        settings["32 per task, LayerNorm, auto"] = {"precision": "auto", "per_task": 32, "critic_layer_norm": True}
    models: dict[str, SAC | MTSAC] = {
        BASELINE: sac,
        **{f"MTSAC, {name}": mtsac(**options) for name, options in settings.items()},
        f'MTSAC, float32 in mode "medium" (error {product_error("medium"):.0e})': mtsac(mode="medium"),
    }
    if compiled:
        models |= {f"MTSAC, {name}, compiled": mtsac(compile=True, **options) for name, options in settings.items()}
    for model in models.values():
        fill(model, transitions)
    timings = take_turns({name: partial(_train, model) for name, model in models.items()}, rounds)
    env.close()
    return timings


def product_error(mode: str) -> float:
    """Largest error of a float32 matrix product in one of PyTorch's modes, relative to the largest entry."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(400, 400, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    with float32_products(mode):
        return float(((left @ right).double() - exact).abs().max() / exact.abs().max())


def _train(model: SAC | MTSAC) -> None:
    model.train(gradient_steps=1, batch_size=model.batch_size)


def fill(model: SAC | MTSAC, transitions: int) -> None:
    """The same random transitions for every model."""
    generator = np.random.default_rng(0)
    model.set_logger(configure(format_strings=[]))
    assert model.env is not None and model.replay_buffer is not None
    observations = model.env.reset()
    for _ in range(transitions):
        following = observations.copy()
        following[:, :STATES] = generator.normal(size=(len(observations), STATES))
        actions = generator.uniform(-1, 1, (len(observations), ACTIONS)).astype(np.float32)
        rewards = generator.uniform(0, 10, len(observations)).astype(np.float32)
        infos: list[dict[str, Any]] = [{} for _ in observations]
        dones = np.zeros(len(observations), bool)
        model.replay_buffer.add(observations, following, actions, rewards, dones, infos)
        observations = following


def report(rounds: int = 15) -> str:
    """The measured table in Markdown."""
    return timing_table("one update: K = 10, B = 128, 3x400, twin critics", measure(rounds))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns per contender (default 15)")
    arguments = parser.parse_args()
    print(machine(), report(arguments.rounds), sep="\n\n")


if __name__ == "__main__":
    main()
