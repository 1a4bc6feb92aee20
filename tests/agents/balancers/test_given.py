"""Given weights, on the losses or on what is sampled: two levers, one direction in expectation."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.logger import configure

from agents import ConfigurationError, make_balancer
from agents.balancing.allocation import draw_counts
from agents.balancing.objective import TaskObjective
from agents.balancing.tasks import UpdateContext
from agents.selection import Selection
from tests.agents.balancers.balancer_cases import GIVEN
from tests.agents.test_agents_objective import TASKS, build, gradient

WEIGHTS = [3.0, 0.25, 0.75, 0.0]
SAMPLING = {"weights": WEIGHTS, "weights_on": "sampling"}
weight_vectors = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12).filter(lambda weights: sum(weights) > 0.1)


def at(used, losses=4):
    return SimpleNamespace(losses=torch.ones(losses), progress=SimpleNamespace(budget_used=used))


# ---------------------------------------------------------------------- what is drawn


@settings(max_examples=200, deadline=None)
@given(weight_vectors, st.integers(0, 2**31))
def test_every_count_is_its_weight_rounded_up_or_down_and_all_groups_are_given_away(weights, seed):
    weights = torch.tensor(weights, dtype=torch.float64)
    weights = weights * len(weights) / weights.sum()
    counts = draw_counts(weights, torch.Generator().manual_seed(seed))
    assert int(counts.sum()) == len(weights) and counts.dtype == torch.long
    assert ((counts - weights).abs() < 1 + 1e-6).all()


def test_counts_are_the_weights_on_average():
    generator, weights = torch.Generator().manual_seed(0), torch.tensor([2.6, 0.1, 0.3, 1.0])
    mean = torch.stack([draw_counts(weights, generator) for _ in range(4000)]).double().mean(0)
    assert torch.allclose(mean, weights.double(), atol=0.03)


def test_equal_weights_sample_every_task_once_which_is_unitary_to_the_bit(small_agent, fingerprint):
    plain = small_agent(balancer="unitary").learn(120)
    sampled = small_agent(balancer="static", balancer_kwargs={**SAMPLING, "weights": [1, 1, 1, 1]}).learn(120)
    for left, right in zip(plain.policy.state_dict().values(), sampled.policy.state_dict().values(), strict=True):
        assert torch.equal(left, right)


# ---------------------------------------------------------------------- equal in expectation


@pytest.mark.parametrize("side", ["critic", "actor"])
def test_weighing_the_loss_and_sampling_in_proportion_give_the_same_direction_on_average(side):
    objective = build(side)
    weights = torch.tensor([1.8, 0.3, 0.9])
    plain = TaskObjective(objective.loss_function, objective.parameters, objective.batch, objective.context)
    plain.backward(weights.double())
    expected = gradient(plain)
    balancer = make_balancer("static", num_tasks=TASKS, weights=weights.tolist(), weights_on="sampling")
    total, draws = torch.zeros_like(expected), 3000
    directions: dict[tuple[int, ...], torch.Tensor] = {}
    for _ in range(draws):
        selection = balancer.next_selection()
        key = tuple(selection.task.tolist())
        if key not in directions:
            directions[key] = direction_of(objective, balancer, selection)
        total += directions[key]
    assert len(directions) > 2
    assert (total / draws - expected).norm() < 0.05 * expected.norm()


def direction_of(objective, balancer, selection):
    """The gradient of an update whose groups of samples are of these tasks."""
    batch, context = [part[selection.task] for part in objective.batch], objective.context.narrowed(selection)
    sampled = TaskObjective(objective.loss_function, objective.parameters, batch, context, objective.layout)
    sampled.apply(balancer.balance(sampled))
    return gradient(sampled)


def test_a_task_with_several_groups_has_the_mean_of_their_losses_and_spoils_no_other_task():
    def losses_of(parameters, numbers):
        return numbers * parameters["p"], {}

    batch, selection = [torch.tensor([1.0, 3.0, float("nan")])], Selection(3, torch.tensor([0, 0, 2]))
    parameters = {"p": torch.nn.Parameter(torch.ones(()))}
    objective = TaskObjective(losses_of, parameters, batch, UpdateContext(selection))
    assert objective.losses[0] == 2.0 and objective.losses[1:].isnan().all()


# ---------------------------------------------------------------------- an agent that samples


@pytest.fixture
def sampling_agent(small_agent, transitions):
    """Maker of agents that sample tasks in proportion to `WEIGHTS`, with a filled replay."""

    def make(**settings):
        agent = small_agent(balancer="static", balancer_kwargs=SAMPLING, **settings)
        agent.set_logger(configure(format_strings=[]))
        for observations, actions, following, rewards, dones, infos in transitions(agent.env, 30):
            agent.replay_buffer.add(observations, following, actions, rewards, dones, infos)
        return agent

    return make


@pytest.mark.parametrize("network", ["mlp", "multihead"])
def test_an_update_takes_as_many_samples_as_ever_and_leaves_the_temperature_of_a_task_without_samples(
    sampling_agent, network
):
    agent = sampling_agent(policy_kwargs={"network": network})
    before, seen, update = agent.temperature.log_alpha.detach().clone(), [], agent.update

    def spy(sample, noise, selection):
        seen.append((sample, selection.task, update(sample, noise, selection)))
        return seen[-1][2]

    agent.update = spy
    agent.train(30)
    for sample, tasks, metrics in seen:
        assert sample.states.shape[:2] == (4, 4) and len(tasks) == 4
        counts = torch.bincount(tasks, minlength=4)
        for name in ("critic_balancer.weights", "actor_balancer.weights"):
            assert torch.equal(metrics[name].long(), counts)
        assert torch.equal(metrics["critic_loss"].isnan(), counts == 0)
        assert torch.equal(metrics["entropy"].isnan(), counts == 0)
    mean = torch.stack([torch.bincount(tasks, minlength=4) for _, tasks, _ in seen]).double().mean(0)
    assert torch.allclose(mean, torch.tensor(WEIGHTS).double(), atol=0.25)
    moved = agent.temperature.log_alpha.detach() != before
    assert moved.tolist() == [True, True, True, False]


def test_a_group_that_is_not_finite_is_named_by_its_task(sampling_agent):
    from agents import NonFiniteUpdate

    agent = sampling_agent(max_skipped_updates=2)
    agent.replay_buffer.rows[0] = float("inf")
    with pytest.raises(NonFiniteUpdate, match=agent.task_names[0]):
        agent.train(50)


@pytest.mark.parametrize("name", ["static+pcgrad", "famo+static", "son_goku:static"])
def test_sampling_stands_alone(name):
    with pytest.raises(ConfigurationError, match="weights_on='sampling' .* has to stand alone"):
        make_balancer(name, num_tasks=4, **{f"static.{key}": value for key, value in SAMPLING.items()})


def test_sampling_and_task_gradients_of_the_actor_do_not_go_together(small_agent):
    with pytest.raises(ConfigurationError, match="weights_on='sampling' mixes the tasks .* choose weights_on='loss'"):
        small_agent(balancer="static", balancer_kwargs=SAMPLING, actor_balancer="pcgrad")


def test_the_actor_alone_cannot_decide_what_is_sampled(small_agent):
    with pytest.raises(ConfigurationError, match="give it as balancer='static'"):
        small_agent(actor_balancer="static", actor_balancer_kwargs=SAMPLING)


def test_there_are_two_levers():
    with pytest.raises(ConfigurationError, match=r"weights_on of static 'losses'.*did you mean 'loss'"):
        make_balancer("static", num_tasks=4, weights=WEIGHTS, weights_on="losses")


# ---------------------------------------------------------------------- schedules


def test_a_schedule_gives_the_latest_weights_of_the_budget_used():
    balancer = make_balancer("schedule", num_tasks=4, **GIVEN["schedule"])
    first, second = [0.4, 0.8, 1.2, 1.6], [1.6, 1.2, 0.8, 0.4]
    for used, weights in ((0.0, first), (0.4999, first), (0.5, second), (1.0, second)):
        assert balancer(at(used)).tolist() == pytest.approx(weights)


def test_a_schedule_is_a_setting_and_no_state():
    assert not make_balancer("schedule", num_tasks=4, **GIVEN["schedule"]).state_dict()


def test_a_schedule_acts_on_what_is_sampled_too():
    rows = [[4, 0, 0, 0], [0, 0, 0, 4]]
    balancer = make_balancer("schedule", num_tasks=4, times=[0, 0.5], weights=rows, weights_on="sampling")
    assert balancer.next_selection(at(0.1).progress).task.tolist() == [0, 0, 0, 0]
    later = balancer.next_selection(at(0.7).progress)
    assert later.task.tolist() == [3, 3, 3, 3] and later.active.tolist() == [False, False, False, True]


@pytest.mark.parametrize("times", [[], [0.1], [0, 0.5, 0.5], [0, 1.0]])
def test_the_times_of_a_schedule_rise_from_zero(times):
    with pytest.raises(ConfigurationError, match="shares of the budget that rise from 0"):
        make_balancer("schedule", num_tasks=2, times=times, weights=[[1, 1]] * len(times))


def test_a_schedule_has_weights_for_every_time_and_task():
    with pytest.raises(ConfigurationError, match="each of its 2 times, found 1"):
        make_balancer("schedule", num_tasks=2, times=[0, 0.5], weights=[[1, 1]])
    with pytest.raises(ConfigurationError, match="schedule needs 2 weights, one for each task, found 3"):
        make_balancer("schedule", num_tasks=2, times=[0], weights=[[1, 1, 1]])
    with pytest.raises(ConfigurationError, match=r"not all zero, found \[0.0, 0.0\]"):
        make_balancer("schedule", num_tasks=2, times=[0, 0.5], weights=[[1, 1], [0, 0]])
