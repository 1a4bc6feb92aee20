"""IGB-RL in the loop: what it sees, what it is rewarded with, what it must never do; and the controls that judge it."""

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch

from agents import ConfigurationError, make_balancer
from agents.balancers import BalancerError, Needs
from agents.balancers.igb.controls import read_record
from agents.balancers.igb.gaps import GAP_SOURCES, ImprovableGaps
from agents.balancers.igb.memory import DecisionMemory
from agents.balancers.igb.rl import (
    FEATURES,
    RECENT,
    improvement_reward,
    level_reward,
    weight_progress_correlation,
)
from agents.balancing.tasks import as_tasks
from agents.files.agent_file import read_agent, write_agent
from tests.agents.balancers.balancer_cases import RECORDED, progress_of, recorded_run, tasks_of

torch.set_num_threads(1)
FAST = {"window": 5, "gap_source": "critic", "warmup": 0.2, "learn_after": 5}  # decides often, and waits for no episode
UPDATES = 100


def tasks(losses=(1.0, 2.0, 4.0), **progress):
    given = tasks_of(torch.as_tensor(losses))
    given.progress = progress_of(progress.pop("successes", [0.0] * len(losses)), **progress)
    return given


def trained(small_agent, updates=UPDATES, **options):
    agent = small_agent(**options)
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_with_its_output_forced_to_one_the_training_trace_is_that_of_plain_mtsac_bit_for_bit(small_agent, precision):
    plain = trained(small_agent, precision=precision)
    forced = trained(small_agent, precision=precision, balancer="igb_rl", balancer_kwargs={**FAST, "floor": 1.0})
    free = trained(small_agent, precision=precision, balancer="igb_rl", balancer_kwargs=FAST)
    assert equal(plain, forced)
    assert not equal(plain, free), "the weights of the agent do nothing: the comparison would mean nothing"
    balancer = forced.critic_balancer
    assert balancer.decisions == UPDATES // 5 == len(balancer.agent.memory) + 1
    assert balancer.agent.critic_adam.steps > 0, "the agent must learn on while its output is forced"


def test_one_decision_serves_critic_and_actor(small_agent):
    agent = trained(small_agent, 50, balancer="igb_rl", balancer_kwargs=FAST)
    critic, actor = agent.critic_balancer.diagnostics()["weights"], agent.actor_balancer.diagnostics()["weights"]
    assert torch.equal(critic, actor) and critic.std() > 0
    assert not hasattr(agent.actor_balancer, "agent")
    assert not [name for name in agent.actor_balancer.state_dict() if "agent" in name]


@pytest.mark.parametrize(("weights_on", "moving"), [("critic", [True, False]), ("actor", [False, True])])
def test_the_weights_act_where_they_are_asked_to(small_agent, weights_on, moving):
    options = {**FAST, "weights_on": weights_on}
    agent = trained(small_agent, 50, balancer="igb_rl", balancer_kwargs=options)
    weights = [part.diagnostics()["weights"] for part in (agent.critic_balancer, agent.actor_balancer)]
    assert [bool(weight.std() > 0) for weight in weights] == moving
    assert agent.critic_balancer.decisions > 5


@pytest.mark.parametrize("name", ["igb_rl", "igb_rl_random", "igb_v1_rl"])
def test_scaled_weights_act_in_units_of_the_spread_of_targets_and_keep_mean_one(small_agent, name):
    options = {"window": 5, "scale": "spread"}
    agent = trained(small_agent, 60, balancer=name, balancer_kwargs=options)
    critic, actor = agent.critic_balancer, agent.actor_balancer
    for balancer, units in ((critic, critic.variance), (actor, critic.variance.sqrt())):
        weights = balancer.diagnostics()["weights"]
        assert weights.mean().item() == pytest.approx(1.0)
        importance = weights * units
        torch.testing.assert_close(importance / importance.mean(), critic.decided, rtol=1e-4, atol=1e-6)
    assert critic.variance[-1] > 5 * critic.variance[0]  # the rewards differ a hundredfold
    assert torch.equal(critic.diagnostics()["decided"], critic.decided)


