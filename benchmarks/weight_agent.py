"""The weight agent alone, where the best weights are known: ``python -m benchmarks.weight_agent``.

A synthetic trainer stands in for the agent whose losses are weighted: the improvable gap of task k decays at the rate
``weight_k * speed_k``, and one task is slow. Equal weights leave that task behind; weights in proportion to
``1 / speed`` bring all gaps down alike, which is the smallest worst gap that constant weights can reach.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agents.balancers.igb.agent import DDPGWeightAgent, WeightAgentSettings
from agents.balancers.igb.memory import ExplorationNoise
from agents.balancers.igb.rl import improvement_reward
from benchmarks.timing import markdown

SPEEDS = (1.0, 1.0, 0.2)
STEP = 0.1  # of the decay, per decision
LENGTH = 20  # decisions in a run of the trainer
FEATURES = 4  # gap, its last change, share of the weights, share of the run


class SyntheticTrainer:
    """K tasks whose gaps start at 1 and decay by ``exp(-STEP * weight_k * speed_k)`` per decision."""

    def __init__(self, speeds: Sequence[float] = SPEEDS) -> None:
        self.speeds = torch.tensor(list(speeds))
        self.reset()

    def reset(self) -> None:
        """Begin a run."""
        self.gaps, self.change = torch.ones_like(self.speeds), torch.zeros_like(self.speeds)
        self.shares = torch.full_like(self.speeds, 1.0 / len(self.speeds))
        self.decisions = 0

    @property
    def state(self) -> Tensor:
        """``[K, FEATURES]``."""
        time = torch.full_like(self.gaps, self.decisions / LENGTH)
        return torch.stack([self.gaps, self.change, self.shares, time], dim=1)

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.decisions >= LENGTH

    def step(self, weights: Tensor) -> Tensor:
        """Train with these weights ``[K]`` for one window; returns the reward."""
        before = self.gaps
        self.gaps = before * (-STEP * weights * self.speeds).exp()
        self.change, self.shares = before - self.gaps, weights / len(weights)
        self.decisions += 1
        return improvement_reward(before, self.gaps)


def train(agent: DDPGWeightAgent, decisions: int, updates: int = 1, warmup: int = 100, every: int = 1) -> None:
    """Let an agent decide in the trainer, one run after the other, and learn from its memory.

    :param updates: of the agent, after every `every` decisions
    :param warmup: decisions with random weights
    """
    trainer, noise = SyntheticTrainer(), ExplorationNoise(len(SPEEDS), "gaussian", 0.5, 0.1)
    for decision in range(decisions):
        if trainer.ended:
            trainer.reset()
        state = trainer.state
        if decision < warmup:
            weights = agent.random_weights()
        else:
            weights = agent.act(state, noise.draw(decision / decisions, agent.exploration))
        reward = trainer.step(weights)
        agent.memory.add(state, weights / len(weights), reward, trainer.state)
        if decision >= warmup and decision % every == 0:
            agent.learn(updates)


def worst_gap(decide: Callable[[Tensor], Tensor]) -> float:
    """Worst gap at the end of a run under a rule ``state [K, F] -> weights [K]``."""
    trainer = SyntheticTrainer()
    while not trainer.ended:
        trainer.step(decide(trainer.state))
    return float(trainer.gaps.max())


def equal_weights(state: Tensor) -> Tensor:
    """The plain average."""
    return torch.ones(len(state))


def best_weights(state: Tensor) -> Tensor:
    """In proportion to ``1 / speed``."""
    inverse = 1.0 / torch.tensor(SPEEDS)
    return inverse / inverse.mean()


def learned(seed: int, decisions: int = 2000, network: str = "equivariant", **training: int) -> float:
    """Worst gap under the weights of an agent that has learnt from scratch, without noise."""
    settings = WeightAgentSettings(network=network)
    agent = DDPGWeightAgent(len(SPEEDS), FEATURES, settings, torch.Generator().manual_seed(seed))
    train(agent, decisions, **training)
    return worst_gap(agent.act)


def report(seeds: Sequence[int], decisions: int) -> str:
    """The table in Markdown."""
    rows = [
        ["equal weights", f"{worst_gap(equal_weights):.3f}"],
        ["weights 1 / speed", f"{worst_gap(best_weights):.3f}"],
    ]
    for network in ("equivariant", "mlp"):
        gaps = [learned(seed, decisions, network) for seed in seeds]
        rows.append([f"weight agent, {network}", " ".join(f"{gap:.3f}" for gap in gaps)])
    return markdown([f"worst gap after {LENGTH} decisions, {decisions} to learn", "by seed"], rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default 5)")
    parser.add_argument("--decisions", type=int, default=2000, help="decisions to learn from (default 2000)")
    arguments = parser.parse_args()
    print(report(range(arguments.seeds), arguments.decisions))


if __name__ == "__main__":
    main()
