"""The weight agent alone, where the best weights are known: ``python -m benchmarks.weight_agent``.

A synthetic trainer stands in for the agent whose tasks are weighted: the improvable gap of task k decays at the rate
``weight_k * speed_k``, and one task is slow. Equal weights leave that task behind; weights in proportion to
``1 / speed`` bring all gaps down alike, which is the smallest worst gap that constant weights can reach.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agents.balancers.igb.agent import WeightAgentSettings
from agents.balancers.igb.ddpg_agent import DDPGWeightAgent
from agents.balancers.igb.rule import Situation, rewards_of, shares_of, with_floor
from benchmarks.timing import markdown

SPEEDS = (1.0, 1.0, 0.2)
STEP = 0.1  # of the decay, per decision
LENGTH = 20  # decisions in a run of the trainer
FLOOR = 0.1
NOISE = 0.5  # standard deviation on the logits while it learns

Decider = Callable[[Situation], Tensor]


class SyntheticTrainer:
    """K tasks whose gaps start at 1 and decay by ``exp(-STEP * weight_k * speed_k)`` per decision."""

    def __init__(self, speeds: Sequence[float] = SPEEDS) -> None:
        self.speeds = torch.tensor(list(speeds))
        self.reset()

    def reset(self) -> None:
        """Begin a run."""
        self.gaps, self.falls = torch.ones_like(self.speeds), torch.zeros_like(self.speeds)
        self.weights, self.decisions = torch.ones_like(self.speeds), 0

    @property
    def situation(self) -> Situation:
        """What a decision is made from."""
        ones = torch.ones_like(self.gaps)
        used = ones * (self.decisions / LENGTH)
        return Situation(self.gaps, self.falls, 1 - self.gaps, ones, self.weights, used)

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.decisions >= LENGTH

    def step(self, weights: Tensor) -> Tensor:
        """Train with these weights ``[K]`` for one window; returns the rewards of the tasks."""
        before = self.gaps
        self.gaps = before * (-STEP * weights * self.speeds).exp()
        self.falls, self.weights = before - self.gaps, weights
        self.decisions += 1
        return rewards_of(before, self.gaps)


def worst_gap(decide: Decider) -> float:
    """Worst gap at the end of a run."""
    trainer = SyntheticTrainer()
    while not trainer.ended:
        trainer.step(decide(trainer.situation))
    return float(trainer.gaps.max())


def equal_weights(situation: Situation) -> Tensor:
    """The plain average."""
    return torch.ones_like(situation.gaps)


def best_weights(situation: Situation) -> Tensor:
    """In proportion to ``1 / speed``."""
    inverse = 1.0 / torch.tensor(SPEEDS)
    return inverse / inverse.mean()


def closed_form(situation: Situation) -> Tensor:
    """The prior of the agent."""
    return with_floor(shares_of(situation.gaps, situation.interest), FLOOR)


def prior_worst() -> float:
    """Worst gap under the prior of the agent."""
    return worst_gap(closed_form)


def learned(seed: int, decisions: int = 2000) -> float:
    """Worst gap under the weights of an agent that has learnt from scratch, without noise."""
    agent = DDPGWeightAgent(len(SPEEDS), WeightAgentSettings(), torch.Generator().manual_seed(seed), FLOOR)
    trainer, draw = SyntheticTrainer(), torch.Generator().manual_seed(seed + 1)
    for _ in range(decisions):
        if trainer.ended:
            trainer.reset()
        state = trainer.situation.features()
        noise = NOISE * torch.randn(1, len(SPEEDS), generator=draw)
        with torch.no_grad():
            weights = agent.weights(state[None], noise=noise)[0]
        rewards = trainer.step(weights)
        agent.remember(state, weights, rewards, trainer.situation.features())
        agent.learn(1, 64)

    def decide(situation: Situation) -> Tensor:
        with torch.no_grad():
            return agent.weights(situation.features()[None])[0]

    return worst_gap(decide)


def report(seeds: Sequence[int], decisions: int) -> str:
    """The table in Markdown."""
    rules = (("equal weights", equal_weights), ("closed form", closed_form), ("weights 1 / speed", best_weights))
    rows = [[name, f"{worst_gap(rule):.3f}"] for name, rule in rules]
    gaps = [learned(seed, decisions) for seed in seeds]
    rows.append(["weight agent", " ".join(f"{gap:.3f}" for gap in gaps)])
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
