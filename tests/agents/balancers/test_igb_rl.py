"""IGB-RL in the loop: what it sees, when it decides, what it is rewarded with; and the controls that judge it."""

import copy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agents import ConfigurationError, make_balancer
from agents.balancers import BalancerError, Needs
from agents.balancers.igb import rule
from agents.balancers.igb.controls import read_record
from agents.balancers.igb.gaps import TargetReturns, read_window
from agents.files.agent_file import read_agent, write_agent
from agents.progress import TaskProgress
from tests.agents.balancers.balancer_cases import RECORDED, progress_of, recorded_run, tasks_of

torch.set_num_threads(1)
OFTEN = {"hold": 5, "hold_episodes": 1}
ON_LOSS = {**OFTEN, "weights_on": "loss"}
UPDATES = 100
DECIDERS = ["igb_rl", "igb_v1_rl", "igb_rl_random"]


class Training:
    """K tasks whose episodes a test ends by hand, as a real `TaskProgress` sees them."""

    def __init__(self, tasks=3, target=1.0):
        self.progress = TaskProgress(np.arange(tasks), tasks, target_returns=np.full(tasks, target))

    def ends(self, returns, successes=None, judged=True):
        """An episode of every task; a return of None ends none."""
        given = returns if successes is None else successes
        infos = [
            {"episode": {"r": r}, "is_success": s, "success_is_judged": judged}
            for r, s in zip(returns, given, strict=True)
        ]
        self.progress.observe(np.array([r is not None for r in returns]), infos)
        return self

    def tasks(self, losses=None, used=0.0):
        self.progress.budget_used = used
        losses = [1.0] * len(self.progress.task_of_env) if losses is None else losses
        given = tasks_of(torch.as_tensor(losses))
        given.progress = self.progress
        return given


def decider(name="igb_v1_rl", num_tasks=3, **options):
    return make_balancer(name, num_tasks=num_tasks, **{"weights_on": "loss", "hold": 1, "hold_episodes": 1, **options})


def trained(small_agent, updates=UPDATES, **options):
    agent = small_agent(env_horizon=4, env_reward_scale_spread=1.0, **options)
    agent.learn(agent.learning_starts + 4 * updates + 4, log_interval=None)
    return agent


def trace(agent):
    """Every tensor that training moves, the balancers' own left out."""
    parts = [agent.policy, agent.temperature, agent.actor_optimizer, agent.critic_optimizer]
    tensors = [agent.replay_buffer.rows[:, : agent.replay_buffer.size()]]
    for part in parts:
        state = part.state_dict()
        for value in state["state"].values() if "state" in state else [state]:
            tensors += list(value.values())
    return tensors


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(trace(first), trace(second), strict=True))


# ---------------------------------------------------------------------- one agent in the loop


@pytest.mark.parametrize("weights_on", ["loss", "sampling"])
def test_with_its_output_forced_to_one_the_training_trace_is_that_of_plain_mtsac_bit_for_bit(small_agent, weights_on):
    options = {**OFTEN, "weights_on": weights_on, "learning": "scratch"}
    plain = trained(small_agent)
    forced = trained(small_agent, balancer="igb_rl", balancer_kwargs={**options, "floor": 1.0})
    free = trained(small_agent, balancer="igb_rl", balancer_kwargs=options)
    assert equal(plain, forced)
    assert not equal(plain, free), "the weights of the agent do nothing: the comparison would mean nothing"
    balancer = forced.critic_balancer if weights_on == "loss" else forced.critic_balancer.shares
    assert balancer.decisions > 5 and balancer.agent.critic_adam.steps > 0


@pytest.mark.parametrize("name", DECIDERS)
def test_by_default_the_weights_are_shares_of_what_is_sampled(small_agent, name):
    agent = small_agent(env_horizon=4, balancer=name, balancer_kwargs=OFTEN)
    seen, update = [], agent.update

    def spy(sample, noise, selection):
        seen.append((torch.bincount(selection.task, minlength=4), agent.critic_balancer.shares.latest))
        return update(sample, noise, selection)

    agent.update = spy
    agent.learn(agent.learning_starts + 4 * UPDATES, log_interval=None)
    counts, shares = (torch.stack(values).double() for values in zip(*seen, strict=True))
    assert (counts.sum(1) == 4).all() and ((counts - shares).abs() < 1 + 1e-5).all()
    assert shares.std() > 0.02 and agent.guard.skipped == 0


