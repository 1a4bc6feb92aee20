"""An agent that was put away and taken up again goes on as if nothing had happened, number for number."""

import io

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import ConfigurationError, list_balancers
from agents.replay import TaskReplayBuffer
from tests.agents.balancers.balancer_cases import GIVEN, recorded_run
from tests.agents.brc_settings import BRC
from tests.grids import grid

OPTIONS = {
    **GIVEN,
    "dwa": {"iteration_window": 5},
    "igb_v1": {"base_start": 3, "base_window": 20},
    "nash_mtl": {"update_every": 4},
    "stch": {"warmup": 3, "nadir_window": 20},
    "son_goku": {"refresh_every": 3, "warmup": 0.1, "anneal": 0.2, "tau": 0.05},
    "gradnorm": {"initial_updates": 15},
    "igb_rl": {"hold": 3, "hold_episodes": 1, "learning": "scratch"},
    "igb_v1_rl": {"hold": 3, "hold_episodes": 1, "weights_on": "loss"},
    "igb_rl_random": {"hold": 3, "hold_episodes": 1},
    "igb_v2": {"epoch": 2},
    "igb_rl_frozen": {"source": recorded_run(4)},
    "igb_rl_permuted": {"source": recorded_run(4)},
}
COMPOSED = {
    "igb_v1+pcgrad": {"base_start": 3, "base_window": 20},
    "son_goku:pcgrad": {"refresh_every": 3, "warmup": 0.1, "anneal": 0.2, "tau": 0.05},
    "famo+graddrop": {},
}
# One memory of each kind.
SHOWN = ["famo", "gradnorm", "moco", "igb_rl", "igb_v2", "son_goku:pcgrad", "famo+graddrop"]
BALANCERS = {record.name: OPTIONS.get(record.name, {}) for record in list_balancers()} | COMPOSED
AGENTS = {
    "sequential": {"pipeline": False},
    "three steps and four updates a round": {"train_freq": 3, "gradient_steps": 4},
    "a small ring": {"buffer_size": 48},
    "std, shared temperature": {"reward_scale": "std", "temperature": "shared", "balancer": "rlw"},
    "bfloat16 multihead": {"precision": "bfloat16", "policy_kwargs": {"network": "multihead", "task_id": "embedding"}},
    "brc": {**BRC, "env_horizon": 20},
    "return scale": {"reward_scale": "return", "env_horizon": 20},
    "popart": {"policy_kwargs": {"network": "multihead", "critic": "popart"}},
    "schedule": {"learning_rate": lambda left: 1e-3 * left},
}


def paused(agent):
    """What a file would hold of an agent and its environments."""
    buffer = agent.replay_buffer
    first = np.maximum(buffer.stored - buffer.capacity, 0)
    file = io.BytesIO()
    torch.save(agent.state(), file)
    ring = (first, buffer.stored.copy(), buffer.rows_between(first, buffer.stored))
    return file.getvalue(), agent.env.state_dict(), ring


def resumed(agent, saved):
    """Another agent, made anew, in the place of the one that was put away."""
    file, environments, (first, last, rows) = saved
    agent.replay_buffer.put_back(first, last, rows)
    agent.replay_buffer.resume(last, agent.replay_buffer.capacity)
    observations = agent.env.load_state_dict(environments)
    agent.load_state(torch.load(io.BytesIO(file), weights_only=True), observations)
    return agent


def everything(agent, fingerprint):
    """Tensors, generators, replay, metrics and counters of an agent."""
    buffer = agent.replay_buffer
    rows = [buffer.rows[k, :filled].numpy().tobytes() for k, filled in enumerate(buffer.filled)]
    streams = {name: state.numpy().tobytes() for name, state in agent.generators.state()["streams"].items()}
    tags = agent.metrics.flush(agent.task_names)
    metrics = {tag: value for tag, value in tags.items() if not tag.endswith("_seconds")}  # a clock on the wall
    episodes = [{**info, "t": 0} for info in agent.ep_info_buffer], list(agent.ep_success_buffer)
    return fingerprint(agent), rows, streams, metrics, episodes, agent._n_updates, agent.env.state_dict()


class Pause(BaseCallback):
    """Saves the agent between two rounds of learning, once so many env_steps are made."""

    def __init__(self, env_steps):
        super().__init__()
        self.env_steps, self.saved = env_steps, None

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.saved is None and self.model.num_timesteps >= self.env_steps:
            self.saved = paused(self.model)


def check_resume(small_agent, fingerprint, **options):
    whole, pause = small_agent(**options), Pause(100)
    whole.learn(200, callback=pause, log_interval=None)
    second = resumed(small_agent(**options), pause.saved)
    assert 100 <= second.num_timesteps < 130 < whole._n_updates * 4
    second.learn(200 - second.num_timesteps, log_interval=None, reset_num_timesteps=False)
    for ours, theirs in zip(everything(second, fingerprint), everything(whole, fingerprint), strict=True):
        assert ours == theirs


