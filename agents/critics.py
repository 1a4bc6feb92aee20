"""How a critic's outputs become values and a loss: one number, raw or normalised, or a distribution over atoms.

Shapes: E critics, G groups (tasks) of B samples, O outputs per value. All of it is computed in float32: sums and
elementwise products alone, which autocast leaves as they are.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError, unknown_name
from agents.networks.layers import TaskHeads
from agents.registry import Record, Registry, describe

REDUCTIONS = ("min", "mean")
CATEGORICAL_TARGETS = ("projection", "hl_gauss")


class Value(nn.Module):
    """What all kinds have in common.

    :param reduction: one value of E: ``min``, the smallest (clipped double Q, arXiv 1802.09477), or ``mean``
    """

    outputs: int  # O, numbers that the network gives for each value
    limit = 10.0  # the largest absolute value that `reward_scale=return` makes room for
    unit: Tensor | float = 1.0  # in which the actor measures the values of each group ``[G]``

    def __init__(self, reduction: str = "min") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise unknown_name("ensemble_reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def for_tasks(self, task: Tensor) -> "Value":
        """The values of groups of these tasks ``[G]``; the same object, where all tasks share one scale."""
        return self

    def values(self, outputs: Tensor) -> Tensor:
        """Value of every critic: ``[E, G, B, O] -> [E, G, B]``."""
        raise NotImplementedError

    def reduced(self, outputs: Tensor) -> Tensor:
        """One value of the E critics: ``[E, G, B, O] -> [G, B]``."""
        values = self.values(outputs)
        return values.amin(0) if self.reduction == "min" else values.mean(0)

    def target(self, next_outputs: Tensor, rewards: Tensor, discounts: Tensor, entropy_bonus: Tensor) -> Tensor:
        """What the outputs should become; of ``r + gamma (1 - terminal) (Q(s', a') - alpha log pi(a'|s'))``.

        :param next_outputs: target critics at the next state ``[E, G, B, O]``
        :param rewards: ``[G, B]``
        :param discounts: ``gamma (1 - terminal)``, ``[G, B]``
        :param entropy_bonus: ``-alpha log pi``, ``[G, B]``
        """
        raise NotImplementedError

    def target_of(self, values: Tensor) -> Tensor:
        """What the outputs should become where the values ``[G, B]`` are known, as from a rollout."""
        return values

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Loss of every task ``[G]``, the mean over its samples summed over the critics."""
        raise NotImplementedError

    def metrics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What there is to know beside the losses, each ``[G]``; outputs without graph."""
        raise NotImplementedError


class ScalarValue(Value):
    """One output per critic is the value itself; the loss is half the squared TD error, summed over critics."""

    outputs = 1

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def target(self, next_outputs: Tensor, rewards: Tensor, discounts: Tensor, entropy_bonus: Tensor) -> Tensor:
        """The TD target itself, ``[G, B]``."""
        return rewards + discounts * (self.reduced(next_outputs) + entropy_bonus)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``0.5 sum_e mean_b (Q_e - target)^2``: ``[E, G, B, 1], [G, B] -> [G]``."""
        return _half_squares(self.values(outputs), target)

    def metrics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        return _spread(self.values(outputs), target)


