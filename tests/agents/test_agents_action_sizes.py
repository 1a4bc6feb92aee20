"""Tasks of unequal action sizes: a task learns as if it had no padding, and files, policies and suites know it."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import MTPPO, MTSAC, ConfigurationError, load_policy, save_policy
from agents.files.agent_file import AgentFileError
from agents.gaussian import draw, log_density
from agents.own_actions import OwnActions
from agents.policies import MultiTaskPolicy
from agents.ppo_policy import PPOPolicy
from agents.ppo_updates import policy_losses
from agents.rollout import RolloutSample
from agents.updates import actor_losses, critic_losses, critic_target
from envs import make_suite
from mtrl.evaluation import evaluate

STATE, OWN, PADDED, B = 3, 2, 5, 6
TASK = torch.arange(1)
SMALL = {"hidden_sizes": [16, 16]}


def target_task(size, horizon=20):
    """A task with actions of `size` numbers: each must become the state's number in its place."""

    class Follow(gymnasium.Env):
        observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        action_space = spaces.Box(-2.0, 2.0, (size,), np.float32)

        def __init__(self, render_mode=None):
            self.render_mode, self.count = render_mode, 0

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self.count = 0
            return self._place(), {}

        def _place(self):
            self.goal = self.np_random.uniform(-1, 1, size).astype(np.float32)
            return self.goal

        def step(self, action):
            assert action.shape == (size,)
            self.count += 1
            distance = float(np.abs(action - self.goal).mean())
            return self._place(), -distance, False, self.count >= horizon, {"success": distance < 0.3}

        def render(self):
            return np.zeros((8, 8, 3), np.uint8)

    return Follow


def two_tasks():
    return make_suite("gym", tasks={"one": target_task(1), "four": target_task(4)}, horizon=20)


@pytest.fixture
def env():
    env = two_tasks().make_vec_env(seed=0)
    yield env
    env.close()


def learner(kind, env, **options):
    settings = {"learning_starts": 40} if kind is MTSAC else {"n_steps": 32}
    return kind(
        "MultiTaskPolicy",
        env,
        **{**settings, "batch_size": 32, "seed": 0, "policy_kwargs": SMALL, **options},
        device="cpu",
    )


# ---------------------------------------------------------------------- a task alone and with padding


def policies(kind):
    """A policy whose action has no padding, and one with the same weights where they are of its own numbers."""
    box = [spaces.Box(-1.0, 1.0, (size,), np.float32) for size in (STATE + 1, OWN, PADDED)]
    alone = kind(box[0], box[1], num_tasks=1, hidden_sizes=[8]).double()
    padded = kind(box[0], box[2], num_tasks=1, hidden_sizes=[8], action_sizes=(OWN,)).double()
    with torch.no_grad():
        for own, larger in zip(alone.parameters(), padded.parameters(), strict=True):
            larger.uniform_(-1.0, 1.0)  # what the padding's weights are must not matter
            own.uniform_(-1.0, 1.0)
            larger[own_places(larger, own.shape)] = own
    return alone, padded


def own_places(larger, shape):
    """Where the numbers of a parameter are that belong to the state, the one-hot and a task's own actions."""
    kept_of = {
        STATE + PADDED + 1: [*range(STATE + OWN), STATE + PADDED],  # inputs of the critic: state, action, one-hot
        2 * PADDED: [*range(OWN), *range(PADDED, PADDED + OWN)],  # outputs of the actor: means, log deviations
        PADDED: [*range(OWN)],
    }
    sizes = zip(shape, larger.shape, strict=True)
    return tuple(slice(None) if size == found else torch.tensor(kept_of[found]) for size, found in sizes)


def assert_equal_gradients(alone, padded, losses, padded_losses):
    for mine, its in zip(losses, padded_losses, strict=True):
        torch.testing.assert_close(its, mine)
    gradients = [
        torch.autograd.grad(loss[0].sum(), list(side.values()))
        for loss, side in ((losses, alone), (padded_losses, padded))
    ]
    for own, larger in zip(*gradients, strict=True):
        torch.testing.assert_close(larger[own_places(larger, own.shape)], own)
        torch.testing.assert_close(larger.abs().sum(), own.abs().sum())  # the padding's are 0


