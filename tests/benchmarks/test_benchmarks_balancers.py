"""The benchmark of balancers measures what it says."""

import pytest
import torch

from agents.balancing.objective import TaskObjective
from agents.balancing.tasks import UpdateContext
from agents.selection import Selection
from benchmarks import balancers
from benchmarks.balancers import BackwardPasses, PeakMemory


def test_a_row_has_the_ratio_the_memory_and_the_published_way():
    rows = balancers.measure(2, 4, rounds=1, names=("famo", "pcgrad"), hidden_sizes=(8,))
    assert [row[0] for row in rows] == ["unitary", "famo", "pcgrad"]
    assert rows[0][1:] == ["1.00", "0", ""]
    assert float(rows[2][3]) > 0


def test_every_method_but_the_schedulers_is_measured():
    assert {"unitary", "famo", "mgda", "igb_v1+cagrad"} <= set(balancers.methods())
    assert "son_goku" not in balancers.methods()


def test_peak_memory_counts_what_lives_at_the_same_time():
    with PeakMemory() as counter:
        for _ in range(3):
            first = torch.zeros(1000, dtype=torch.float32)
            del first
        second = torch.zeros(500, dtype=torch.float32)
        third = second + 1
    assert counter.peak == 4000
    assert counter.alive == 4000 and third.numel() == 500


def test_backward_passes_give_the_task_gradients():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 5, 4, generator=generator)
    parameters = {"weight": torch.nn.Parameter(torch.randn(4, 2, generator=generator))}

    def losses(parameters, states):
        return (states @ parameters["weight"]).tanh().square().mean((-2, -1)), {}

    context = UpdateContext(Selection.whole(3))
    passes = BackwardPasses(losses, parameters, (states,), context)
    torch.testing.assert_close(passes.jacobian, TaskObjective(losses, parameters, (states,), context).jacobian)
    torch.testing.assert_close(passes.losses, losses(parameters, states)[0].detach())


@pytest.mark.parametrize("name", ["famo", "scale_invariant"])
def test_methods_that_need_positive_losses_balance_the_critic_alone(name):
    contest = balancers.Contest(2, 4, hidden_sizes=(8,))
    contest.call(name)()
    assert contest.agents[0].actor_balancer.__class__.__name__ == "Unitary"
    contest.close()