def test_one_decision_serves_critic_and_actor(small_agent):
    agent = trained(small_agent, 50, balancer="igb_rl", balancer_kwargs=ON_LOSS)
    critic, actor = agent.critic_balancer.diagnostics()["weights"], agent.actor_balancer.diagnostics()["weights"]
    assert torch.equal(critic, actor) and critic.std() > 0
    assert not agent.actor_balancer.state_dict()


@pytest.mark.parametrize("name", ["igb_rl+pcgrad", "igb_rl+cagrad", "son_goku:igb_rl", "igb_v1_rl+cagrad"])
def test_it_composes_and_still_decides_once(small_agent, name):
    method = name.replace("son_goku:", "").split("+")[0]
    agent = trained(
        small_agent, 40, balancer=name, balancer_kwargs={f"{method}.{key}": value for key, value in ON_LOSS.items()}
    )
    critic, actor = agent.critic_balancer, agent.actor_balancer
    leader, follower = (part.inner if ":" in name else part.parts[0] for part in (critic, actor))
    assert leader.decisions > 1 and not follower.state_dict()
    assert "gaps" in critic.diagnostics() and critic.diagnostics()["weights"].isfinite().all()


def test_an_actor_balancer_of_its_own_decides_for_itself(small_agent):
    agent = trained(small_agent, 40, balancer="unitary", actor_balancer="igb_rl", actor_balancer_kwargs=ON_LOSS)
    assert agent.actor_balancer.decisions > 1 and agent.actor_balancer.diagnostics()["weights"].std() > 0


def test_the_published_agent_weighs_the_critic_alone(small_agent):
    agent = trained(small_agent, 60, balancer="igb_v2", balancer_kwargs={"epoch": 5})
    assert len(agent.critic_balancer.agent.memory) == agent._n_updates - 11
    assert agent.critic_balancer.agent.critic_adam.steps == int(25 * (1 + 40 / 10_000))
    assert type(agent.actor_balancer).__name__ == "Unitary"


