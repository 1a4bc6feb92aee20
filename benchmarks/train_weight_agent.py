"""Train the weight agent of IGB-RL across runs: ``python -m benchmarks.train_weight_agent OUT``.

Three steps, each kept in OUT so that the next can be repeated alone: runs of the closed form with noise on its logits
(``collect``), a DDPG agent on what they brought (``fit``), and the agent against its prior, the gap alone and equal
shares on families that it was not trained on (``judge``).
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from agents.balancers.igb.ddpg_agent import ENOUGH, REWARD_SCALE, DDPGWeightAgent
from agents.balancers.igb.memory import Decisions
from agents.balancers.igb.rule import Course, Situation, rewards_of, shares_of, with_floor
from agents.balancers.igb.shipped import SETTINGS, fill_agent, write_weight_agent
from benchmarks.families import HELD_OUT, TRAINED, Family
from benchmarks.stacked import Rule, Window, train
from benchmarks.timing import markdown

FLOOR = 0.2
NOISE = 0.7  # standard deviation on the logits of the closed form, while experience is collected
UPDATES, BATCH_SIZE = 3_000, 128  # of the agent, offline
UNSEEN = 0.25  # share of the runs that the critic is tested on before it learns from all

Decider = Callable[[Situation], Tensor]  # weights [R, K]


class Following:
    """A rule for `benchmarks.stacked` that keeps the course of R runs, and the decisions that were made."""

    def __init__(self, decide: Decider) -> None:
        self.decide = decide
        self.course: Course | None = None
        self.states: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.gaps: list[Tensor] = []

    def __call__(self, number: int, window: Window, used: float) -> Tensor:
        gaps = window.gaps
        before, weights = self.course, self.weights[-1] if self.weights else torch.ones_like(gaps)
        self.course = Course.beginning(gaps) if before is None else before.after(gaps, weights)
        falls = torch.zeros_like(gaps) if before is None else before.gaps - gaps
        full = torch.full_like(gaps, used)
        situation = Situation(gaps, falls, window.success, self.course.interest, weights, full)
        decided = self.decide(situation)
        self.states.append(situation.features())
        self.weights.append(decided)
        self.gaps.append(gaps)
        return decided

    def decisions(self) -> Decisions:
        """All but the last decision of every run, run after run: what it brought is known."""
        tasks = self.gaps[0].shape[1]
        rewards = [REWARD_SCALE * rewards_of(*pair) for pair in zip(self.gaps[:-1], self.gaps[1:], strict=True)]
        parts = (self.states[:-1], [w / tasks for w in self.weights[:-1]], rewards, self.states[1:])
        return Decisions(*(torch.stack(part, 1).flatten(0, 1) for part in parts))


def closed_form(situation: Situation) -> Tensor:
    """The prior: gap with patience."""
    return with_floor(shares_of(situation.gaps, situation.interest), FLOOR)


def gap_alone(situation: Situation) -> Tensor:
    """In proportion to the gap, without patience."""
    return with_floor(shares_of(situation.gaps, torch.ones_like(situation.gaps)), FLOOR)


def equal_shares(situation: Situation) -> Tensor:
    """Plain averaging."""
    return torch.ones_like(situation.gaps)


def noisy(generator: torch.Generator) -> Decider:
    """The closed form with noise on its logits."""

    def decide(situation: Situation) -> Tensor:
        logits = shares_of(situation.gaps, situation.interest).log()
        noise = NOISE * torch.randn(logits.shape, generator=generator)
        return with_floor((logits + noise).softmax(-1), FLOOR)

    return decide


def collect(name: str, family: Family, runs: int, seed: int) -> Decisions:
    """Experience of one family of tasks."""
    generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
    rule = Following(noisy(generator))
    train(family(runs, generator), rule, seed)
    return rule.decisions()


def fit(experience: list[tuple[int, Decisions]], seed: int) -> tuple[DDPGWeightAgent, float]:
    """An agent that has learnt from all experience, and the critic's R^2 on runs that were kept from it.

    :param experience: of every family, its runs and decisions
    """
    known, unseen = zip(*(_split(runs, decisions) for runs, decisions in experience), strict=True)
    skill = _skill(_learn(list(known), seed), list(unseen))
    return _learn([decisions for _, decisions in experience], seed), skill


def _split(runs: int, decisions: Decisions) -> tuple[Decisions, Decisions]:
    """Decisions of most of the runs, and of the others."""
    first = int((1 - UNSEEN) * runs) * (len(decisions.rewards) // runs)
    return Decisions(*(part[:first] for part in decisions)), Decisions(*(part[first:] for part in decisions))


def _learn(families: list[Decisions], seed: int) -> DDPGWeightAgent:
    generator = torch.Generator().manual_seed(seed)
    agent = DDPGWeightAgent(families[0].shares.shape[1], SETTINGS, generator, FLOOR)
    for update in range(UPDATES):
        decisions = families[update % len(families)]
        rows = torch.randint(len(decisions.rewards), (BATCH_SIZE,), generator=generator)
        agent.update(Decisions(*(part[rows] for part in decisions)))
    return agent


@torch.no_grad()
def _skill(agent: DDPGWeightAgent, families: list[Decisions]) -> float:
    errors = torch.cat([(agent.critic(d.states, d.shares)[0] - d.rewards).flatten() for d in families])
    rewards = torch.cat([d.rewards.flatten() for d in families])
    return float(1 - errors.square().mean() / rewards.var(correction=0))


def worst_success(family: Family, decide: Decider, runs: int, seed: int) -> Tensor:
    """Area under the curve of the worst reachable task's success ``[R]``."""
    tasks = family(runs, torch.Generator().manual_seed(seed))
    rule: Rule = Following(decide)
    return torch.where(tasks.reachable, train(tasks, rule, seed), 2.0).amin(-1).mean(0)


