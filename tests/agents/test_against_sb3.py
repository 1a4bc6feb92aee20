"""With one task, multitask SAC is Stable-Baselines3's SAC."""

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from agents import MTSAC
from agents.replay import ReplaySample
from envs import make_suite

WIDTH, BATCH, UPDATES = 32, 16, 20


@pytest.fixture
def pendulum():
    made = []

    def make():
        made.append(make_suite("gym", tasks=["Pendulum-v1"]).make_vec_env(seed=0))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def pair(pendulum):
    """SB3's agent and ours with equal weights and equal settings."""

    def make(**options):
        theirs = SAC(
            "MlpPolicy",
            pendulum(),
            policy_kwargs={"net_arch": [WIDTH, WIDTH]},
            batch_size=BATCH,
            seed=0,
            device="cpu",
            **options,
        )
        ours = MTSAC(
            "MultiTaskPolicy",
            pendulum(),
            policy_kwargs={"hidden_sizes": [WIDTH, WIDTH]},
            batch_size=BATCH,
            max_grad_norm=None,
            adam_epsilon=1e-8,
            seed=0,
            device="cpu",
            **options,
        )
        for (_, mine), value in zip(named_tensors(ours), sb3_tensors(theirs), strict=True):
            mine.data.copy_(value)
        return theirs, ours

    return make


def linears(network):
    """SB3's affine layers as (weight [in, out], bias [out])."""
    return [(layer.weight.data.T, layer.bias.data) for layer in network if isinstance(layer, torch.nn.Linear)]


def input_order(rows, states):
    """SB3's critic reads (state, one-hot, action), ours (state, action, one-hot)."""
    return torch.cat([rows[:states], rows[states + 1 :], rows[states : states + 1]])


def sb3_tensors(agent):
    """SB3's parameters in our layout, in the order of `named_tensors`."""
    states = agent.observation_space.shape[0] - 1
    actor = linears(agent.actor.latent_pi)
    mean, spread = linears([agent.actor.mu, agent.actor.log_std])
    actor.append((torch.cat([mean[0], spread[0]], dim=1), torch.cat([mean[1], spread[1]])))
    tensors = [tensor for weight, bias in actor for tensor in (weight[None], bias[None, None])]
    for critic in (agent.critic, agent.critic_target):
        networks = [linears(network) for network in critic.q_networks]
        for layer in range(len(networks[0])):
            weights = [network[layer][0] for network in networks]
            if layer == 0:
                weights = [input_order(weight, states) for weight in weights]
            tensors += [torch.stack(weights), torch.stack([network[layer][1][None] for network in networks])]
    return [*tensors, agent.log_ent_coef.data if agent.log_ent_coef is not None else agent.ent_coef_tensor.log()[None]]


def named_tensors(agent):
    parts = {"actor": agent.actor, "critic": agent.critic, "critic_target": agent.critic_target}
    tensors = [(f"{part}.{name}", p) for part, module in parts.items() for name, p in module.named_parameters()]
    return [*tensors, ("log temperature", agent.temperature.log_alpha)]