@pytest.mark.parametrize("learning", ["off", "scratch"])
def test_a_saved_agent_keeps_the_agent_beside_it(small_agent, tmp_path, learning):
    agent = trained(small_agent, 60, balancer="igb_rl", balancer_kwargs={**OFTEN, "learning": learning})
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", device="cpu")
    states = (agent.critic_balancer.state_dict(), loaded.critic_balancer.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert loaded.critic_balancer.shares.decisions == agent.critic_balancer.shares.decisions > 1


def test_a_file_of_the_first_formulation_is_refused():
    balancer = decider("igb_rl")
    old = {"decided": torch.ones(3), "variance": torch.ones(3), "_extra_state": torch.zeros(6).double()}
    with pytest.raises(ConfigurationError, match="igb_rl in its first formulation"):
        balancer.load_state_dict(old)


def test_temperatures_are_learnt_as_if_there_were_no_weights(small_agent, random_sample):
    """A task's weight multiplies both terms of its actor loss; the temperature must not follow it."""
    moved = []
    for balancer, options in (("unitary", {}), ("static", {"weights": [9.0, 1.0, 1.0, 1.0]})):
        agent = small_agent(balancer=balancer, balancer_kwargs=options)
        noise = torch.randn(2, 4, 8, 2, generator=torch.Generator().manual_seed(1))
        agent.update(random_sample(agent), noise)
        moved.append(agent.temperature.log_alpha.detach().clone())
    assert torch.equal(moved[0], moved[1])


def test_no_second_look_is_taken_at_a_batch():
    """On one batch a loss falls by the target's lag alone: it must enter no gap and no reward."""
    for name in (*DECIDERS, "igb_v2"):
        assert Needs.SECOND_LOOK not in make_balancer(name, num_tasks=2).needs


# ---------------------------------------------------------------------- gaps


def gaps_of(training, given=None, tasks=3):
    return read_window(training.progress, torch.zeros(4, tasks), TargetReturns("me", tasks, given), "me").gaps.tolist()


def test_a_gap_is_the_mean_of_what_is_missing_of_return_and_success():
    training = Training(target=11.0).ends([1.0] * 3, [0, 0, 0]).ends([1.0, 11.0, 21.0], [0, 1, 1])
    # Random actions return 1; the means over the window are 1, 6 and 11; half of the last two tasks' episodes succeed.
    assert gaps_of(training) == pytest.approx([1.0, 0.5, 0.25])


def test_the_target_is_the_suites_the_users_or_the_best_so_far():
    training = Training(target=float("nan")).ends([0.0] * 3, judged=False).ends([4.0] * 3, judged=False)
    with pytest.raises(BalancerError, match="neither a rule of success nor a known return: give target_returns"):
        gaps_of(training)
    assert gaps_of(training, [4.0, 8.0, 2.0]) == pytest.approx([0.5, 0.75, 0.0])
    assert gaps_of(training, "best") == pytest.approx([1 - 2 / 3.8] * 3, abs=1e-6)


def test_a_task_without_a_known_return_is_judged_by_success_alone():
    training = Training(target=float("nan")).ends([5.0] * 3, [1, 0, 0]).ends([9.0] * 3, [1, 1, 0])
    assert gaps_of(training) == pytest.approx([0.0, 0.5, 1.0])


def test_a_window_is_read_from_its_own_episodes():
    training, balancer = Training(), decider()
    balancer(training.ends([0.0] * 3).tasks())
    balancer(training.ends([0.0, 0.5, 1.0]).tasks())
    assert balancer.diagnostics()["gaps"].tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_losses_do_not_matter():
    """A critic's loss grows while learning succeeds; and behind another method losses are weighted already."""
    quiet, loud = decider(), decider()
    course = Training()
    for step in range(6):
        course.ends([0.1 * step, 0.02 * step, 0.0])
        assert torch.equal(quiet(course.tasks([1.0, 1.0, 1.0])), loud(course.tasks([4.0**step, 1.0, 1e-6])))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([1.0, 2.0], "me: target_returns needs 3 numbers, found 2"),
        ("bst", "target_returns of me 'bst'.*did you mean 'best'"),
        (float("inf"), "me: target_returns must be finite, found inf"),
    ],
)
def test_targets_that_are_none_are_refused(given, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        TargetReturns("me", 3, given)


# ---------------------------------------------------------------------- the reward


def test_the_reward_is_the_decrease_of_the_soft_worst_gap_and_the_tasks_parts_sum_to_it():
    before, after = torch.rand(2, 50, 5, generator=torch.Generator().manual_seed(0))
    whole = rule.soft_worst(before) - rule.soft_worst(after)
    torch.testing.assert_close(rule.rewards_of(before, after).sum(-1), whole, atol=1e-6, rtol=0)


def test_progress_of_the_lagging_task_is_rewarded_though_solved_tasks_lose_a_little():
    """The smallest decrease, the reward of the first formulation, is negative here."""
    before, after = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.1, 0.0, 0.0, 0.5])
    assert (before - after).amin() < 0
    parts = rule.rewards_of(before, after)
    assert parts.sum() > 0.3 and parts.argmax() == 3


def test_the_soft_worst_gap_lies_between_mean_and_worst_and_does_not_grow_with_copies_of_the_tasks():
    gaps = torch.tensor([0.1, 0.2, 0.9])
    assert gaps.mean() < rule.soft_worst(gaps) < gaps.amax()
    torch.testing.assert_close(rule.soft_worst(gaps.repeat(4)), rule.soft_worst(gaps))


# ---------------------------------------------------------------------- the closed form


def test_the_closed_form_is_proportional_to_the_gap_above_the_floor():
    training = Training().ends([0.0] * 3).ends([0.0, 0.5, 1.0])  # gaps 1, 0.75, 0.5
    weights = decider()(training.tasks())
    torch.testing.assert_close(weights, 0.2 + 0.8 * 3 * torch.tensor([4.0, 3.0, 2.0]) / 9, atol=5e-3, rtol=0)


def test_a_task_that_nothing_can_solve_loses_its_share_and_gets_it_back_when_it_moves():
    training, balancer = Training(), decider()
    stuck = []
    for step in range(12):
        stuck.append(balancer(training.ends([0.0, 0.2 + 0.06 * (step % 2), 0.2 + 0.06 * (step % 2)]).tasks())[0])
    assert stuck[-1] < 0.75 * stuck[1]
    assert stuck[-1] > 0.2  # and is not given up
    assert balancer(training.ends([0.3, 0.2, 0.2]).tasks())[0] > 1.2 * stuck[-1]