class NormalisedValue(ScalarValue):
    """The value is ``sigma_g`` times the output plus ``mu_g``, and the loss is that of the normalised target.

    :param mu: ``[G]``
    :param sigma: ``[G]``
    """

    def __init__(self, reduction: str, mu: Tensor, sigma: Tensor) -> None:
        super().__init__(reduction)
        self._mu, self._sigma, self.unit = mu[:, None], sigma[:, None], sigma

    def values(self, outputs: Tensor) -> Tensor:
        return torch.addcmul(self._mu, self._sigma, outputs.squeeze(-1))

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``0.5 sum_e mean_b (output_e - (target - mu) / sigma)^2``: ``[E, G, B, 1], [G, B] -> [G]``."""
        return _half_squares(outputs.squeeze(-1), (target - self._mu) / self._sigma)

    def metrics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """In units of values; ``squared_error`` is what the loss of a scalar critic would be."""
        values = self.values(outputs)
        return {**_spread(values, target), "squared_error": _half_squares(values, target)}


class PopArtValue(Value):
    """PopArt: one output per critic, normalised by running moments of each task's targets.

    When the moments of task k move, row k of the critic's heads is corrected so that its values stay as they are.
    Critic and target critic share one object of this class, since the moments belong to the tasks and not to a network:
    so their heads stay on one scale, and Polyak averages between them mean what they should.
    Source: van Hasselt et al. 2016, arXiv 1602.07714; per task, Hessel et al. 2019, arXiv 1809.04474. They average
    exponentially from the start. Here the first ``1 / rate`` updates have equal weight, so no trace of the initial
    moments remains.

    :param num_tasks: K
    :param rate: how far an update moves the moments, in (0, 1]; higher follows faster
    :param min_sigma: the smallest standard deviation, for tasks whose targets do not differ
    """

    outputs = 1
    mu: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(self, reduction: str = "min", *, num_tasks: int, rate: float = 3e-4, min_sigma: float = 1e-2) -> None:
        super().__init__(reduction)
        if not 0 < rate <= 1:
            raise ConfigurationError(f"rate must lie in (0, 1], found {rate:g}.")
        if not min_sigma > 0:
            raise ConfigurationError(f"min_sigma must be greater than 0, found {min_sigma:g}.")
        self.rate, self.min_sigma = rate, min_sigma
        self.register_buffer("mu", torch.zeros(num_tasks))
        self.register_buffer("variance", torch.ones(num_tasks))  # not the second moment: that would cancel digits
        self.register_buffer("updates", torch.zeros(num_tasks))

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of every task's targets ``[K]``, at least `min_sigma`."""
        return self.variance.clamp(min=self.min_sigma**2).sqrt()

    def for_tasks(self, task: Tensor) -> NormalisedValue:
        return NormalisedValue(self.reduction, self.mu[task], self.sigma[task])

    @torch.no_grad()
    def update(self, targets: Tensor, task: Tensor, heads: Sequence[nn.Module]) -> None:
        """Move the moments of some tasks, and correct the heads. Tasks with a target that is not finite keep theirs.

        :param targets: ``[G, B]``, in units of values
        :param task: the task of each group ``[G]``; groups of one task count as one
        :param heads: heads of all critics whose values these are, target critics included
        :raises ConfigurationError: for a head that the tasks share
        """
        own = [head for head in heads if isinstance(head, TaskHeads)]
        if len(own) < len(heads):
            raise ConfigurationError("critic=popart needs a head for each task, such as network=multihead has.")
        mu, sigma = self.mu.clone(), self.sigma
        variance, mean, known = self._moments(targets, task)
        self.updates += known
        share = torch.where(known, (1 / self.updates).clamp(min=self.rate), 0.0)
        moved = share * (1 - share) * (mean - mu).square()  # so that variance + mu^2 is the mean of squares
        self.variance.copy_(self.variance.lerp(variance, share) + moved)
        self.mu.copy_(mu.lerp(mean, share))
        scale, shift = sigma / self.sigma, (mu - self.mu) / self.sigma
        for head in own:
            head.weight.mul_(scale[:, None, None])
            head.bias.mul_(scale[:, None, None]).add_(shift[:, None, None])

    def _moments(self, targets: Tensor, task: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Variance and mean of each task's targets ``[K]``, and whether it has any that are finite ``[K]``."""
        of_group, mean_of_group = torch.var_mean(targets, -1, correction=0)
        nothing = torch.zeros_like(self.mu)
        groups = nothing.index_add(0, task, torch.ones_like(mean_of_group))
        mean = nothing.index_add(0, task, mean_of_group) / groups
        variance = nothing.index_add(0, task, of_group + (mean_of_group - mean[task]).square()) / groups
        known = variance.isfinite()  # of a task without groups it is NaN
        return variance.where(known, self.variance), mean.where(known, self.mu), known


class CategoricalValue(Value):
    """The outputs are logits of a distribution over M atoms, its mean is the value; the loss is the cross-entropy.

    With ``mean``, the E distributions are averaged; with ``min``, the one of the smallest mean counts.
    Source: C51 (Bellemare et al. 2017, arXiv 1707.06887); HL-Gauss for RL (Farebrother et al. 2024, arXiv 2403.03950);
    the entropy inside the target's atoms and the averaged ensemble are BRC's (arXiv 2505.23150).

    :param num_atoms: M, at least 2
    :param v_min: value of the first atom
    :param v_max: value of the last one. Targets beyond the two are clipped, so they belong with a reward scale
    :param target: ``projection`` keeps the shape of the next state's distribution and shares every moved atom between
        its two neighbours; ``hl_gauss`` is a Gaussian about the expected target
    :param sigma: standard deviation of that Gaussian, in distances between atoms
    """

    atoms: Tensor
    edges: Tensor

    def __init__(
        self,
        reduction: str = "min",
        num_atoms: int = 101,
        v_min: float = -10.0,
        v_max: float = 10.0,
        target: str = "projection",
        sigma: float = 0.75,
    ) -> None:
        super().__init__(reduction)
        if num_atoms < 2:
            raise ConfigurationError(f"num_atoms must be at least 2, found {num_atoms}.")
        if not v_min < v_max:
            raise ConfigurationError(f"v_min must be smaller than v_max, found {v_min:g} and {v_max:g}.")
        if target not in CATEGORICAL_TARGETS:
            raise unknown_name("target of the categorical critic", target, CATEGORICAL_TARGETS)
        if not sigma > 0:
            raise ConfigurationError(f"sigma must be greater than 0, found {sigma:g}.")
        self.outputs, self.v_min, self.v_max, self.kind = num_atoms, float(v_min), float(v_max), target
        self.limit = max(abs(self.v_min), abs(self.v_max))
        self.distance = (self.v_max - self.v_min) / (num_atoms - 1)
        self.sigma = sigma * self.distance
        self.register_buffer("atoms", torch.linspace(self.v_min, self.v_max, num_atoms), persistent=False)
        half = self.distance / 2  # every atom stands in the middle of its bin
        edges = torch.linspace(self.v_min - half, self.v_max + half, num_atoms + 1)
        self.register_buffer("edges", edges, persistent=False)

    def values(self, outputs: Tensor) -> Tensor:
        return self._mean(outputs.softmax(-1))

    def target(self, next_outputs: Tensor, rewards: Tensor, discounts: Tensor, entropy_bonus: Tensor) -> Tensor:
        """Target distribution ``[G, B, M]``."""
        probabilities = self._reduced_probabilities(next_outputs)
        shift = rewards + discounts * entropy_bonus
        shift = shift + (shift - shift)  # an infinite one would hide in the clipping; so it is NaN, and is noticed
        if self.kind == "hl_gauss":
            return self.histogram(shift + discounts * self._mean(probabilities))
        return self.projection(probabilities, shift, discounts)

    def target_of(self, values: Tensor) -> Tensor:
        """Distributions ``[G, B, M]`` about values ``[G, B]``: a Gaussian, or the two atoms next to each."""
        if self.kind == "hl_gauss":
            return self.histogram(values)
        anywhere = self.atoms.new_full((*values.shape, self.outputs), 1 / self.outputs)
        return self.projection(anywhere, values, torch.zeros_like(values))

    def projection(self, probabilities: Tensor, shift: Tensor, discounts: Tensor) -> Tensor:
        """The distribution of ``shift + discount z`` on the atoms (arXiv 1707.06887, algorithm 1).

        :param probabilities: of the atoms z, ``[G, B, M]``
        :param shift: ``[G, B]``
        :param discounts: ``[G, B]``
        """
        moved = torch.addcmul(shift[..., None], discounts[..., None], self.atoms)
        position = moved.clamp_(self.v_min, self.v_max).sub_(self.v_min).div_(self.distance)
        # The last atom is reached from the one before it. NaN has no place: it stays in the share, and is noticed.
        lower = position.detach().long().clamp_(0, self.outputs - 2)
        share = position.sub_(lower)
        above = probabilities * share
        found = torch.zeros_like(probabilities).scatter_add_(-1, lower, probabilities - above)
        return found.scatter_add_(-1, lower.add_(1), above)

    def histogram(self, values: Tensor) -> Tensor:
        """Probability of every bin under a Gaussian about each value, cut off at the ends (arXiv 2403.03950, eq. 3).

        :param values: ``[G, B]``
        """
        centres = values.clamp(self.v_min, self.v_max)[..., None]
        below = torch.erf((self.edges - centres) / (math.sqrt(2.0) * self.sigma))  # 2 Phi - 1
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``-sum_e mean_b sum_m target_m log p_em``, never negative: ``[E, G, B, M], [G, B, M] -> [G]``."""
        log_probabilities = outputs.log_softmax(-1).sum(0)
        return (target * log_probabilities).sum((-2, -1)) / -target.shape[-2]

    def metrics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """In units of values; ``squared_error`` is what the loss of a scalar critic would be."""
        values, targets = self.values(outputs), self._mean(target)
        return {**_spread(values, targets), "squared_error": _half_squares(values, targets)}

    def _mean(self, probabilities: Tensor) -> Tensor:
        return (probabilities * self.atoms).sum(-1)

    def _reduced_probabilities(self, outputs: Tensor) -> Tensor:
        probabilities = outputs.softmax(-1)
        if self.reduction == "mean":
            return probabilities.mean(0)
        smallest = self._mean(probabilities).argmin(0)[None, ..., None]
        return probabilities.gather(0, smallest.expand(1, *probabilities.shape[1:])).squeeze(0)


def _half_squares(values: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (values - targets).square().mean(-1).sum(0)


def _spread(values: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {
        "q_value": values.mean((0, 2)),
        "q_max_abs": values.abs().amax((0, 2)),
        "target_variance": targets.var(-1, correction=0),
    }


SETTLED = {"reduction", "num_tasks"}  # what the agent gives

CRITICS: Registry[Record[Value]] = Registry("critic")
CRITICS.add(describe("scalar", ScalarValue, SETTLED))
CRITICS.add(describe("categorical", CategoricalValue, SETTLED))
CRITICS.add(describe("popart", PopArtValue, SETTLED))


def make_value(name: str, reduction: str = "min", *, num_tasks: int = 1, **options: Any) -> Value:
    """Build the kind of a critic's values by name.

    :param num_tasks: K, for the kinds that tell tasks apart
    :raises ConfigurationError: for an unknown name or option, with the nearest known one
    """
    CRITICS.refuse_options(name, options)
    make = CRITICS[name].make
    tasks = {"num_tasks": num_tasks} if "num_tasks" in inspect.signature(make).parameters else {}
    return make(reduction, **tasks, **options)