def interval(differences: Tensor) -> str:
    """Mean and 95 % bootstrap interval of paired differences ``[R]``."""
    draw = torch.randint(len(differences), (4000, len(differences)), generator=torch.Generator().manual_seed(0))
    low, high = differences[draw].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def load_agent(path: Path) -> DDPGWeightAgent:
    """The agent of a file, for any number of tasks at once."""
    agent = DDPGWeightAgent(1, SETTINGS, torch.Generator().manual_seed(0), FLOOR)
    fill_agent(agent, str(path))
    return agent


@torch.no_grad()
def table(names: list[str], agent: DDPGWeightAgent, runs: int, seed: int) -> str:
    """The comparison in Markdown."""
    deciders: dict[str, Decider] = {
        "agent": lambda situation: agent.weights(situation.features()),
        "closed form": closed_form,
        "gap alone": gap_alone,
        "equal shares": equal_shares,
    }
    rows = []
    for name in names:
        found = {}
        for rule, decide in deciders.items():
            found[rule] = worst_success({**TRAINED, **HELD_OUT}[name], decide, runs, seed)
            print(f"{name} {rule} {found[rule].mean():.3f}", flush=True)
        others = [interval(found["agent"] - found[rule]) for rule in list(deciders)[1:]]
        rows.append([name, *(f"{found[rule].mean():.3f}" for rule in deciders), *others])
    return markdown(["family", *deciders, *(f"agent minus {rule}" for rule in list(deciders)[1:])], rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where experience and agent are kept")
    parser.add_argument("step", choices=("collect", "fit", "judge"))
    parser.add_argument("--families", nargs="+", default=None, help="names in benchmarks/families.py")
    parser.add_argument("--runs", type=int, default=24, help="runs per family (default 24)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, runs, seed = arguments.folder, arguments.runs, arguments.seed
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.step == "collect":
        for name in arguments.families or TRAINED:
            decisions = collect(name, TRAINED[name], runs, seed)
            torch.save({"runs": runs, "seed": seed, **decisions._asdict()}, folder / f"{name}-{seed}.pt")
    elif arguments.step == "fit":
        files = sorted(folder.glob("*-*.pt"))
        loaded = [torch.load(file, weights_only=True) for file in files]
        experience = [(found["runs"], Decisions(*(found[name] for name in Decisions._fields))) for found in loaded]
        agent, skill = fit(experience, seed)
        spread = torch.cat([decisions.rewards.flatten() for _, decisions in experience]).var(correction=0)
        evidence = torch.tensor([ENOUGH, 4 * ENOUGH, 0.0, 4 * ENOUGH * spread, 4 * ENOUGH * spread * (1 - skill)])
        card = {
            "experience": [file.stem for file in files],
            "decisions": sum(len(decisions.rewards) for _, decisions in experience),
            "updates": UPDATES,
            "skill": skill,
        }
        write_weight_agent(folder / "weight_agent.pt", agent, evidence, card)
        print(f"{card['decisions']} decisions, R^2 on unseen runs {skill:.3f}")
    else:
        agent = load_agent(folder / "weight_agent.pt")
        print(table(arguments.families or list(HELD_OUT), agent, runs, seed))


if __name__ == "__main__":
    main()
