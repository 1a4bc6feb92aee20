"""MOORE: a mixture of orthogonal experts."""

from collections.abc import Sequence

from torch import Tensor

from agents.errors import ConfigurationError
from agents.networks.base import NetworkShape, TaskNetwork, refuse_bad_widths, refuse_few, told_encoding
from agents.networks.layers import EnsembleLinear, TaskHeads, exactly, stack
from agents.networks.mixing import gram_schmidt, mix
from agents.networks.registry import register_network


@register_network("moore")
class MOORE(TaskNetwork):
    """Experts made orthonormal by Gram-Schmidt, mixed by each task for a head of its own (MOORE).

    M MLPs with a linear last layer read the state. Gram-Schmidt makes their outputs orthonormal, sample by sample and
    in float32: ``u_n = v_n - sum_{m<n} (v_n.b_m) b_m``, ``b_n = u_n / (||u_n|| + 1e-8)``. The features
    ``tanh(sum_n c_n b_n)``, with ``c = W t``, go to a linear head of the task's own.
    Source: Hendawy et al. 2023 (arXiv 2311.11385).

    Differs from the authors' code: an output in the span of the earlier ones, ``||u_n|| <= 1e-6 ||v_n||``, becomes zero
    and gets no gradient, where theirs would be rounding error at unit length. `layer_norm`, which they do not have,
    is that of the experts' hidden layers.

    :param shape: what it is built for
    :param hidden_sizes: width of every layer of an expert; the last one is linear
    :param experts: M; the paper takes 4 on MT10 and 6 on MT50
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | given``
    :param head_scale: the heads start uniform in ``+-head_scale``
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        experts: int = 4,
        layer_norm: bool = False,
        task_id: str = "one_hot",
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        refuse_few("moore", "experts", experts)
        if experts > hidden_sizes[-1]:
            raise ConfigurationError(
                f"experts of network 'moore' must be at most the last width of hidden_sizes, which is "
                f"{hidden_sizes[-1]}, for their outputs to be orthogonal, found {experts}."
            )
        members, generator = shape.members, shape.generator
        self.members, self.experts_per_member = members, experts
        self.task_encoding = told_encoding(shape, "moore", task_id)
        sizes = (shape.inputs, *hidden_sizes)
        self.trunk = stack(members * experts, sizes, generator, layer_norm=layer_norm, linear_last=True)
        self.mixture = EnsembleLinear(members, self.task_encoding.size, experts, generator, bias=False)
        self.head = TaskHeads(members, shape.num_tasks, hidden_sizes[-1], shape.outputs, generator, head_scale)

    def features(self, inputs: Tensor, task: Tensor) -> Tensor:
        groups, samples = inputs.shape[:2]
        outputs = self.trunk(self.samples(inputs, self.experts_per_member))  # [E M, N, H]
        basis = gram_schmidt(outputs.unflatten(0, (self.members, -1)))
        by_task = basis.flatten(0, 1).view(len(outputs), groups, -1)  # [E M, G, B H]
        with exactly(inputs):
            shares = self.mixture(self.task_code(task))  # [E, G, M]
        mixed = mix(shares.unsqueeze(2), by_task)
        return mixed.view(self.members, groups * samples, -1).tanh()

    def apply_head(self, features: Tensor, task: Tensor) -> Tensor:
        return self.head(features, task)
