"""Learning from one rollout by MTPPO against Stable-Baselines3's ``PPO.train``, and what balancers add to an iteration.

``python -m benchmarks.ppo``. Both learn from equally many random transitions of MT10's shapes, with equal networks,
minibatches and epochs. SB3 sees the task as the one-hot part of the observation, as any single-task agent would.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from torch import nn

from agents import MTPPO
from benchmarks.timing import Timing, machine, markdown, take_turns, timing_table
from benchmarks.update import shapes_env
from envs import MultiTaskVecEnv, make_suite

BASELINE = "SB3 PPO.train"
BALANCERS = ("unitary", "famo", "igb_v1", "pcgrad", "cagrad", "fairgrad", "upgrad", "nash_mtl")
GAMMA, GAE_LAMBDA = 0.99, 0.97


def measure(
    rounds: int = 5,
    num_tasks: int = 10,
    samples: int = 100,
    steps: int = 400,
    epochs: int = 4,
    hidden_sizes: Sequence[int] = (256, 256, 256),
    compiled: bool = True,
) -> list[Timing]:
    """Time learning from one rollout, the contenders in turns; seconds are of this process alone.

    :param rounds: turns of each contender
    :param num_tasks: K
    :param samples: B
    :param steps: T, with one environment of each task
    :param epochs: passes over the rollout
    :param hidden_sizes: widths of actor and critic
    :param compiled: time a compiled agent too, which takes a minute at first
    """
    env = shapes_env(num_tasks)
    shared: dict[str, Any] = {"n_steps": steps, "batch_size": samples * num_tasks, "n_epochs": epochs, "seed": 0}

    def mtppo(compile: bool = False, **policy: Any) -> MTPPO:
        kwargs = {"hidden_sizes": list(hidden_sizes), **policy}
        return MTPPO(
            "MultiTaskPolicy", env, device="cpu", precision="float32", compile=compile, policy_kwargs=kwargs, **shared
        )

    plain = {"network": "mlp", "critic": "scalar", "critic_layer_norm": False, "observation_scale": "none"}
    agents = {"MTPPO, as SB3's": mtppo(**plain), "MTPPO, multihead, PopArt and LayerNorm": mtppo()}
    if compiled:
        agents["the same, compiled"] = mtppo(compile=True)
    sizes = list(hidden_sizes)
    theirs = PPO("MlpPolicy", env, device="cpu", policy_kwargs={"net_arch": sizes, "activation_fn": nn.ReLU}, **shared)
    for agent in (theirs, *agents.values()):
        fill(agent)
    contenders: dict[str, Callable[[], object]] = {BASELINE: theirs.train}
    contenders |= {name: agent.train for name, agent in agents.items()}
    timings = take_turns(contenders, rounds, clock=time.process_time)
    env.close()
    return timings


def fill(model: PPO | MTPPO) -> None:
    """The same random rollout for every model; rewards of order one, no episode ends."""
    generator = np.random.default_rng(0)
    model.set_logger(configure(format_strings=[]))
    model.learning_rate = 0.0  # every turn learns from the same state
    model._setup_lr_schedule()
    assert model.env is not None
    observations = model.env.reset()
    assert isinstance(observations, np.ndarray)
    envs, size = observations.shape
    starts = np.zeros(envs, np.float32)
    for _ in range(model.n_steps):
        following = observations.copy()
        following[:, : size - envs] = generator.normal(size=(envs, size - envs))
        actions = torch.from_numpy(generator.uniform(-1, 1, (envs, 4)).astype(np.float32))
        rewards = generator.uniform(0, 1, envs).astype(np.float32)
        nothing = torch.zeros(envs)
        if isinstance(model, MTPPO):
            model.rollout.add(observations, actions, nothing, rewards, np.zeros(envs, bool), [{}] * envs)
        else:
            model.rollout_buffer.add(observations, actions.numpy(), rewards, starts, nothing, nothing)
        observations = following
    model._last_obs = observations
    if isinstance(model, PPO):
        model.rollout_buffer.compute_returns_and_advantage(torch.zeros(envs), starts.astype(bool))


class _Nothing(BaseCallback):
    def _on_step(self) -> bool:
        return True


def iterations(
    rounds: int = 3,
    balancers: Sequence[str] = BALANCERS,
    make_env: Callable[[], MultiTaskVecEnv] | None = None,
    n_epochs: int = 8,
    samples: int = 100,
) -> list[tuple[str, float, float]]:
    """What balancers on both sides cost: learning, and a whole iteration with its simulation, against ``unitary``.

    :param rounds: iterations of each
    :param balancers: by name; the first is the baseline
    :param make_env: the environments; MT10 with four copies in this process, if it is not given
    :param n_epochs: passes over each rollout
    :param samples: B
    :return: name, ratio of learning, ratio of the whole iteration
    """
    env = make_env() if make_env else make_suite("mt10").make_vec_env(seed=0, copies=4, workers=0, horizon=200)
    agents = {
        name: MTPPO(
            "MultiTaskPolicy", env, device="cpu", precision="float32", n_steps=200, n_epochs=n_epochs,
            batch_size=samples * env.num_tasks, balancer=name, seed=0,
        )
        for name in balancers
    }  # fmt: skip
    for agent in agents.values():
        agent.learn(200 * env.num_envs, log_interval=None)  # a first iteration, with everything that is built once
        agent._last_obs = env.reset()
    first, callback = agents[balancers[0]], _Nothing()
    callback.init_callback(first)
    (simulation,) = take_turns({"": partial(first._collect, callback)}, rounds, 0, time.process_time)
    learning = take_turns({name: agent.train for name, agent in agents.items()}, rounds, 1, time.process_time)
    env.close()
    whole = simulation.seconds + learning[0].seconds
    return [(one.name, one.ratio, (simulation.seconds + one.ratio * learning[0].seconds) / whole) for one in learning]


def report(rounds: int = 5) -> str:
    """The measured tables in Markdown."""
    learning = timing_table("learning from 4,000 transitions: K = 10, B = 100, 4 epochs, 3x256", measure(rounds))
    rows = [[name, f"{ratio:.2f}", f"{whole:.2f}"] for name, ratio, whole in iterations()]
    header = ["MTPPO on MT10, both sides", "learning : unitary", "whole iteration : unitary"]
    return f"{learning}\n\n{markdown(header, rows)}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default 5)")
    rounds = parser.parse_args().rounds
    print(f"{machine()}\n\n{report(rounds)}")


if __name__ == "__main__":
    main()
