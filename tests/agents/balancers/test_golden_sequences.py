"""Loss balancers reproduce sequences recorded from the programs of the papers' authors."""

import pytest
import torch

from agents.balancers import Needs, make_balancer
from tests.agents.balancers.balancer_cases import GOLDEN, direction_of, tasks_of

OPTIONS = {
    "famo": {"gamma": 0.01, "lr": 0.025},
    "scale_invariant": {},
    "dwa": {"iteration_window": 2, "temperature": 2.0},
    "igb_v1": {"base_start": 0, "base_window": 1},
}
CASES = [(name, index) for name in OPTIONS for index in range(len(GOLDEN[name]))]


@pytest.mark.parametrize(("name", "index"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_whole_sequence_has_the_weights_of_the_authors_program(name, index, dtype):
    case = GOLDEN[name][index]
    balancer = make_balancer(name, num_tasks=case["num_tasks"], **OPTIONS[name])
    for step in case["steps"]:
        weights = balancer(tasks_of(torch.tensor(step["losses"], dtype=dtype)))
        expected = torch.tensor(step["weights"], dtype=dtype)
        torch.testing.assert_close(weights / weights.sum(), expected / expected.sum(), rtol=1e-4, atol=1e-5)
        if Needs.SECOND_LOOK in balancer.needs:
            balancer.observe(torch.tensor(step["losses_after"], dtype=dtype))


@pytest.mark.parametrize(("name", "index"), CASES)
def test_the_direction_is_parallel_to_the_recorded_one(name, index):
    case = GOLDEN[name][index]
    balancer = make_balancer(name, num_tasks=case["num_tasks"], **OPTIONS[name])
    for step in case["steps"]:
        direction = direction_of(balancer, tasks_of(torch.tensor(step["losses"]), torch.tensor(step["jacobian"])))
        recorded = torch.tensor(step["direction"])
        assert torch.cosine_similarity(direction, recorded, dim=0) > 1 - 1e-6
        if Needs.SECOND_LOOK in balancer.needs:
            balancer.observe(torch.tensor(step["losses_after"]))