def test_interest_is_used_up_by_budget_and_not_by_time():
    still, weights = torch.ones(2), torch.tensor([3.0, 0.2])
    course = rule.Course.beginning(still).after(still, weights)
    assert course.interest[0] < 0.5 and course.interest[1] > 0.9


@pytest.mark.parametrize("name", DECIDERS)
def test_no_weight_is_below_the_floor_and_their_mean_is_one(name):
    training, balancer = Training(5), decider(name, 5, floor=0.15)
    draw = np.random.default_rng(0)
    for _ in range(30):
        weights = balancer(training.ends(list(draw.random(5))).tasks())
        assert weights.min() >= 0.15 and weights.sum().item() == pytest.approx(5.0, abs=1e-5)


def test_features_are_bounded_and_do_not_depend_on_how_many_tasks_there_are():
    gaps = torch.tensor([0.1, 0.5, 1.0])

    def features(copies):
        g = gaps.repeat(copies)
        weights = rule.with_floor(rule.shares_of(g, torch.ones_like(g)), 0.2)
        return rule.Situation(g, g - 0.5, 1 - g, torch.ones_like(g), weights, torch.ones_like(g)).features()

    assert features(1).abs().max() <= 2.0
    torch.testing.assert_close(features(4)[:3], features(1))


# ---------------------------------------------------------------------- when


def changes(weights):
    """The updates at which the weights changed."""
    return [step for step in range(1, len(weights)) if not torch.equal(weights[step], weights[step - 1])]


def test_nothing_is_decided_before_every_task_has_ended_an_episode():
    training, balancer = Training(), decider()
    training.ends([0.5, 0.1, None])
    assert balancer(training.tasks()).tolist() == [1.0] * 3 and balancer.decisions == 0
    training.ends([None, None, 0.9])
    assert balancer(training.tasks()).std() > 0 and balancer.decisions == 1


def test_a_decision_is_held_for_its_updates_and_until_enough_episodes_of_every_task_have_ended():
    training, balancer = Training().ends([0.0] * 3), decider("igb_rl_random", hold=4, hold_episodes=2)
    weights = []
    for update in range(24):
        if update in (2, 3, 12):
            training.ends([0.2, 0.4, 0.9])
        elif update in (5, 6):
            training.ends([0.2, 0.4, None])
        elif update == 18:
            training.ends([None, None, 0.9])
        weights.append(balancer(training.tasks()).clone())
    assert balancer.decisions == 3
    assert changes(weights) == [4, 18], "the third waits for the last task's second episode"


def test_a_decision_can_be_held_for_a_share_of_the_budget():
    training, balancer = Training().ends([0.0] * 3), decider("igb_rl_random", hold_share=0.25)
    weights = [balancer(training.ends([0.1, 0.5, 0.9]).tasks(used=step / 20)).clone() for step in range(20)]
    assert changes(weights) == [5, 10, 15]


def test_a_budget_that_is_extended_does_not_stop_the_decisions():
    training, balancer = Training().ends([0.0] * 3), decider(hold_share=0.25)
    for used in (0.0, 0.9, 0.45, 0.6, 0.71):
        balancer(training.ends([0.1, 0.5, 0.9]).tasks(used=used))
    assert balancer.decisions == 3


def test_a_hold_that_is_longer_than_the_run_is_said_at_its_end():
    balancer = decider(hold=500, hold_episodes=25)
    assert "made no decision in this run, since each is held for 500 updates and 25 episodes" in balancer.remarks()[0]
    training = Training()
    for _ in range(2):
        balancer = decider()
        balancer(training.ends([0.1] * 3).tasks())
        assert "made one decision" in balancer.remarks()[0]
        balancer(training.ends([0.1] * 3).tasks())
        assert balancer.remarks() == []


