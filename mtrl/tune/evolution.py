"""Who is copied, and how the copy differs: pure functions of outcomes, weights and a generator.

*Source*: Jaderberg et al., *Population Based Training of Neural Networks*, arXiv 1711.09846; its use for task weights:
Royer et al., *Scalarization for Multi-Task and Multi-Domain Learning at Scale*, arXiv 2310.08910.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FACTORS = (0.8, 1.25)
RESAMPLE = 0.25  # probability that a copy's weights are drawn afresh instead of perturbed
QUANTILE = 0.25  # share of the members that are replaced, and share that they are replaced by
FLOOR = 0.05  # least weight of a task, where equal weights are 1


@dataclass(frozen=True)
class Genes:
    """What a member does not have in common with the others.

    :param weights: of the tasks, of sum K, ``[K]``
    :param learning_rate: None where it is not searched
    :param target_entropy: in nats; None where it is not searched
    """

    weights: tuple[float, ...]
    learning_rate: float | None = None
    target_entropy: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a member did in an interval.

    :param metric: what the search raises, from training episodes; None if it is not known
    :param worst: the same of the worst task, which decides between equals
    :param fault: why the member cannot continue: it diverged, or failed; None if it can
    """

    metric: float | None
    worst: float | None
    fault: str | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Orders outcomes: last come those with a fault, before them those of which nothing is known."""
        if self.fault is not None:
            return -math.inf, -math.inf
        if self.metric is None or math.isnan(self.metric):
            return -math.inf, 0.0
        return self.metric, -math.inf if self.worst is None or math.isnan(self.worst) else self.worst


def ranking(outcomes: Sequence[Outcome]) -> list[int]:
    """Members by outcome, the best first; equals in the order of their numbers."""
    return sorted(range(len(outcomes)), key=lambda member: outcomes[member].rank, reverse=True)


def exploit(outcomes: Sequence[Outcome], quantile: float, generator: np.random.Generator) -> dict[int, int]:
    """Which members become copies of which.

    The worst share of the members are replaced, each by one of the best share that did better than it; whoever has a
    fault is replaced in any case.

    :param outcomes: of N members
    :param quantile: the share, 0 to 0.5; 0 replaces those with a fault alone
    :return: ``{member: the one it becomes a copy of}``; empty where nobody can be copied
    """
    order = ranking(outcomes)
    count = min(math.ceil(quantile * len(order)), len(order) // 2)
    best = [member for member in order[: max(count, 1)] if outcomes[member].fault is None]
    faulty = {member for member in order if outcomes[member].fault is not None}
    copies: dict[int, int] = {}
    for member in sorted(faulty.union(order[len(order) - count :])):
        better = [parent for parent in best if member in faulty or outcomes[parent].rank > outcomes[member].rank]
        if better:
            copies[member] = int(generator.choice(better))
    return copies


def on_simplex(raw: np.ndarray, floor: float = FLOOR) -> tuple[float, ...]:
    """Weights of sum K in proportion to positive numbers, save that none is below the floor.

    :param raw: ``[K]``
    :param floor: below 1
    """
    low = np.zeros(len(raw), dtype=bool)
    while True:
        above = len(raw) - floor * low.sum()
        weights = np.where(low, floor, raw * (above / raw[~low].sum()))
        below = (weights < floor) & ~low
        if not below.any():
            return tuple(weights.tolist())
        low |= below


def random_weights(num_tasks: int, generator: np.random.Generator, floor: float = FLOOR) -> tuple[float, ...]:
    """Weights drawn uniformly from the simplex."""
    return on_simplex(generator.dirichlet(np.ones(num_tasks)) + 1e-12, floor)


def perturb(weights: Sequence[float], generator: np.random.Generator, floor: float = FLOOR) -> tuple[float, ...]:
    """Weights near those of a better member, or, one time in four, anywhere on the simplex.

    :param weights: ``[K]``
    """
    if generator.random() < RESAMPLE:
        return random_weights(len(weights), generator, floor)
    return on_simplex(np.asarray(weights) * generator.choice(FACTORS, size=len(weights)), floor)


def perturb_number(value: float | None, generator: np.random.Generator) -> float | None:
    """A number a factor away; None stays None."""
    return None if value is None else value * float(generator.choice(FACTORS))


def explore(genes: Genes, generator: np.random.Generator, floor: float = FLOOR) -> Genes:
    """The genes of a copy: near those of the member it was made of."""
    return Genes(
        perturb(genes.weights, generator, floor),
        perturb_number(genes.learning_rate, generator),
        perturb_number(genes.target_entropy, generator),
    )


def founders(population: int, genes: Genes, generator: np.random.Generator, floor: float = FLOOR) -> tuple[Genes, ...]:
    """The first generation: equal weights, then weights drawn from the simplex; numbers within a factor of two.

    :param population: N
    :param genes: equal weights, and the config's own numbers where they are searched
    """
    num_tasks = len(genes.weights)
    return (
        genes,
        *(
            Genes(
                random_weights(num_tasks, generator, floor),
                *(
                    None if value is None else value * 2 ** generator.uniform(-1, 1)
                    for value in (genes.learning_rate, genes.target_entropy)
                ),
            )
            for _ in range(population - 1)
        ),
    )
