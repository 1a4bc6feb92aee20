"""FiLM: a state encoder whose layers the task scales and shifts."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from agents.networks.base import NetworkShape, TaskNetwork, refuse_bad_sizes, refuse_bad_widths, told_encoding
from agents.networks.layers import EnsembleLinear, exactly, relu, stack
from agents.networks.registry import register_network


@register_network("film")
class FiLM(TaskNetwork):
    """A state encoder whose layers are scaled and shifted by the task, and a torso that reads both (FiLM).

    The task's row of a learned table gives ``r = relu(W t)`` and, by an MLP, one pair ``(gamma_i, beta_i)`` for each
    layer of the encoder: ``h_i = gamma_i relu(A_i h_{i-1} + b_i) + beta_i``, the last one without ReLU. The torso, an
    MLP, reads ``[h, r]``. Source: Perez et al. 2018 (arXiv 1709.07871).

    Differs from the paper, as the Meta-World+ baselines do: gamma and beta are two numbers for a whole layer instead of
    two for each of its units. `layer_norm` (encoder and torso) is an addition.

    :param shape: what it is built for
    :param hidden_sizes: width of every hidden layer of the torso
    :param encoder_width: width of the hidden layers of the encoder and of the MLP that scales it
    :param encoder_depth: their number
    :param embedding_size: size of a row of the table, and of the encoder's output
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | given``; the rows of a given table are mapped to `embedding_size` by W
    :param head_scale: the head starts uniform in ``+-head_scale``
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        encoder_width: int = 50,
        encoder_depth: int = 2,
        embedding_size: int = 50,
        layer_norm: bool = False,
        task_id: str = "one_hot",
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        refuse_bad_sizes(
            "film", encoder_width=encoder_width, encoder_depth=encoder_depth, embedding_size=embedding_size
        )
        members, generator = shape.members, shape.generator
        self.members = members
        self.task_encoding = told_encoding(shape, "film", task_id)
        hidden = (encoder_width,) * encoder_depth
        self.table = EnsembleLinear(members, self.task_encoding.size, embedding_size, generator, bias=False)
        pairs = 2 * (encoder_depth + 1)
        self.scaling = stack(members, (embedding_size, *hidden, pairs), generator, linear_last=True)
        sizes = (shape.inputs, *hidden, embedding_size)
        self.encoder = nn.ModuleList(
            stack(members, pair, generator, layer_norm=layer_norm, linear_last=place == encoder_depth)
            for place, pair in enumerate(pairwise(sizes))
        )
        self.trunk = stack(members, (2 * embedding_size, *hidden_sizes), generator, layer_norm=layer_norm)
        self.head = EnsembleLinear(members, hidden_sizes[-1], shape.outputs, generator, head_scale)

    def features(self, inputs: Tensor, task: Tensor) -> Tensor:
        samples = inputs.shape[1]
        with exactly(inputs):
            row = relu(self.table(self.task_code(task)))  # [E, G, D]
            pairs = self.scaling(row).unflatten(-1, (-1, 2)).repeat_interleave(samples, dim=1)  # [E, N, layers, 2]
        hidden = self.samples(inputs)
        for place, layer in enumerate(self.encoder):
            scale, shift = pairs[:, :, place].to(hidden.dtype).chunk(2, -1)
            hidden = layer(hidden) * scale + shift
        told = row.to(hidden.dtype).repeat_interleave(samples, dim=1)
        return self.trunk(torch.cat((hidden, told), -1))