@grid("balancer", BALANCERS, always=SHOWN)
def test_every_balancer_goes_on_where_it_was(small_agent, fingerprint, balancer):
    check_resume(small_agent, fingerprint, balancer=balancer, balancer_kwargs=BALANCERS[balancer])


@pytest.mark.parametrize("options", AGENTS.values(), ids=AGENTS)
def test_every_kind_of_agent_goes_on_where_it_was(small_agent, fingerprint, options):
    check_resume(small_agent, fingerprint, **options)


def test_saving_changes_nothing(small_agent, fingerprint):
    agents = [small_agent(balancer="rlw") for _ in range(2)]
    for agent, callback in zip(agents, (None, Pause(100)), strict=True):
        agent.learn(200, callback=callback, log_interval=None)
    assert everything(agents[0], fingerprint) == everything(agents[1], fingerprint)


def test_the_state_is_a_copy(small_agent, fingerprint):
    agent = small_agent()
    agent.learn(80, log_interval=None)
    state = agent.state()
    before = state["parts"]["policy"]["actor.network.head.weight"].clone()
    agent.learn(80, log_interval=None)
    assert torch.equal(state["parts"]["policy"]["actor.network.head.weight"], before)
    assert not torch.equal(agent.actor.network.head.weight, before)


@pytest.mark.parametrize(
    "other", [{"policy_kwargs": {"hidden_sizes": [8, 8]}}, {"balancer": "famo"}, {"env_num_tasks": 2}]
)
def test_the_state_of_another_agent_is_refused_in_one_sentence(small_agent, other):
    agent = small_agent()
    agent.learn(16, log_interval=None)
    with pytest.raises(ConfigurationError, match="not of this agent"):
        small_agent(**other).load_state(agent.state(), agent._last_obs)


def test_random_numbers_of_another_kind_of_device_are_named_as_the_reason(small_agent):
    agent = small_agent()
    agent.learn(16, log_interval=None)
    state = agent.state()
    state["generators"]["streams"]["update noise"] = torch.zeros(16, dtype=torch.uint8)  # as CUDA's are
    with pytest.raises(ConfigurationError, match="another kind of device than cpu"):
        small_agent().load_state(state, agent._last_obs)


def ring(capacity, copies=1):
    tasks = np.tile(np.arange(2), copies)
    return TaskReplayBuffer(2 * capacity, 1, 1, tasks, torch.Generator(), torch.device("cpu"))


def fill(buffer, steps, start=0):
    for step in range(start, start + steps):
        rewards = np.arange(len(buffer.task_of_env)) + 10.0 * step
        buffer.add(np.zeros((len(rewards), 3)), np.zeros((len(rewards), 3)), np.zeros((len(rewards), 1)), rewards,
                   np.zeros(len(rewards)), [{}] * len(rewards))  # fmt: skip


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("steps", [2, 7, 23])
def test_a_ring_restored_in_two_pieces_is_the_same_ring(copies, steps):
    buffer, other = ring(10, copies), ring(10, copies)
    fill(buffer, steps)
    first, last = np.maximum(buffer.stored - buffer.capacity, 0), buffer.stored
    middle = (first + last) // 2
    for a, b in ((first, middle), (middle, last)):
        other.put_back(a, b, buffer.rows_between(a, b))
    other.resume(last, buffer.capacity)
    for both in (buffer, other):
        fill(both, 1, start=steps)
    for task, filled in enumerate(buffer.filled):
        assert torch.equal(buffer.rows[task, :filled], other.rows[task, :filled])
    assert (buffer.filled == other.filled).all() and (buffer.position == other.position).all()


def test_a_larger_ring_takes_a_ring_that_never_overwrote_and_refuses_one_that_did():
    for steps, fits in ((10, True), (11, False)):
        buffer, larger = ring(10), ring(20)
        fill(buffer, steps)
        first = np.maximum(buffer.stored - 10, 0)
        larger.put_back(first, buffer.stored, buffer.rows_between(first, buffer.stored))
        if fits:
            larger.resume(buffer.stored, 10)
            assert (larger.filled == 10).all() and (larger.position == 10).all()
        else:
            with pytest.raises(ConfigurationError, match="full ring of 10"):
                larger.resume(buffer.stored, 10)


def test_a_smaller_ring_keeps_the_newest():
    buffer, smaller = ring(10), ring(4)
    fill(buffer, 7)
    zero = np.zeros(2, int)
    smaller.put_back(zero, buffer.stored, buffer.rows_between(zero, buffer.stored))
    smaller.resume(buffer.stored, 10)
    assert sorted(smaller.rows[1, :, 2].tolist()) == [31, 41, 51, 61]
    fill(smaller, 1, start=7)
    assert sorted(smaller.rows[1, :, 2].tolist()) == [41, 51, 61, 71]


def test_rows_of_another_size_are_refused():
    with pytest.raises(ConfigurationError, match=r"2 transitions of 5 float32 numbers each were expected"):
        ring(4).put_back(np.zeros(2, int), np.ones(2, int), np.zeros((2, 6), np.float32))