def test_scaled_weights_hide_the_scale_of_a_tasks_rewards():
    def balanced(factor):
        step = tasks((1.0, 2.0, 4.0 * factor**2), successes=[0.0, 0.5, 0.2])
        step.metrics = {"target_variance": torch.tensor([1.0, 2.0, 3.0 * factor**2])}
        weighted = make_balancer("igb_v1_rl", num_tasks=3, scale="spread")(step) * step.losses
        return weighted / weighted.sum()

    torch.testing.assert_close(balanced(1.0), balanced(100.0))


def test_targets_without_spread_are_not_scaled(small_agent):
    options = {"window": 5, "scale": "spread"}
    agent = small_agent(balancer="igb_v1_rl", balancer_kwargs=options, batch_size=4)  # one sample of each task
    agent.learn(100, log_interval=None)
    assert agent.guard.skipped == 0
    assert agent.critic_balancer.variance.tolist() == [0.0] * 4
    found = agent.critic_balancer.diagnostics()
    torch.testing.assert_close(found["weights"], found["decided"])


@pytest.mark.parametrize("name", ["igb_rl+pcgrad", "igb_rl+cagrad", "son_goku:igb_rl", "igb_v1_rl+cagrad"])
def test_it_composes_and_still_decides_once(small_agent, name):
    options = {f"{name.replace('son_goku:', '').split('+')[0]}.window": 5} if "+" in name else {"window": 5}
    agent = trained(small_agent, 40, balancer=name, balancer_kwargs=options)
    critic, actor = agent.critic_balancer, agent.actor_balancer
    leader, follower = (part.inner if ":" in name else part.parts[0] for part in (critic, actor))
    assert follower._decided() is leader.decided and leader.decisions > 0
    assert not follower.state_dict()
    assert "gaps" in critic.diagnostics() and critic.diagnostics()["weights"].isfinite().all()


def test_an_actor_balancer_of_its_own_decides_for_itself(small_agent):
    agent = trained(small_agent, 40, balancer="unitary", actor_balancer="igb_rl", actor_balancer_kwargs=FAST)
    assert agent.actor_balancer.decisions > 0 and agent.actor_balancer.diagnostics()["weights"].std() > 0


def test_the_published_agent_weighs_the_critic_alone(small_agent):
    agent = trained(small_agent, 60, balancer="igb_v2", balancer_kwargs={"epoch": 5})
    assert len(agent.critic_balancer.agent.memory) == agent._n_updates - 11
    assert agent.critic_balancer.agent.critic_adam.steps == int(25 * (1 + 40 / 10_000))
    assert type(agent.actor_balancer).__name__ == "Unitary"


def test_a_saved_agent_keeps_the_agent_beside_it(small_agent, tmp_path):
    agent = trained(small_agent, 60, balancer="igb_rl", balancer_kwargs=FAST)
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", device="cpu")
    states = (agent.critic_balancer.state_dict(), loaded.critic_balancer.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert loaded.critic_balancer.decisions == agent.critic_balancer.decisions


# ---------------------------------------------------------------------- gaps


def read(source, steps, **options):
    """The readings of a course: each step is one window of one update."""
    gaps = ImprovableGaps("method", len(steps[0].losses), source, **options)
    readings = []
    for step in steps:
        gaps.watch(as_tasks(step))
        readings.append(gaps.read(as_tasks(step)))
    return readings


def test_the_return_gap_is_the_share_of_the_way_from_random_to_best():
    step = tasks(returns=[2.0, 7.0, 12.0], random=2.0, best=12.0)
    assert read("return", [step])[0].gaps.tolist() == [1.0, 0.5, 0.0]
    assert read("return", [step], target_returns=[22.0, 12.0, 7.0])[0].gaps.tolist() == [1.0, 0.5, 0.0]


def test_mixed_is_the_mean_of_the_gaps_of_return_and_success():
    step = tasks(successes=[0.0, 0.5, 1.0], returns=[0.0, 0.5, 0.75])
    assert read("mixed", [step])[0].gaps.tolist() == pytest.approx([1.0, 0.5, 0.125])


@pytest.mark.parametrize("source", GAP_SOURCES)
def test_before_anything_is_known_a_gap_is_whole_or_that_of_the_base(source):
    unknown = tasks(successes=[float("nan")] * 3, random=float("nan"), best=float("nan"))
    unknown.metrics = {"target_variance": torch.ones(3)}
    reading = read(source, [unknown])[0]
    expected = {"critic": [0.5] * 3, "td_norm": [1 / 2, 2 / 3, 4 / 5]}.get(source, [1.0] * 3)
    assert reading.gaps.tolist() == pytest.approx(expected)
    assert reading.success.tolist() == reading.returns.tolist() == [0.0] * 3


@pytest.mark.parametrize("source", GAP_SOURCES)
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_gaps_lie_between_zero_and_one_at_every_scale(source, scale):
    def step(seed):
        random = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed))
        given = tasks(scale * random[0], successes=random[1], returns=scale * random[2], best=scale)
        given.metrics = {"target_variance": scale * random[3]}
        return given

    for reading in read(source, [step(seed) for seed in range(20)]):
        for values in reading[:3]:
            assert (values >= 0).all() and (values <= 1).all()
        assert reading.loss_ratio.abs().max() <= 1


