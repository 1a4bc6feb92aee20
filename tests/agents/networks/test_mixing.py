"""What experts and modules are combined with: orthonormal bases, weighted sums, composed layers."""

import pytest
import torch

from agents.networks.layers import ComposedLinear
from agents.networks.mixing import gram_schmidt, mix


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_gram_schmidt_gives_orthonormal_vectors_of_the_same_spans():
    vectors = normal(2, 4, 5, 6)
    basis = gram_schmidt(vectors)
    products = torch.einsum("emnh,eknh->enmk", basis, basis)
    torch.testing.assert_close(products, torch.eye(4, dtype=torch.float64).expand(2, 5, 4, 4), rtol=0, atol=1e-7)
    for count in range(1, 5):
        inside = torch.einsum("emnh,enh->enm", basis[:, :count], vectors[:, count - 1])
        torch.testing.assert_close(
            torch.einsum("enm,emnh->enh", inside, basis[:, :count]), vectors[:, count - 1], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["equal", "parallel", "zero", "tiny", "nearly equal"])
@pytest.mark.parametrize("experts", [2, 4, 10])
def test_experts_that_coincide_leave_finite_vectors_and_gradients(kind, experts):
    one = normal(1, 1, 7, 12, dtype=torch.float32)
    others = normal(1, experts, 7, 12, seed=1, dtype=torch.float32)
    scales = torch.arange(1.0, experts + 1).view(1, -1, 1, 1)
    vectors = {
        "equal": one.expand(1, experts, 7, 12).clone(),
        "parallel": scales * one,
        "zero": torch.zeros(1, experts, 7, 12),
        "tiny": 1e-30 * others,
        "nearly equal": one + 1e-5 * others,
    }[kind].requires_grad_()
    basis = gram_schmidt(vectors)
    (gradient,) = torch.autograd.grad((basis * others).sum(), vectors)
    assert basis.isfinite().all() and gradient.isfinite().all()
    assert (basis.norm(dim=-1) < 1.0 + 1e-4).all()
    if kind in ("equal", "parallel"):
        assert not basis[:, 1:].any() and not gradient[:, 1:].any()


def test_gram_schmidt_of_bfloat16_is_made_in_float32():
    vectors = normal(2, 3, 4, 5, dtype=torch.float32).bfloat16()
    assert torch.equal(gram_schmidt(vectors), gram_schmidt(vectors.float()))


def test_a_mixture_is_the_weighted_sum():
    shares, outputs = normal(2, 5, 4, 3), normal(2 * 3, 5, 6, seed=1)
    expected = torch.einsum("enij,ejnh->einh", shares, outputs.unflatten(0, (2, 3))).flatten(0, 1)
    torch.testing.assert_close(mix(shares, outputs), expected)


TASKS, SETS, FEATURES, OUTPUTS, MEMBERS = 4, 3, 5, 6, 2


def composed_layer():
    layer = ComposedLinear(MEMBERS, SETS, FEATURES, OUTPUTS, torch.Generator().manual_seed(0), head_scale=0.5).double()
    return layer, dict(layer.named_parameters())


@pytest.mark.parametrize("samples", [1, 2, 3, 8])
def test_a_composed_layer_is_the_sum_over_parameter_sets_whichever_way_is_cheaper(samples):
    layer, _ = composed_layer()
    inputs, mixture = normal(MEMBERS, TASKS, samples, FEATURES), normal(MEMBERS, TASKS, SETS, seed=1)
    maps = layer.weight.unflatten(1, (SETS, FEATURES))
    expected = torch.einsum("egs,egbf,esfo->egbo", mixture, inputs, maps)
    expected = expected + torch.einsum("egs,eso->ego", mixture, layer.bias).unsqueeze(2)
    torch.testing.assert_close(layer(inputs, mixture), expected)


@pytest.mark.parametrize("samples", [1, 8])
def test_gradients_of_a_composed_layers_copies_are_those_of_vmap_and_of_k_backward_passes(samples):
    layer, parameters = composed_layer()
    inputs, mixture = normal(MEMBERS, TASKS, samples, FEATURES), normal(MEMBERS, TASKS, SETS, seed=1)
    target = normal(MEMBERS, TASKS, samples, OUTPUTS, seed=2)

    def losses(parameters, inputs, mixture, target):
        outputs = torch.func.functional_call(layer, parameters, (inputs, mixture))
        return (outputs * target).sin().sum((0, 2, 3))

    def one(parameters, *batch):
        return losses(parameters, *(part.unsqueeze(1) for part in batch)).squeeze(0)

    copies = {name: value.detach().expand(TASKS, *value.shape).requires_grad_() for name, value in parameters.items()}
    grouped = torch.autograd.grad(losses(copies, inputs, mixture, target).sum(), list(copies.values()))
    detached = {name: value.detach() for name, value in parameters.items()}
    vmapped = torch.func.vmap(torch.func.grad(one), in_dims=(None, 1, 1, 1))(detached, inputs, mixture, target)
    passes = [
        torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for loss in losses(parameters, inputs, mixture, target)
    ]
    for place, (mine, over_tasks) in enumerate(zip(grouped, vmapped.values(), strict=True)):
        torch.testing.assert_close(mine, over_tasks)
        torch.testing.assert_close(mine, torch.stack([one_pass[place] for one_pass in passes]))


def test_copies_give_inputs_and_mixture_the_gradients_that_one_layer_gives():
    layer, parameters = composed_layer()
    found = []
    for copies in (1, TASKS):
        inputs, mixture = (normal(MEMBERS, TASKS, *last).requires_grad_() for last in ((8, FEATURES), (SETS,)))
        given = {
            name: value if copies == 1 else value.expand(TASKS, *value.shape) for name, value in parameters.items()
        }
        outputs = torch.func.functional_call(layer, given, (inputs, mixture))
        found.append((outputs, *torch.autograd.grad(outputs.square().sum(), (inputs, mixture))))
    for plain, grouped in zip(*found, strict=True):
        torch.testing.assert_close(plain, grouped)
