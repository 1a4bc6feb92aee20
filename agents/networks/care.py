"""CARE: a mixture of state encoders under the attention of a task embedding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from agents.errors import ConfigurationError
from agents.networks.base import (
    NetworkShape,
    TaskNetwork,
    refuse_bad_sizes,
    refuse_bad_widths,
    refuse_few,
    told_encoding,
)
from agents.networks.layers import EnsembleLinear, exactly, relu, stack
from agents.networks.mixing import mix
from agents.networks.registry import register_network


@register_network("care")
class CARE(TaskNetwork):
    """State encoders mixed by the attention of a task embedding, which the torso reads too (CARE).

    The task's row ``r = W t`` of a learned table becomes the embedding ``z = MLP(relu(r))``. The shares of M encoders
    are ``softmax(MLP(z) / temperature)``; the torso, an MLP, reads their mixture and z.
    Source: Sodhani et al. 2021 (arXiv 2102.06177).

    Differs from the authors' code: the table is learnt, where theirs holds RoBERTa embeddings of task descriptions,
    as in the Meta-World+ baselines. With ``task_id=given`` the rows are yours, and W, learnt, maps them to
    `embedding_size`. Encoders and embedding are trained by the actor's loss too, which has its own. `layer_norm`
    (encoders and torso) is an addition.

    :param shape: what it is built for
    :param hidden_sizes: width of every hidden layer of the torso
    :param experts: M; the Meta-World+ baselines take 6 on MT10 and 10 on MT50
    :param encoder_width: width of the hidden layers of encoders, embedding and attention
    :param encoder_depth: their number
    :param embedding_size: size of the embedding, and of an encoder's output
    :param temperature: of the attention; a large one makes the shares equal
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | given``
    :param head_scale: the head starts uniform in ``+-head_scale``
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = (400, 400, 400),
        experts: int = 6,
        encoder_width: int = 50,
        encoder_depth: int = 2,
        embedding_size: int = 50,
        temperature: float = 1.0,
        layer_norm: bool = False,
        task_id: str = "one_hot",
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        refuse_bad_widths(hidden_sizes)
        refuse_few("care", "experts", experts)
        refuse_bad_sizes(
            "care", encoder_width=encoder_width, encoder_depth=encoder_depth, embedding_size=embedding_size
        )
        if not 0.0 < temperature < float("inf"):
            raise ConfigurationError(f"temperature of network 'care' must be a number above 0, found {temperature!r}.")
        members, generator = shape.members, shape.generator
        self.members, self.experts_per_member, self.temperature = members, experts, temperature
        self.task_encoding = told_encoding(shape, "care", task_id)
        hidden = (encoder_width,) * encoder_depth
        self.table = EnsembleLinear(members, self.task_encoding.size, embedding_size, generator, bias=False)
        self.embedding = stack(members, (embedding_size, *hidden, embedding_size), generator, linear_last=True)
        self.attention = stack(members, (embedding_size, *hidden, experts), generator, linear_last=True)
        self.encoders = stack(
            members * experts,
            (shape.inputs, *hidden, embedding_size),
            generator,
            layer_norm=layer_norm,
            linear_last=True,
        )
        self.trunk = stack(members, (2 * embedding_size, *hidden_sizes), generator, layer_norm=layer_norm)
        self.head = EnsembleLinear(members, hidden_sizes[-1], shape.outputs, generator, head_scale)

    def features(self, inputs: Tensor, task: Tensor) -> Tensor:
        groups, samples = inputs.shape[:2]
        with exactly(inputs):
            embedding = self.embedding(relu(self.table(self.task_code(task))))  # [E, G, D]
            shares = (self.attention(embedding) / self.temperature).softmax(-1).unsqueeze(2)  # [E, G, 1, M]
        encoded = self.encoders(self.samples(inputs, self.experts_per_member))  # [E M, N, D]
        mixed = mix(shares, encoded.view(len(encoded), groups, -1)).view(self.members, groups, samples, -1)
        told = embedding.unsqueeze(2).expand(-1, -1, samples, -1).to(mixed.dtype)
        return self.trunk(torch.cat((mixed, told), -1).flatten(1, 2))