def noise_of(generator, *shape):
    return torch.randn(1, B, *shape, generator=generator, dtype=torch.float64)


def filled(values):
    """With padding that holds anything."""
    return torch.cat((values, torch.full((1, B, PADDED - OWN), 7.0, dtype=torch.float64)), -1)


def test_padding_changes_no_number_of_sac():
    alone, padded = policies(MultiTaskPolicy)
    generator = torch.Generator().manual_seed(0)
    states, noise = noise_of(generator, STATE), noise_of(generator, OWN)
    actions, temperature = noise_of(generator, OWN).tanh(), torch.tensor([0.3], dtype=torch.float64)
    target, wide = noise_of(generator), torch.nn.functional.pad(actions, (0, PADDED - OWN))
    rest = (states, target, torch.full_like(target, 0.9))
    found = critic_target(padded.actor, padded.critic_target, *rest, filled(noise), temperature, TASK)
    torch.testing.assert_close(found, critic_target(alone.actor, alone.critic_target, *rest, noise, temperature, TASK))
    for side, losses in (
        ("critic", lambda p, a, _: critic_losses(p.critic, dict(p.critic.named_parameters()), states, a, target, TASK)),
        (
            "actor",
            lambda p, _, n: actor_losses(
                p.actor, p.critic, dict(p.actor.named_parameters()), states, n, temperature, TASK
            ),
        ),
    ):
        found = losses(alone, actions, noise), losses(padded, wide, filled(noise))
        compare_losses(alone, padded, side, *found)


def compare_losses(alone, padded, side, mine, its):
    (losses, metrics), (padded_losses, padded_metrics) = mine, its
    for name, value in metrics.items():
        torch.testing.assert_close(padded_metrics[name], value)
    sides = [dict(getattr(policy, side).named_parameters()) for policy in (alone, padded)]
    assert_equal_gradients(*sides, (losses,), (padded_losses,))


@pytest.mark.parametrize("log_std", ["task", "state"])
def test_padding_changes_no_number_of_ppo(log_std):
    def kind(*spaces, **settings):
        return PPOPolicy(*spaces, log_std=log_std, **settings)

    alone, padded = policies(kind)
    generator = torch.Generator().manual_seed(0)
    states, noise, rest = noise_of(generator, STATE), noise_of(generator, OWN), noise_of(generator)

    def losses(policy, noise):
        actor = policy.actor
        with torch.no_grad():
            own, (mean, deviation) = actor.own(TASK), actor(states, TASK)
            actions = draw(mean, deviation, noise, own)
            old = log_density(mean, deviation, actions, own) - 0.1
        batch = RolloutSample(states, actions, old, rest, rest, rest)
        return policy_losses(actor, dict(actor.named_parameters()), batch, TASK, 0.2, 0.01)

    compare_losses(alone, padded, "actor", losses(alone, noise), losses(padded, filled(noise)))


# ---------------------------------------------------------------------- agents


@pytest.mark.parametrize("kind", [MTSAC, MTPPO])
def test_the_padding_of_every_stored_action_is_zero(kind, env):
    agent = learner(kind, env)
    agent.learn(160)
    stored = agent.rollout.actions if kind is MTPPO else agent.replay_buffer.rows[:, : agent.replay_buffer.size()]
    first = 0 if kind is MTPPO else agent.policy.state_size
    narrow = stored[:, 0] if kind is MTPPO else stored[0]
    assert (narrow[:, first + 1 : first + 4] == 0).all() and (narrow[:, first] != 0).all()


def test_the_target_entropy_of_a_task_is_minus_its_own_size(env):
    assert learner(MTSAC, env).temperature.target_entropy.tolist() == [-1.0, -4.0]
    assert learner(MTSAC, env, target_entropy="auto_0.5").temperature.target_entropy.tolist() == [-0.5, -2.0]
    assert learner(MTSAC, env, target_entropy=-3.0).temperature.target_entropy.tolist() == [-3.0, -3.0]


