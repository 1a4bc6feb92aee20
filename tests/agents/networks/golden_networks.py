"""Recorded networks of the Meta-World+ baselines, and the same parameters in ours.

In golden.json a kernel is ``[in, out]``, after a leading axis of modules, parameter sets, experts or tasks.
"""

import json
from pathlib import Path

import torch

from agents.networks import NetworkShape, make_network

CASES = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def name_of(case):
    sizes = (f"{value}" for name, value in case["options"].items() if name not in ("use_bias", "num_tasks"))
    return f"{case['architecture']}-{'-'.join(sizes)}"


def recorded(case, dtype):
    """Parameters by name."""
    return {
        name: torch.tensor(value, dtype=dtype).reshape(case["shapes"][name])
        for name, value in case["parameters"].items()
    }


def network_of(case, members=1, dtype=torch.float32):
    """Our network of the same sizes whose first member has the recorded parameters."""
    given, tensors = case["options"], recorded(case, dtype)
    torso = (given["width"],) * given["depth"]
    encoder = {ours: given.get(ours) for ours in ("encoder_width", "encoder_depth")}
    options, entries = {
        "soft_modules": lambda: (
            {
                **{name: given[name] for name in ("num_modules", "depth", "module_width")},
                "embedding_size": given["embedding_dim"],
                "routing_width": given["width"],
            },
            soft_modules(tensors, given["depth"]),
        ),
        "paco": lambda: (
            {"parameter_sets": given["num_parameter_sets"], "hidden_sizes": torso},
            paco(tensors, given["depth"]),
        ),
        "moore": lambda: (
            {"experts": given["num_experts"], "hidden_sizes": torso},
            moore(tensors, given["depth"]),
        ),
        "care": lambda: (
            {
                **encoder,
                "experts": given["num_experts"],
                "embedding_size": given["embedding_dim"],
                "temperature": given["encoder_temperature"],
                "hidden_sizes": torso,
            },
            care(tensors, given["encoder_depth"], given["depth"]),
        ),
        "film": lambda: (
            {**encoder, "embedding_size": given["embedding_dim"], "hidden_sizes": torso},
            film(tensors, given["encoder_depth"], given["depth"]),
        ),
    }[case["architecture"]]()
    shape = NetworkShape(
        len(case["states"][0]), case["outputs"], given["num_tasks"], members, torch.Generator().manual_seed(3)
    )
    network = make_network(case["architecture"], shape, **options).to(dtype)
    parameters = dict(network.named_parameters())
    assert parameters.keys() == entries.keys()
    for name, value in entries.items():
        mine = parameters[name].data.view(members, -1)[0]
        mine.copy_(value.reshape(-1))
    return network


def linear(tensors, theirs, ours):
    bias = {f"{ours}.bias": tensors[f"{theirs}/bias"]} if f"{theirs}/bias" in tensors else {}
    return {f"{ours}.weight": tensors[f"{theirs}/kernel"], **bias}


def layers(tensors, theirs, ours, count):
    """Layers of a sequence with a ReLU after each."""
    found = {}
    for layer in range(count):
        found |= linear(tensors, f"{theirs}/layer_{layer}", f"{ours}.{2 * layer}")
    return found


def soft_modules(tensors, depth):
    found = {
        **linear(tensors, "f/layer_0", "state.0.0"),
        **linear(tensors, "f/layer_1", "state.1"),
        **linear(tensors, "z/layer_0", "task"),
        **layers(tensors, "task_embedding_fc", "router", 2),
        **linear(tensors, "output_head", "head"),
    }
    for layer in range(depth):
        found |= linear(tensors, f"layers_{layer}/VmapDense_0", f"layers.{layer}")
        found |= linear(tensors, f"prob_fcs_{layer}/prob_output_fc", f"shares.{layer}")
        if layer:
            found |= linear(tensors, f"prob_fcs_{layer}/prob_embedding_fc", f"gates.{layer - 1}")
    return found


def paco(tensors, depth):
    found = linear(tensors, "Dense_0", "mixture")
    for layer in range(depth + 1):
        found |= linear(tensors, f"VmapDense_{layer}", "head" if layer == depth else f"layers.{layer}")
    return found


def moore(tensors, depth):
    return {
        **layers(tensors, "VmapMLP_0", "trunk", depth),
        **linear(tensors, "Dense_0", "mixture"),
        **linear(tensors, "VmapDense_0", "head"),
    }


def torso_of(tensors, depth):
    return {**layers(tensors, "torso", "trunk", depth), **linear(tensors, f"torso/layer_{depth}", "head")}


def care(tensors, encoder_depth, depth):
    return {
        "table.weight": tensors["task_idx_embedding/embedding"],
        **layers(tensors, "task_embedding_mlp", "embedding", encoder_depth + 1),
        **layers(tensors, "task_embedding_attn_mlp", "attention", encoder_depth + 1),
        **layers(tensors, "moe_mlp", "encoders", encoder_depth + 1),
        **torso_of(tensors, depth),
    }


def film(tensors, encoder_depth, depth):
    found = {
        "table.weight": tensors["task_idx_embedding/embedding"],
        **layers(tensors, "MLP_0", "scaling", encoder_depth + 1),
        **torso_of(tensors, depth),
    }
    for layer in range(encoder_depth + 1):
        found |= linear(tensors, f"Dense_{layer}", f"encoder.{layer}.0")
    return found
