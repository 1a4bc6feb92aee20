"""What the command line sets of the kinds of critics."""

from dataclasses import dataclass
from typing import Annotated

from agents.critics import CATEGORICAL_TARGETS
from agents.settings import Choice, Positive, Range


@dataclass(frozen=True)
class CategoricalSettings:
    """A critic whose values are distributions over atoms; used with ``agent.critic=categorical``.

    :param num_atoms: of the distributions, evenly spaced
    :param v_min: value of the first atom; targets below it are clipped
    :param v_max: value of the last one; targets above it are clipped
    :param target: ``projection`` moves the next state's distribution (C51), ``hl_gauss`` spreads its mean
    :param sigma: standard deviation of ``hl_gauss``, in distances between atoms
    """

    num_atoms: Annotated[int, Range(2)] = 101
    v_min: float = -10.0
    v_max: float = 10.0
    target: Annotated[str, Choice(CATEGORICAL_TARGETS)] = "projection"
    sigma: Positive = 0.75


@dataclass(frozen=True)
class PopArtSettings:
    """How values are normalised with ``agent.critic=popart``.

    :param rate: how far an update of the moments of the targets moves them; higher follows faster
    :param min_sigma: the smallest standard deviation, for tasks whose targets do not differ
    """

    rate: Annotated[float, Range(0, 1, exclusive=True)] = 3e-4
    min_sigma: Positive = 1e-2