def test_a_task_whose_returns_never_rose_above_random_has_the_whole_gap():
    assert read("return", [tasks(returns=[2.0] * 3, random=2.0, best=2.0)])[0].gaps.tolist() == [1.0] * 3


def test_td_errors_in_units_of_the_spread_of_targets_do_not_see_the_scale_of_rewards():
    def gaps(scale):
        step = tasks([scale**2 * loss for loss in (1.0, 2.0, 4.0)])
        step.metrics = {"target_variance": torch.full((3,), 2.0 * scale**2)}
        return read("td_norm", [step])[0].gaps

    torch.testing.assert_close(gaps(1.0), gaps(100.0))


def test_a_gap_without_what_it_is_read_from_is_refused():
    blind = SimpleNamespace(losses=torch.ones(3))
    with pytest.raises(BalancerError, match="igb_rl reads how far every task has come .*use gap_source='critic'"):
        make_balancer("igb_rl", num_tasks=3)(blind)
    with pytest.raises(BalancerError, match="gap_source='td_norm' needs a critic's targets"):
        make_balancer("igb_rl", num_tasks=3, gap_source="td_norm")(tasks())
    assert make_balancer("igb_rl", num_tasks=3, gap_source="critic")(blind).shape == (3,)


# ---------------------------------------------------------------------- the reward


def test_the_reward_is_the_smallest_decrease_and_a_part_of_the_mean():
    before, after = torch.tensor([1.0, 0.8, 0.5]), torch.tensor([0.9, 0.5, 0.6])
    assert improvement_reward(before, after, kappa=0.0).item() == pytest.approx(-0.1)
    assert improvement_reward(before, after, kappa=0.5).item() == pytest.approx(-0.1 + 0.5 * 0.1)
    assert level_reward(after, kappa=0.0).item() == pytest.approx(-0.9)