def batches(count, seed=0):
    """Injected transitions and noise. Pendulum has 3 state numbers and 1 action; the one-hot of one task is 1.

    The first transition of every batch ends in a terminal state, the second in a time-out: bootstrapped, so not marked.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        states, following = torch.randn(2, BATCH, 3, generator=generator)
        actions = torch.rand(BATCH, 1, generator=generator) * 2 - 1
        rewards = torch.randn(BATCH, generator=generator)
        terminals = torch.zeros(BATCH)
        terminals[0] = 1.0
        sample = ReplaySample(*(t[None] for t in (states, actions, rewards, following, terminals)))
        yield sample, torch.randn(2, 1, BATCH, 1, generator=generator)


def feed(agent, monkeypatch, pairs):
    """Let SB3 sample these batches, and draw this noise for the current action and then for the next one."""
    one_hot = torch.ones(BATCH, 1)
    samples = iter([sample for sample, _ in pairs])
    noise = iter([part for _, (following, current) in pairs for part in (current[0], following[0])])

    def sample_batch(*_, **__):
        states, actions, rewards, following, terminals = (tensor[0] for tensor in next(samples))
        return ReplayBufferSamples(
            torch.cat([states, one_hot], 1),
            actions,
            torch.cat([following, one_hot], 1),
            terminals[:, None],
            rewards[:, None],
        )

    def draw(distribution, *_):
        return distribution.loc + distribution.scale * next(noise)

    monkeypatch.setattr(agent.replay_buffer, "sample", sample_batch)
    monkeypatch.setattr(torch.distributions.Normal, "rsample", draw)
    agent.set_logger(SilentLogger())


class SilentLogger:
    def record(self, *_, **__):
        pass


@pytest.mark.parametrize("ent_coef", ["auto", "auto_0.1", 0.2])
def test_one_task_is_sb3s_sac_after_twenty_updates_with_equal_batches_and_noise(pair, monkeypatch, ent_coef):
    theirs, ours = pair(ent_coef=ent_coef, gamma=0.97, tau=0.02)
    start = [tensor.clone() for _, tensor in named_tensors(ours)]
    pairs = list(batches(UPDATES))
    feed(theirs, monkeypatch, pairs)
    theirs.train(gradient_steps=UPDATES, batch_size=BATCH)
    for sample, noise in pairs:
        ours.update(sample, noise)
    for (name, mine), value, before in zip(named_tensors(ours), sb3_tensors(theirs), start, strict=True):
        torch.testing.assert_close(mine.data, value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        if name != "log temperature" or isinstance(ent_coef, str):
            assert (mine - before).abs().max() > 1e-4, f"{name} did not learn: the comparison would mean nothing"


def test_one_task_predicts_what_sb3_predicts_with_the_same_weights(pair, pendulum):
    theirs, ours = pair()
    observations = np.concatenate([pendulum().reset() for _ in range(3)])
    actions = ours.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(actions, theirs.predict(observations, deterministic=True)[0], atol=1e-6)


def test_both_store_the_same_transition_and_call_only_the_true_end_terminal(pair):
    theirs, ours = pair(buffer_size=100)
    for agent in (theirs, ours):
        agent._last_obs = np.array([[0.1, 0.2, 0.3, 1.0]], np.float32)
        for truncated in (False, True):
            end = {"terminal_observation": np.array([0.7, 0.8, 0.9, 1.0], np.float32), "TimeLimit.truncated": truncated}
            agent._store_transition(
                agent.replay_buffer,
                np.array([[0.5]], np.float32),
                np.array([[0.4, 0.5, 0.6, 1.0]], np.float32),
                np.array([-2.0], np.float32),
                np.array([True]),
                [end],
            )
    stored = theirs.replay_buffer._get_samples(np.arange(2))
    states, actions, rewards, following, terminals = ours.replay_buffer.rows[0, :2].split((3, 1, 1, 3, 1), dim=1)
    assert torch.equal(states, stored.observations[:, :3]) and torch.equal(following, stored.next_observations[:, :3])
    assert torch.equal(actions, stored.actions) and torch.equal(rewards, stored.rewards)
    assert torch.equal(terminals, stored.dones) and terminals.flatten().tolist() == [1.0, 0.0]


def spied(agent, events, monkeypatch):
    """Record the order of simulation, storage and training."""

    def spy(target, name, event):
        original = getattr(target, name)

        def recorded(*args, **kwargs):
            events.append(event)
            return original(*args, **kwargs)

        monkeypatch.setattr(target, name, recorded)

    spy(agent.env, "step_async", "simulate")
    spy(agent.env, "step_wait", "arrive")
    spy(agent.replay_buffer, "add", "store")
    spy(agent, "train", "train")
    return agent


class Watch(BaseCallback):
    """Notes every callback, and how many transitions are stored when it is told of a step."""

    def __init__(self, events):
        super().__init__()
        self.events, self.stored = events, []

    def _on_rollout_start(self):
        self.events.append("rollout start")

    def _on_step(self):
        self.events.append("callback")
        self.stored.append(self.model.replay_buffer.size())
        return True

    def _on_rollout_end(self):
        self.events.append("rollout end")


@pytest.mark.parametrize(("train_freq", "gradient_steps"), [(1, 1), (1, 2), (3, 1)])
def test_without_the_pipeline_the_order_of_events_is_sb3s(pair, monkeypatch, train_freq, gradient_steps):
    settings = {"learning_starts": 5, "train_freq": train_freq, "gradient_steps": gradient_steps, "buffer_size": 100}
    orders, updates = [], []
    for which in (0, 1):
        agent = pair(**settings)[which]
        agent.pipeline = False
        events = []
        spied(agent, events, monkeypatch).learn(12, callback=Watch(events), log_interval=None)
        # We store a transition before the callback hears of it, so that a checkpoint never misses one.
        orders.append([event for event in events if event != "callback"])
        updates.append(agent._n_updates)
    assert orders[0] == orders[1]
    assert updates[0] == updates[1] > 0


def test_a_transition_is_stored_before_the_callback_hears_of_it(pair):
    for pipeline in (True, False):
        _, ours = pair(learning_starts=5, buffer_size=100)
        ours.pipeline = pipeline
        watch = Watch([])
        ours.learn(12, callback=watch, log_interval=None)
        assert watch.stored == list(range(1, 13))


def test_in_the_pipeline_training_runs_while_the_step_is_in_flight_and_never_sees_it(pair, monkeypatch):
    _, ours = pair(learning_starts=5, buffer_size=100)
    events, seen = [], []
    original = ours.train

    def train(*args):
        seen.append((ours.num_timesteps, ours.replay_buffer.size()))
        original(*args)

    monkeypatch.setattr(ours, "train", train)
    spied(ours, events, monkeypatch).learn(12, log_interval=None)
    trained = [index for index, event in enumerate(events) if event == "train"]
    assert all(events[index - 1 : index + 3] == ["simulate", "train", "arrive", "store"] for index in trained)
    # At the n-th step, n - 1 transitions are stored: the one in flight is not.
    assert seen == [(steps, steps) for steps in range(6, 12)]


@pytest.mark.parametrize("train_freq", [1, 2])
def test_the_pipeline_makes_one_call_of_train_less_which_the_next_learn_makes_up(pair, train_freq):
    counts = {}
    for pipeline in (True, False):
        _, ours = pair(learning_starts=5, buffer_size=100, train_freq=train_freq)
        ours.pipeline = pipeline
        counts[pipeline] = []
        for _ in range(2):
            ours.learn(12, log_interval=None, reset_num_timesteps=False)
            counts[pipeline].append(ours._n_updates)
    assert np.subtract(counts[False], counts[True]).tolist() == [1, 1]