def test_within_a_scheduler_the_agent_sees_the_weights_that_were_executed():
    balancer, training = decider(), Training().ends([0.0, 0.5, 0.9])
    balancer(training.tasks())
    for weights in ([3.0, 0.0, 0.0], [0.0, 1.0, 2.0]):
        balancer.executed(torch.tensor(weights))
    seen = []
    balancer.decide = lambda situation: seen.append(situation) or torch.ones(3)
    balancer(training.ends([0.0, 0.5, 0.9]).tasks())
    assert seen[0].weights.tolist() == pytest.approx([1.5, 0.5, 1.0])


def test_an_agent_that_does_not_say_how_far_its_tasks_have_come_is_refused():
    with pytest.raises(BalancerError, match="igb_rl reads how far every task has come"):
        decider("igb_rl")(SimpleNamespace(losses=torch.ones(3)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights_on": "losses"}, "weights_on of igb_rl 'losses'.*did you mean 'loss'"),
        ({"learning": "of"}, "learning of igb_rl 'of'.*did you mean 'off'"),
        ({"hold": 0}, "igb_rl: hold must be a whole number of at least 1, found 0"),
        ({"hold_share": 1.0}, "igb_rl: hold_share must leave room for decisions, .*found 1.0"),
        ({"floor": -0.1}, "igb_rl: floor must lie between 0 and 1, found -0.1"),
        ({"window": 100}, "igb_rl' has no option 'window'"),
        ({"agent_file": "x"}, "agent_file is read with learning='shipped', found learning='off'"),
    ],
)
def test_options_that_cannot_work_are_refused(options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_balancer("igb_rl", num_tasks=3, **options)


# ---------------------------------------------------------------------- learning


def test_without_skill_the_weights_are_exactly_those_of_the_closed_form():
    training, closed, learner = Training(), decider(), decider("igb_rl", learning="scratch")
    draw = np.random.default_rng(0)
    for _ in range(20):
        tasks = training.ends(list(draw.random(3))).tasks()  # nothing that could be foretold
        expected, weights = closed(tasks), learner(tasks)
        if learner.report[-1] <= 0:
            torch.testing.assert_close(weights, expected)
    assert learner.agent.critic_adam.steps > 0 and len(learner.agent.memory) == 19


def test_with_learning_off_it_is_the_closed_form():
    training, closed, off = Training(), decider(), decider("igb_rl")
    for step in range(8):
        tasks = training.ends([0.1 * step, 0.02 * step, 0.0]).tasks()
        assert torch.equal(closed(tasks), off(tasks))
    assert float(off.diagnostics()["agent_reward"]) > 0


# ---------------------------------------------------------------------- controls


def test_the_random_control_deals_the_weights_of_the_closed_form():
    training, closed, control = Training(5), decider("igb_v1_rl", 5), decider("igb_rl_random", 5)
    moved = 0
    for _ in range(6):
        tasks = training.ends([0.0, 0.25, 0.5, 0.75, 1.0]).tasks()
        expected, dealt = closed(tasks), control(tasks)
        moved += not torch.equal(expected, dealt)
        if closed.decisions == 1:
            assert torch.equal(expected.sort().values, dealt.sort().values)
    assert moved > 3


def course_of_record(name, seed=0):
    """What a control does over the budget of the recorded run, update by update."""
    generator = torch.Generator().manual_seed(seed)
    balancer = make_balancer(name, num_tasks=4, source=recorded_run(4), weights_on="loss", generator=generator)
    given = tasks_of(torch.ones(4))
    weights = []
    for step in range(19):
        given.progress = progress_of([0.0] * 4, budget_used=step / 20)
        weights.append(balancer(given))
    return torch.stack(weights)


def other_record(folder, source, decisions):
    """The record of a run of which only the first decisions, and these for other tasks, are left."""
    data, tensors = read_agent(source)
    state = dict(tensors["critic_balancer"])
    changed = state["record._extra_state"][:decisions].clone()
    changed[:, 1:5] = changed[:, 1:5].flip(1)
    return str(write_agent(folder / "other", data, {"critic_balancer": state | {"record._extra_state": changed}}))


@pytest.mark.parametrize("name", RECORDED)
def test_a_control_keeps_the_record_it_began_with_until_it_is_given_another_source(name, tmp_path):
    source = str(shutil.copy(recorded_run(4), tmp_path / "agent.zip"))
    began = decider_from(name, source)
    state = began.state_dict()
    other = other_record(tmp_path, source, 7)
    given = decider_from(name, other)
    record = given.times.clone(), given.schedule.clone()
    given.load_state_dict(copy.deepcopy(state))
    assert torch.equal(given.times, record[0]) and torch.equal(given.schedule, record[1])
    shutil.copy(other, source)  # the run there has changed since
    again = decider_from(name, source)
    again.load_state_dict(copy.deepcopy(state))
    assert torch.equal(again.times, began.times) and torch.equal(again.schedule, began.schedule)


def decider_from(name, source):
    return make_balancer(name, num_tasks=4, source=source, weights_on="loss")


def test_the_frozen_control_is_the_time_average_of_the_recorded_weights():
    times, weights = read_record(recorded_run(4), 4)
    assert times.tolist() == pytest.approx([step / 20 for step in range(20)])
    frozen = course_of_record("igb_rl_frozen")
    torch.testing.assert_close(frozen, weights.mean(0).expand(19, 4))
    assert weights.std() > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_permuted_control_follows_the_record_with_the_weights_of_other_tasks(seed):
    _, weights = read_record(recorded_run(4), 4)
    permuted = course_of_record("igb_rl_permuted", seed)
    order = [int((weights[:19] == permuted[:, task, None]).all(0).nonzero()) for task in range(4)]
    assert sorted(order) == [0, 1, 2, 3] and all(task != other for task, other in enumerate(order))


def test_what_is_no_record_of_a_run_is_refused(small_agent, tmp_path):
    with pytest.raises(ConfigurationError, match="source must be a run of igb_rl: There is no agent at"):
        make_balancer("igb_rl_frozen", num_tasks=4, source=str(tmp_path / "nothing"))
    small_agent().save(tmp_path / "agent")
    with pytest.raises(ConfigurationError, match="source must be a run of igb_rl with 4 tasks"):
        make_balancer("igb_rl_frozen", num_tasks=4, source=str(tmp_path))
    with pytest.raises(ConfigurationError, match="source must be a run of igb_rl with 3 tasks"):
        make_balancer("igb_rl_frozen", num_tasks=3, source=recorded_run(4))


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("name", ["igb_rl", "igb_v1_rl", "igb_v2", "igb_rl+pcgrad", "igb_rl_random"])
def test_a_paused_balancer_continues_identically_in_the_middle_of_a_hold(name):
    """Record, window, networks, optimisers, memory, evidence, counters and generators."""
    own = {"epoch": 3} if name == "igb_v2" else {"hold": 3, "hold_episodes": 1, "weights_on": "loss"}
    options = {**own, "learning": "scratch"} if name.startswith("igb_rl") and name != "igb_rl_random" else own

    training = Training()

    def course(first, last):
        for index in range(first, last):
            draw = torch.Generator().manual_seed(index)
            losses, returns = torch.rand(2, 3, generator=draw)
            if index % 2 == 0:
                training.ends(returns.tolist())
            given = training.tasks(losses + 0.1, used=index / 60)
            given.jacobian = torch.randn(3, 5, generator=draw)
            given.gramian = given.jacobian @ given.jacobian.T
            yield given

    first = make_balancer(name, num_tasks=3, generator=torch.Generator().manual_seed(0), **options)
    for step in course(0, 31):
        first(step)
    second = make_balancer(name, num_tasks=3, generator=torch.Generator().manual_seed(1), **options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for one, other in zip(first.modules(), second.modules(), strict=True):
        if hasattr(one, "generator"):  # those of the balancers are the agent's, which saves them
            other.generator.set_state(one.generator.get_state())
    for step in course(31, 60):
        assert torch.equal(first(step), second(step))
        mine, theirs = first.diagnostics(), second.diagnostics()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("tasks", [2, 7])
def test_the_agent_that_ships_with_the_toolkit_serves_any_number_of_tasks_and_is_trusted_from_the_start(tasks):
    training, balancer = Training(tasks), decider("igb_rl", tasks, learning="shipped")
    assert balancer.agent.skill > 0
    weights = balancer(training.ends([0.1 * task for task in range(tasks)]).tasks())
    assert weights.min() >= 0.2 and weights.sum().item() == pytest.approx(tasks, abs=1e-4)
    assert not torch.equal(weights, decider("igb_v1_rl", tasks)(training.tasks()))
