"""Soft modularization: layers of modules, and a router that says how much of each the next one reads."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agents.errors import ConfigurationError
from agents.networks.base import (
    NetworkShape,
    TaskNetwork,
    refuse_bad_sizes,
    refuse_bad_widths,
    refuse_few,
    told_encoding,
)
from agents.networks.layers import EnsembleLayerNorm, EnsembleLinear, ReLU, exactly, relu, stack
from agents.networks.mixing import mix
from agents.networks.registry import register_network

ROUTING_SCALE = 1e-3  # routing weights start within it, so that all modules have equal shares


@register_network("soft_modules")
class SoftModules(TaskNetwork):
    """Layers of modules, mixed by a router that reads state and task (soft modularization).

    With ``f(x)`` an MLP of one hidden layer and ``z(t)`` linear, both of size D, the router computes
    ``e = W2 relu(W1 relu(z(t) f(x)))``. In layer l it has ``u_1 = e`` and ``u_l = e (W_u [p_1 .. p_{l-1}])``, and
    ``p_l = softmax(W_d relu(u_l))``, one row of M shares for each module. Module i gives
    ``relu(sum_j p_l[i, j] (A_{l,j} h_j + b_{l,j}))``; the first layer reads ``relu(f(x))``. The last layer has one row
    of shares and gives the features of a linear head. Source: Yang et al. 2020 (arXiv 2003.13661).

    Differs from the paper, as the authors' code does: the router's two layers, ReLU after the weighted sum instead of
    before it, skip connections from all earlier shares, and an activated state. With `layer_norm`, which neither has,
    the hidden layer of f and every weighted sum are normalised before their ReLU.

    :param shape: what it is built for
    :param hidden_sizes: width of the modules of every layer
    :param num_modules: M; the papers take 2 on MT10 and 4 on MT50
    :param depth: layers of modules; None is one for each of `hidden_sizes`. The papers take 2 and 4
    :param module_width: width of all modules; None is that of `hidden_sizes`
    :param embedding_size: D
    :param routing_width: width of the router
    :param encoder_width: width of the hidden layer of f
    :param layer_norm: normalise before each ReLU
    :param task_id: ``one_hot | embedding | given``
    :param head_scale: the head starts uniform in ``+-head_scale``
    """

    def __init__(
        self,
        shape: NetworkShape,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        num_modules: int = 2,
        depth: int | None = None,
        module_width: int | None = None,
        embedding_size: int = 400,
        routing_width: int = 256,
        encoder_width: int = 400,
        layer_norm: bool = False,
        task_id: str = "one_hot",
        head_scale: float = 3e-3,
    ) -> None:
        super().__init__()
        widths = module_widths(hidden_sizes, depth, module_width)
        refuse_few("soft_modules", "num_modules", num_modules)
        refuse_bad_sizes(
            "soft_modules", embedding_size=embedding_size, routing_width=routing_width, encoder_width=encoder_width
        )
        if num_modules > min(widths):
            raise ConfigurationError(
                f"num_modules must be at most the width of the modules, which is {min(widths)}, found {num_modules}."
            )
        members, generator = shape.members, shape.generator
        self.members, self.modules_per_layer = members, num_modules
        self.task_encoding = told_encoding(shape, "soft_modules", task_id)
        hidden = (shape.inputs, encoder_width)
        self.state = nn.Sequential(
            stack(members, hidden, generator, layer_norm=layer_norm),
            EnsembleLinear(members, encoder_width, embedding_size, generator),
        )
        self.task = EnsembleLinear(members, self.task_encoding.size, embedding_size, generator)
        sizes = (embedding_size, routing_width, routing_width)
        self.router = stack(members, sizes, generator, linear_last=True)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        self.shares, self.gates = nn.ModuleList(), nn.ModuleList()
        features, told = embedding_size, 0
        for place, width in enumerate(widths, start=1):
            sums = 1 if place == len(widths) else num_modules
            self.layers.append(EnsembleLinear(members * num_modules, features, width, generator))
            self.norms.append(EnsembleLayerNorm(members * sums, width) if layer_norm else nn.Identity())
            shares = EnsembleLinear(members, routing_width, sums * num_modules, generator, ROUTING_SCALE)
            assert shares.bias is not None
            nn.init.zeros_(shares.bias)
            self.shares.append(shares)
            if told:
                self.gates.append(EnsembleLinear(members, told, routing_width, generator))
            features, told = width, told + sums * num_modules
        self.head = EnsembleLinear(members, features, shape.outputs, generator, head_scale)
        self.relu = ReLU()

    def features(self, inputs: Tensor, task: Tensor) -> Tensor:
        groups, samples = inputs.shape[:2]
        state = self.state(self.samples(inputs))  # [E, N, D]
        with exactly(inputs):
            code = self.task(self.task_code(task)).unsqueeze(2)  # [E, G, 1, D]
        joined = state.view(self.members, groups, samples, -1) * code
        embedding = self.router(self.relu(joined).flatten(1, 2))
        # Of every member M copies, for its modules.
        hidden = relu(state).repeat_interleave(self.modules_per_layer, dim=0)  # [E M, N, D]
        told: list[Tensor] = []
        for place, (layer, norm, shares) in enumerate(zip(self.layers, self.norms, self.shares, strict=True)):
            gated = embedding if not told else embedding * self.gates[place - 1](torch.cat(told, -1))
            logits = shares(relu(gated)).unflatten(-1, (-1, self.modules_per_layer))  # [E, N, M or 1, M]
            share = logits.softmax(-1)
            told.append(share.flatten(2))
            hidden = self.relu(norm(mix(share, layer(hidden))))
        return hidden


def module_widths(hidden_sizes: Sequence[int], depth: int | None, width: int | None) -> tuple[int, ...]:
    """Width of the modules of every layer."""
    refuse_bad_widths(hidden_sizes)
    given = {name: size for name, size in (("depth", depth), ("module_width", width)) if size is not None}
    refuse_bad_sizes("soft_modules", **given)
    if width is not None:
        return (width,) * (depth or len(hidden_sizes))
    if depth not in (None, len(hidden_sizes)) and len(set(hidden_sizes)) > 1:
        raise ConfigurationError(
            f"depth={depth} needs module_width, or hidden_sizes of one width, found {list(hidden_sizes)}."
        )
    return tuple(hidden_sizes) if depth is None else (hidden_sizes[0],) * depth