@pytest.mark.parametrize("kind", [MTSAC, MTPPO])
def test_an_action_is_padded_as_observations_are_and_is_the_tasks_own_where_it_is_named(kind, env):
    agent = learner(kind, env)
    for deterministic in (True, False):
        actions, _ = agent.predict(env.reset(), deterministic=deterministic)
        assert actions.shape == (2, 4) and (actions[0, 1:] == 0).all()
        assert agent.predict(np.zeros(1), deterministic=deterministic, task="one")[0].shape == (1,)
        assert agent.predict(np.zeros((3, 4)), deterministic=deterministic, task="four")[0].shape == (3, 4)


@pytest.mark.parametrize("kind", [MTSAC, MTPPO])
def test_files_keep_the_sizes(kind, env, tmp_path):
    agent = learner(kind, env)
    agent.learn(100)
    agent.save(tmp_path / "agent")
    observations = env.reset()
    expected = agent.predict(observations, deterministic=True)[0]
    for policy in (
        kind.load(tmp_path / "agent", device="cpu"),
        load_policy(tmp_path / "agent.zip", device="cpu"),
        load_policy(save_policy(agent, tmp_path / "policy"), device="cpu"),
    ):
        assert np.array_equal(policy.predict(observations, deterministic=True)[0], expected)
        assert policy.predict(np.zeros(1), task="one")[0].shape == (1,)
    assert evaluate(load_policy(tmp_path / "policy.zip"), two_tasks(), 2, workers=0).episodes == 2


@pytest.mark.parametrize("sizes", [[1], [0, 4], [1, 5], "12", [1, 4.0], None])
def test_a_file_with_other_sizes_is_refused(sizes, env, tmp_path, monkeypatch):
    agent = learner(MTSAC, env)
    agent.action_sizes = sizes if isinstance(sizes, (list, str)) else [sizes]
    agent.save(tmp_path / "agent")
    for load in (MTSAC.load, load_policy):
        with pytest.raises(AgentFileError):
            load(tmp_path / "agent.zip")


def test_an_environment_whose_tasks_have_other_sizes_is_refused(env):
    agent = learner(MTSAC, env)
    other = make_suite("gym", tasks={"one": target_task(4), "four": target_task(4)}, horizon=20).make_vec_env(seed=0)
    with pytest.raises(ConfigurationError, match=r"actions of \[1, 4\] numbers, those of the environment \[4, 4\]"):
        agent._refuse_other_tasks(other)
    other.close()


def test_own_actions_are_no_part_of_a_state():
    own = OwnActions((1, 3), 3)
    assert own.state_dict() == {}
    assert own(torch.tensor([1, 0]))[:, 0].tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("balancer", ["unitary", "cagrad", "son_goku:pcgrad"])
def test_every_way_to_the_task_gradients_knows_the_sizes(balancer, env):
    agent = learner(MTSAC, env, balancer=balancer)
    agent.learn(200)
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MTPPO, pytest.param(MTSAC, marks=pytest.mark.exhaustive)])  # MTSAC takes a minute
def test_a_pendulum_and_a_task_with_more_actions_are_both_learnt(kind):
    tasks = {"Pendulum-v1": "Pendulum-v1", "four": target_task(4, horizon=200)}
    suite = make_suite("gym", tasks=tasks, horizon=200, success_return={"Pendulum-v1": -400.0})
    env = suite.make_vec_env(seed=0)
    settings = (
        {"learning_rate": 1e-3, "learning_starts": 1_000, "batch_size": 256, "gamma": 0.98, "reward_scale": "std"}
        if kind is MTSAC
        else {"learning_rate": 1e-3, "n_steps": 512, "batch_size": 256, "gamma": 0.9}
    )
    agent = learner(kind, env, **settings, policy_kwargs={"hidden_sizes": [64, 64]})
    agent.learn(2 * (6_000 if kind is MTSAC else 10_000), log_interval=None)
    env.close()
    returns = evaluate(agent, suite, 8, workers=0).task_return
    assert returns["Pendulum-v1"] > -400.0  # random: about -1,200
    assert returns["four"] > -40.0  # random: about -200
