"""PB2: the weights of a copy are chosen by Ray's Gaussian-process bandit instead of drawn.

*Source*: Parker-Holder et al., *Provably Efficient Online Hyperparameter Optimization with Population-Based Bandits*,
arXiv 2002.02518, as it is in ``ray.tune.schedulers.pb2``.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mtrl.errors import MissingExtra
from mtrl.tune.evolution import Genes, explore, on_simplex
from mtrl.tune.population import Book, Settings

if TYPE_CHECKING:
    import pandas

RANGE = 4.0  # numbers are searched within this factor of the config's own


def require_bandit() -> None:
    """:raises MissingExtra: if what Ray's PB2 needs is not installed"""
    try:
        import ray.tune.schedulers.pb2  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"algorithm pb2 needs Ray Tune and scikit-learn, and {error.name} is not installed: "
            "pip install 'mtrl-toolkit[tune]'."
        ) from error


def explore_by_bandit(book: Book, copies: Mapping[int, int], generator: np.random.Generator) -> dict[int, Genes]:
    """The genes of copies where a model of all intervals so far expects, or has yet to learn about, the most gain.

    The model sees the logarithms of weights and numbers, within the floor and `RANGE`. A parent that has not yet gone
    through two intervals with the same genes gives no gain to learn from; its copy is perturbed as PBT does.
    """
    from ray.tune.schedulers.pb2 import _explore

    data, limits = history(book), bounds(book.settings)
    members = book.generations[-1].members
    chosen: list[list[float]] = []
    found: dict[int, Genes] = {}
    for child, parent in copies.items():
        genes = members[parent].genes
        now = as_numbers(genes)
        current = np.array(chosen) if chosen else None
        with _seeded(int(generator.integers(2**32))):
            numbers, _ = _explore(data, limits, current, f"member {parent}", f"member {child}", now)
        if numbers == now:
            found[child] = explore(genes, generator, book.settings.floor)
        else:
            found[child] = as_genes(numbers, genes, book.settings)
        chosen.append(list(as_numbers(found[child]).values()))
    return found


def history(book: Book) -> "pandas.DataFrame":
    """Every interval so far as PB2 wants it: ``Trial, Time, <numbers>, Reward``, with a row where a copy begins."""
    import pandas

    rows: list[dict[str, Any]] = []
    for time, generation in enumerate(book.generations):
        for number, member in enumerate(generation.members):
            row = {"Trial": f"member {number}", **as_numbers(member.genes)}
            if member.parent is not None:
                before = book.generations[time - 1].outcomes
                assert before is not None
                rows.append({**row, "Time": time, "Reward": before[member.parent].metric})
            if generation.outcomes is not None:
                rows.append({**row, "Time": time + 1, "Reward": generation.outcomes[number].metric})
    columns = ["Trial", "Time", *bounds(book.settings), "Reward"]
    frame = pandas.DataFrame(rows, columns=columns)
    return frame.astype({"Reward": float}).dropna().reset_index(drop=True)


def bounds(settings: Settings) -> dict[str, tuple[float, float]]:
    """Least and largest value of every number that the model sees."""
    weights = (math.log(settings.floor or 1e-3), math.log(len(settings.tasks)))
    return {
        **{f"weight {task}": weights for task in range(len(settings.tasks))},
        **{name: _around(abs(float(settings.config["agent"][name]))) for name in settings.also},
    }


def as_numbers(genes: Genes) -> dict[str, float]:
    """Genes as the model sees them."""
    numbers = {f"weight {task}": math.log(max(weight, 1e-12)) for task, weight in enumerate(genes.weights)}
    searched = {"learning_rate": genes.learning_rate, "target_entropy": genes.target_entropy}
    return {**numbers, **{name: math.log(abs(value)) for name, value in searched.items() if value is not None}}


def as_genes(numbers: Mapping[str, float], like: Genes, settings: Settings) -> Genes:
    """Undo `as_numbers`; weights are brought back to the simplex.

    :param like: tells which numbers are searched, and their signs
    """
    raw = np.exp([numbers[f"weight {task}"] for task in range(len(like.weights))])
    rate, entropy = like.learning_rate, like.target_entropy
    return Genes(
        on_simplex(raw, settings.floor),
        None if rate is None else math.exp(numbers["learning_rate"]),
        None if entropy is None else math.copysign(math.exp(numbers["target_entropy"]), entropy),
    )


def _around(value: float) -> tuple[float, float]:
    return math.log(value / RANGE), math.log(value * RANGE)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Ray's bandit draws from NumPy's global generator: here with a seed of ours, and left as it was."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