def test_of_many_tasks_the_worst_share_is_averaged_so_that_noise_does_not_rule():
    noise = 0.01 * torch.randn(1000, 50, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(1000, 50)
    alone, share = (improvement_reward(noise, zeros, worst_share=share, kappa=0.0).mean() for share in (0.02, 0.2))
    assert alone < 1.5 * share < 0


def decide(balancer, course):
    """The weights of a course of windows, and what the balancer reported after each."""
    weights, reports = [], []
    for step in course:
        weights.append(balancer(step).clone())
        reports.append({name: value.clone() for name, value in balancer.diagnostics().items()})
    return weights, reports


def learning(source, **options):
    return make_balancer("igb_rl", num_tasks=3, gap_source=source, window=1, warmup=0.0, **options)


def test_the_loss_gap_punishes_learning_while_values_grow_and_the_mixed_gap_rewards_it():
    """A critic's loss grows with its values (pitfalls 1 and 2): returns rise, and so do the losses."""
    course = [
        tasks((float(2**step),) * 3, returns=[0.1 * step] * 3, successes=[0.1 * step] * 3, episodes=step)
        for step in range(8)
    ]
    rewards = {
        source: [float(report["agent_reward"]) for report in decide(learning(source), course)[1][2:]]
        for source in ("critic", "mixed")
    }
    assert max(rewards["critic"]) < 0 < min(rewards["mixed"])


def test_a_task_without_any_success_still_gives_a_signal_through_its_returns():
    """Success alone is silent before the first one (pitfall 12)."""
    course = [tasks(returns=[0.1 * step, 0.05 * step, 0.02 * step], episodes=step) for step in range(6)]
    silent = [float(report["agent_reward"]) for report in decide(learning("success"), course)[1]]
    speaking = [float(report["agent_reward"]) for report in decide(learning("mixed"), course)[1][1:]]
    assert silent == [0.0] * 6 and min(speaking) > 0


def test_losses_a_thousandfold_above_their_base_give_no_one_hot_weights():
    """The softmax of the published ratio would follow one task alone (pitfalls 2 and 4)."""
    course = [tasks((1.0, 1.0, 1.0))] * 3 + [tasks((1.0, 1.0, 1e3))] * 5
    published = make_balancer("igb_v1", num_tasks=3, base_start=0, base_window=1)
    importance = [published(step) * step.losses for step in course]
    assert importance[-1][2] > 2.99
    for name in ("igb_v1_rl", "igb_rl"):
        balancer = make_balancer(name, num_tasks=3, gap_source="critic", window=1)
        for weights in decide(balancer, course)[0]:
            assert weights.min() > 0.1 and weights.max() < 2.7


def test_more_weight_never_feeds_on_itself_beyond_the_floor():
    """The hard-task loop (pitfall 4): the loss of a task grows with its weight, for two hundred windows."""
    balancer, losses = learning("critic", learn_after=8, updates=1), torch.ones(3)
    for step in range(200):
        weights = balancer(tasks(losses.tolist(), episodes=step, budget_used=step / 200))
        losses = (losses * (1 + 0.2 * (weights - 1))).clamp(1e-6, 1e6)
        assert weights.min() >= 0.1 - 1e-6
        assert weights.sum().item() == pytest.approx(3.0, abs=1e-5)  # never normalised away (pitfall 5)


def test_losses_are_compared_with_those_of_other_batches_only_and_never_before_and_after_a_step():
    """On one batch a loss falls by the target's lag alone (pitfall 3): no second look at it enters a gap or reward."""
    for name in ("igb_rl", "igb_v1_rl", "igb_v2", "igb_rl_random"):
        assert Needs.SECOND_LOOK not in make_balancer(name, num_tasks=2).needs


def test_temperatures_are_learnt_as_if_there_were_no_weights(small_agent, random_sample):
    """A task's weight multiplies both terms of its actor loss; the temperature must not follow it (pitfall 6)."""
    moved = []
    for balancer, options in (("unitary", {}), ("igb_rl", FAST), ("static", {"weights": [9.0, 1.0, 1.0, 1.0]})):
        agent = small_agent(balancer=balancer, balancer_kwargs=options)
        noise = torch.randn(2, 4, 8, 2, generator=torch.Generator().manual_seed(1))
        metrics = agent.update(random_sample(agent), noise)
        assert metrics["actor_balancer.weights"].std() > 0 or balancer == "unitary"
        moved.append(agent.temperature.log_alpha.detach().clone())
    assert torch.equal(moved[0], moved[1]) and torch.equal(moved[0], moved[2])


def test_the_report_tells_whether_weights_are_followed_by_progress():
    """Weights act late (pitfall 7): the correlation looks five decisions ahead."""
    memory = DecisionMemory(3, len(FEATURES), 100)
    draw = torch.Generator().manual_seed(0)
    gaps = torch.ones(3)
    for _ in range(RECENT + 10):
        shares = (0.3 * torch.randn(3, generator=draw)).softmax(-1) if len(memory) % 10 == 0 else shares  # noqa: F821
        state = torch.zeros(3, len(FEATURES))
        state[:, FEATURES.index("gap")] = gaps
        memory.add(state, shares, torch.zeros(()), state)
        gaps = gaps - 0.01 * shares
    assert weight_progress_correlation(memory) > 0.5
    assert weight_progress_correlation(DecisionMemory(3, len(FEATURES), 100)) == 0


def test_the_agent_sees_how_much_of_the_budget_is_used_and_only_bounded_numbers():
    """The data improve whatever the weights are: time belongs to the state (pitfall 13)."""
    balancer = learning("mixed")
    for step in range(12):
        balancer(tasks((10.0**step, 1.0, 1e-9), returns=[step / 3] * 3, episodes=step, budget_used=step / 12))
    state = balancer.last_state
    assert torch.equal(state[:, FEATURES.index("budget used")], torch.full((3,), 11 / 12))
    assert state.abs().max() <= 2.0
    assert torch.equal(balancer.last_gaps, state[:, FEATURES.index("gap")])


def test_the_memory_is_small_and_without_priorities():
    """Old decisions were made for another agent (pitfall 8)."""
    memory = make_balancer("igb_rl", num_tasks=2).agent.memory
    assert memory.capacity == 10_000 and memory.get_extra_state().shape[0] == 0
    assert make_balancer("igb_v2", num_tasks=2).agent.memory.capacity == 10_000


# ---------------------------------------------------------------------- windows


def changes(weights):
    """The updates at which the weights changed."""
    return [step for step in range(1, len(weights)) if not torch.equal(weights[step], weights[step - 1])]


def test_a_decision_stands_for_its_window_and_waits_for_an_episode_of_every_task():
    balancer = make_balancer("igb_rl", num_tasks=3, window=4, warmup=1.0)
    course = [tasks(episodes=0)] * 10 + [tasks(episodes=1)] * 6
    weights, _ = decide(balancer, course)
    assert changes(weights) == [10], "after the wait, a window of four updates and another episode must pass"


def test_without_episodes_a_decision_is_put_off_by_ten_windows_and_not_for_ever():
    balancer = make_balancer("igb_rl", num_tasks=3, window=4, warmup=1.0)
    assert changes(decide(balancer, [tasks(episodes=0)] * 100)[0]) == [40, 80]


def test_gaps_of_losses_wait_for_no_episode():
    balancer = make_balancer("igb_rl", num_tasks=3, window=4, warmup=1.0, gap_source="critic")
    assert changes(decide(balancer, [tasks(episodes=0)] * 12)[0]) == [4, 8]


def test_learning_rates_that_fall_raise_the_reward_by_what_the_steps_became_shorter():
    def reward(rate):
        balancer = learning("mixed")
        for step, current in enumerate((1e-3, rate)):
            given = tasks(returns=[0.1 * step] * 3, episodes=step)
            given.learning_rate = current
            balancer(given)
        return float(balancer.diagnostics()["agent_reward"])

    assert reward(5e-4) == pytest.approx(2 * reward(1e-3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gap_source": "sucess"}, "gap_source of igb_rl 'sucess'.*did you mean 'success'"),
        ({"weights_on": "critics"}, "weights_on of igb_rl 'critics'.*did you mean 'critic'"),
        ({"scale": "spreads"}, "scale of igb_rl 'spreads'.*did you mean 'spread'"),
        ({"reward": "levels"}, "reward of igb_rl 'levels'.*did you mean 'level'"),
        ({"noise": "gauss"}, "exploration noise 'gauss'.*did you mean 'gaussian'"),
        ({"window": 0}, "igb_rl: window must be a whole number of at least 1, found 0"),
        ({"warmup": 2}, "igb_rl: warmup is a share of the budget from 0 to 1, found 2"),
        ({"target_returns": [1.0, 2.0]}, "igb_rl: target_returns needs 3 numbers, found 2"),
        ({"floor": -0.1}, "igb_rl: floor must lie between 0 and 1, found -0.1"),
    ],
)
def test_options_that_cannot_work_are_refused(options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_balancer("igb_rl", num_tasks=3, **options)


# ---------------------------------------------------------------------- controls


def test_the_closed_form_is_the_softmax_of_the_gaps():
    balancer = make_balancer("igb_v1_rl", num_tasks=3, window=1)
    weights = balancer(tasks(successes=[0.0, 0.5, 1.0], returns=[0.0, 0.5, 1.0]))
    torch.testing.assert_close(weights, 3 * torch.tensor([2.0, 1.0, 0.0]).softmax(-1))


def test_the_random_control_has_the_law_of_an_agent_that_knows_nothing():
    def drawn(name, used, **options):
        balancer = make_balancer(name, num_tasks=3, window=1, generator=torch.Generator().manual_seed(1), **options)
        course = [tasks(episodes=step, budget_used=used) for step in range(800)]
        return torch.stack(decide(balancer, course)[0]).log()

    for used in (0.05, 0.3, 0.9):  # warm-up, falling noise, least noise
        ignorant = drawn("igb_rl", used, updates=0, prior=0.0)
        control = drawn("igb_rl_random", used)
        torch.testing.assert_close(control.std(), ignorant.std(), rtol=0.07, atol=0)
        torch.testing.assert_close(control.exp().mean(0), torch.ones(3), rtol=0, atol=0.08)


def course_of_record(name, seed=0):
    """What a control does over the budget of the recorded run, update by update."""
    generator = torch.Generator().manual_seed(seed)
    balancer = make_balancer(name, num_tasks=4, source=recorded_run(4), generator=generator)
    balancer.window = 1
    return torch.stack([balancer(tasks((1.0,) * 4, budget_used=step / 20)) for step in range(19)])


def other_record(folder, source, decisions):
    """The record of a run of which only the first decisions, and these for other tasks, are left."""
    data, tensors = read_agent(source)
    state = dict(tensors["critic_balancer"])
    (rows,) = [name for name in state if name.endswith("agent.memory._extra_state")]
    first = 4 * len(FEATURES)
    changed = state[rows][:decisions].clone()
    changed[:, first : first + 4] = changed[:, first : first + 4].flip(1)
    state |= {rows: changed, rows.replace("_extra_state", "count"): torch.tensor(decisions)}
    return str(write_agent(folder / "other", data, {"critic_balancer": state}))


@pytest.mark.parametrize("name", RECORDED)
def test_a_control_keeps_the_record_it_began_with_until_it_is_given_another_source(name, tmp_path):
    source = str(shutil.copy(recorded_run(4), tmp_path / "agent.zip"))
    began = make_balancer(name, num_tasks=4, source=source)
    state = began.state_dict()
    other = other_record(tmp_path, source, 7)
    given = make_balancer(name, num_tasks=4, source=other)
    record = given.times.clone(), given.schedule.clone()
    given.load_state_dict(state)
    assert torch.equal(given.times, record[0]) and torch.equal(given.schedule, record[1])
    older = {key: value for key, value in state.items() if key != "origin"}  # written before sources were told apart
    shutil.copy(other, source)  # the run there has changed since
    for saved in (state, older):
        again = make_balancer(name, num_tasks=4, source=source)
        again.load_state_dict(saved)
        assert torch.equal(again.times, began.times) and torch.equal(again.schedule, began.schedule)


def test_the_frozen_control_is_the_time_average_of_the_recorded_weights():
    times, weights = read_record(recorded_run(4), 4)
    assert times.tolist() == pytest.approx([step / 20 for step in range(19)])
    frozen = course_of_record("igb_rl_frozen")
    torch.testing.assert_close(frozen, weights.mean(0).expand(19, 4))
    assert weights.std() > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_the_permuted_control_follows_the_record_with_the_weights_of_other_tasks(seed):
    _, weights = read_record(recorded_run(4), 4)
    permuted = course_of_record("igb_rl_permuted", seed)
    order = [int((weights == permuted[:, task, None]).all(0).nonzero()) for task in range(4)]
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


@pytest.mark.parametrize("name", ["igb_rl", "igb_v1_rl", "igb_v2", "igb_rl+pcgrad"])
def test_a_paused_balancer_continues_identically_in_the_middle_of_a_window(name):
    """Both networks, optimisers, memory, noise, averages, counters and generators (pitfall 10)."""
    own = {"noise": "ou", "learn_after": 3, "warmup": 0.3} if name == "igb_rl" else {}
    options = {"epoch": 3} if name == "igb_v2" else {"window": 3, **own}

    def step(index):
        draw = torch.Generator().manual_seed(index)
        losses, successes = torch.rand(2, 3, generator=draw)
        given = tasks_of(losses + 0.1, torch.randn(3, 5, generator=draw))
        given.progress = progress_of(successes, episodes=index // 2, budget_used=index / 60)
        return given

    first = make_balancer(name, num_tasks=3, generator=torch.Generator().manual_seed(0), **options)
    decide(first, [step(index) for index in range(31)])
    second = make_balancer(name, num_tasks=3, generator=torch.Generator().manual_seed(1), **options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    if "pcgrad" in name:
        second.parts[1].generator.set_state(first.parts[1].generator.get_state())
    course = [step(index) for index in range(31, 60)]
    (weights, reports), (others, other_reports) = decide(first, course), decide(second, course)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    for mine, theirs in zip(reports, other_reports, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
