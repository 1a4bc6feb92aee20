"""Networks reproduce outputs and gradients recorded from the Meta-World+ baselines."""

import pytest
import torch

from tests.agents.networks.golden_networks import CASES, name_of, network_of

every_case = pytest.mark.parametrize("case", CASES, ids=map(name_of, CASES))


def batch(case, dtype):
    """States ``[K, B, S]`` and tasks ``[K]`` of a case whose samples come task by task."""
    tasks = case["options"]["num_tasks"]
    states = torch.tensor(case["states"], dtype=dtype).unflatten(0, (tasks, -1))
    assert case["task"] == [task for task in range(tasks) for _ in range(states.shape[1])]
    return states.requires_grad_(), torch.arange(tasks)


@every_case
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_the_recorded_ones(case, members, dtype):
    states, task = batch(case, dtype)
    outputs = network_of(case, members, dtype)(states, task)[0].flatten(0, 1)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), states)
    expected = (torch.tensor(case[name], dtype=dtype) for name in ("result", "gradient_of_sum_of_squares_in_states"))
    for mine, theirs in zip((outputs, gradient.flatten(0, 1)), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@every_case
def test_single_samples_of_mixed_tasks_are_read_alike(case):
    """As in acting, where every group is one sample."""
    states, _ = batch(case, torch.float32)
    order = torch.randperm(len(case["states"]), generator=torch.Generator().manual_seed(0))
    alone = network_of(case)(states.flatten(0, 1)[order][:, None], torch.tensor(case["task"])[order])
    torch.testing.assert_close(alone[0, :, 0], torch.tensor(case["result"])[order], rtol=1e-5, atol=1e-5)
