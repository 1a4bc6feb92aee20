"""The small arithmetic of Meta-World's rewards without the generality that it pays for: the same bits, in less time.

Every function here stands for one of NumPy's, SciPy's or Meta-World's. It does the same operations in the same order on
the inputs that rewards are made of, and passes anything else on to the original. :func:`substitutes` compares each with
its original before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from math import inf, sqrt
from typing import Any

import numpy as np
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

# What np.clip ends in, without the way there.
clip: Any = getattr(getattr(np, "_core", np), "umath", np).clip

_REALS = frozenset((float, int, np.float64))
_FLOATS = frozenset((float, np.float64))
_DOUBLE = np.dtype(np.float64)
_Case = tuple[Any, ...]


def norm(x: Any, ord: Any = None, **options: Any) -> Any:
    """``numpy.linalg.norm``, here for a vector [n] of doubles and the Euclidean norm."""
    if type(x) is np.ndarray and x.ndim == 1 and x.dtype is _DOUBLE and (ord is None or ord == 2) and not options:
        x = x.ravel("K")
        return np.float64(sqrt(x.dot(x)))
    return np.linalg.norm(x, ord, **options)


def tolerance(
    x: Any,
    bounds: tuple[Any, Any] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """``reward_utils.tolerance``, here for numbers, sigmoid ``long_tail`` and the default value at the margin."""
    lower, upper = bounds
    if (
        sigmoid == "long_tail"
        and value_at_margin == 0.1
        and type(x) in _FLOATS
        and type(margin) in _REALS
        and type(lower) in _REALS
        and type(upper) in _REALS
        and lower <= upper
        and 0.0 < margin < inf
    ):
        if lower <= x <= upper:
            return 1.0
        x = float(x)
        distance = (lower - x if x < lower else x - upper) / float(margin)
        if distance < 1e100:  # its square is finite; also false for what is not a number
            return float(1 / ((distance * 3.0) ** 2 + 1))  # 3 = sqrt(1 / 0.1 - 1)
    return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)


def rect_prism_tolerance(curr: Any, zero: Any, one: Any) -> Any:
    """``reward_utils.rect_prism_tolerance``, here for points [3] of doubles."""
    if curr.dtype is not _DOUBLE or zero.dtype is not _DOUBLE or one.dtype is not _DOUBLE:
        return reward_utils.rect_prism_tolerance(curr, zero, one)
    scale = 1.0
    for value, start, end in zip(curr.tolist(), zero.tolist(), one.tolist(), strict=True):
        if not (start <= value <= end if end >= start else end <= value <= start):
            return 1.0
        if start == end:
            return reward_utils.rect_prism_tolerance(curr, zero, one)
        scale *= (value - start) / (end - start)
    return np.float64(scale)


class MatrixRotation:
    """``scipy.spatial.transform.Rotation`` of one matrix, for those who ask for nothing but its quaternion.

    :param matrix: [3, 3].
    """

    __slots__ = ("matrix",)

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> MatrixRotation:
        """As SciPy's."""
        return cls(matrix)

    def as_quat(self) -> np.ndarray:
        """The quaternion [4] (x, y, z, w) of the matrix, by its largest entry."""
        (a, b, c), (d, e, f), (g, h, i) = self.matrix.tolist()
        # SciPy refuses reflections and first makes a matrix orthogonal that is not: left to it, with a wide margin.
        off = max(abs(a * d + b * e + c * f), abs(a * g + b * h + c * i), abs(d * g + e * h + f * i))
        on = max(abs(a * a + b * b + c * c - 1), abs(d * d + e * e + f * f - 1), abs(g * g + h * h + i * i - 1))
        if not (off < 1e-13 and on < 1e-6 and a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) > 0.5):
            return Rotation.from_matrix(self.matrix).as_quat()
        trace = a + e + i
        largest = max(a, e, i, trace)
        if largest == a:
            x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
        elif largest == e:
            x, y, z, w = d + b, 1 - trace + 2 * e, h + f, c - g
        elif largest == i:
            x, y, z, w = g + c, h + f, 1 - trace + 2 * i, d - b
        else:
            x, y, z, w = h - f, c - g, d - b, 1 + trace
        length = sqrt(x * x + y * y + z * z + w * w)
        return np.array([x / length, y / length, z / length, w / length])


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """``Rotation.from_matrix(matrix).as_quat()``: [3, 3] -> [4]."""
    return MatrixRotation(matrix).as_quat()


@cache
def substitutes() -> dict[str, Any]:
    """What to use under the names ``norm``, ``tolerance``, ``rect_prism_tolerance`` and ``Rotation``.

    Bits depend on the processor and on the versions of NumPy and SciPy. So each function is first compared with its
    original on this machine (some milliseconds, once per process), and the original is taken where they differ.
    """
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=n) for n in (2, 3, 4) for _ in range(60)]
    numbers = rng.uniform(0.0, 0.6, (60, 3))
    tails = [(x, (0, upper / 4), margin, "long_tail") for x, upper, margin in numbers]
    prisms = [(rng.uniform(-1.0, 1.0, 3), np.array([-1.0, 0.9, -1.0]), np.array([0.8, -1.0, 1.0])) for _ in range(60)]
    # Half of them turned by little, as objects that stand on a table are: then the trace is the largest entry.
    turns = [rng.normal(size=4) + np.array([0.0, 0.0, 0.0, 4.0 * (k % 2)]) for k in range(120)]
    matrices = [(Rotation.from_quat(turn).as_matrix(),) for turn in turns]
    same_turn = _same(quaternion, lambda matrix: Rotation.from_matrix(matrix).as_quat(), matrices)
    return {
        "norm": _exact(norm, np.linalg.norm, [(vector,) for vector in vectors]),
        "tolerance": _exact(tolerance, reward_utils.tolerance, tails),
        "rect_prism_tolerance": _exact(rect_prism_tolerance, reward_utils.rect_prism_tolerance, prisms),
        "Rotation": MatrixRotation if same_turn else Rotation,
    }


def _exact(substitute: Callable[..., Any], original: Callable[..., Any], cases: Iterable[_Case]) -> Callable[..., Any]:
    return substitute if _same(substitute, original, cases) else original


def _same(substitute: Callable[..., Any], original: Callable[..., Any], cases: Iterable[_Case]) -> bool:
    return all(
        type(mine := substitute(*case)) is type(theirs := original(*case))
        and np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
        for case in cases
    )
