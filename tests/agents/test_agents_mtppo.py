"""Multitask PPO: against Stable-Baselines3, with every kind of balancer, through files, and with bad input."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import nn

from agents import MTPPO, AgentFileError, ConfigurationError, NonFiniteUpdate, load_policy, save_policy, tags
from agents.balancing.guard import UpdateGuard
from agents.rollout import minibatch, permutations
from agents.selection import Selection
from envs import make_suite
from tests.grids import grid

K = 4


@pytest.fixture
def ppo(pointmass):
    """Maker of agents with 2x16 networks; keyword arguments go to MTPPO, those with `env_` to the environment."""

    def make(**options):
        env_options = {name[4:]: options.pop(name) for name in list(options) if name.startswith("env_")}
        env = options.pop("env", None) or pointmass(**{"copies": 2, **env_options})
        network = {"hidden_sizes": [16, 16], **options.pop("policy_kwargs", {})}
        defaults = {"n_steps": 10, "batch_size": 10 * env.num_tasks, "n_epochs": 2, "seed": 0}
        return MTPPO("MultiTaskPolicy", env, device="cpu", policy_kwargs=network, **{**defaults, **options})

    return make


def tensors_of(value):
    """Every tensor and number in nested dictionaries and lists, in order."""
    if isinstance(value, dict):
        return [leaf for name in sorted(value, key=str) for leaf in tensors_of(value[name])]
    if isinstance(value, (list, tuple)):
        return [leaf for entry in value for leaf in tensors_of(entry)]
    return [value]


def same(left, right):
    left, right = tensors_of(left), tensors_of(right)
    return len(left) == len(right) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)
        for a, b in zip(left, right, strict=True)
    )


# ---------------------------------------------------------------------- against Stable-Baselines3

STEPS, COPIES, EPOCHS = 16, 3, 3


def copy_linear(theirs, ours):
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.T.reshape(ours.weight.shape))
        ours.bias.copy_(theirs.bias.reshape(ours.bias.shape))


def pairs(theirs, ours):
    """The linear layers of SB3's policy, and ours."""
    hidden = [
        (theirs.mlp_extractor.policy_net, theirs.action_net, ours.actor),
        (theirs.mlp_extractor.value_net, theirs.value_net, ours.critic),
    ]
    for net, head, side in hidden:
        linear = [layer for layer in net if isinstance(layer, nn.Linear)]
        own = [layer for layer in side.network.trunk if hasattr(layer, "weight")]
        yield from zip([*linear, head], [*own, side.network.head], strict=True)


@pytest.mark.parametrize(("normalize", "batches"), [(False, 3), (True, 1)])
def test_with_one_task_training_is_that_of_stable_baselines3(ppo, pointmass, monkeypatch, normalize, batches):
    size = STEPS * COPIES // batches
    shared = {"n_steps": STEPS, "batch_size": size, "n_epochs": EPOCHS, "ent_coef": 0.01, "learning_rate": 1e-3}
    ours = ppo(
        env_num_tasks=1,
        env_copies=COPIES,
        env_seed=3,
        gae_lambda=0.95,
        normalize_advantage="per_task" if normalize else "none",
        max_grad_norm=None,
        policy_kwargs={"network": "mlp", "critic": "scalar", "critic_layer_norm": False, "observation_scale": "none"},
        **shared,
    )
    theirs = PPO(
        "MlpPolicy",
        pointmass(num_tasks=1, copies=COPIES, seed=3),
        device="cpu",
        normalize_advantage=normalize,
        max_grad_norm=1e9,
        policy_kwargs={"net_arch": [16, 16], "activation_fn": nn.ReLU, "log_std_init": -0.5},
        **shared,
    )
    for layer, own in pairs(theirs.policy, ours.policy):
        copy_linear(layer, own)

    order = torch.from_numpy(np.stack([np.random.default_rng(e).permutation(STEPS * COPIES) for e in range(EPOCHS)]))
    orders = iter(order)
    monkeypatch.setattr(np.random, "permutation", lambda count: next(orders).numpy())
    mine = iter(order)
    monkeypatch.setattr("agents.mtppo.permutations", lambda tasks, samples, generator: next(mine)[None])

    noise = torch.randn(STEPS, COPIES, 2, generator=torch.Generator().manual_seed(0))
    ours._setup_learn(STEPS * COPIES)
    theirs._setup_learn(STEPS * COPIES)
    theirs.rollout_buffer.reset()
    ours.rollout.restart()
    starts = np.ones(COPIES, dtype=np.float32)
    for step in range(STEPS):
        observations = torch.from_numpy(ours._last_obs)
        with torch.no_grad():
            distribution = theirs.policy.get_distribution(observations).distribution
            actions = distribution.mean + distribution.stddev * noise[step]
            _, log_probabilities, _ = theirs.policy.evaluate_actions(observations, actions)
            values = theirs.policy.predict_values(observations)
        following, rewards, dones, infos = ours.env.step(actions.clamp(-1, 1).numpy())
        ours.rollout.add(ours._last_obs, actions, log_probabilities, rewards, dones, infos)
        raised = rewards.copy()
        for env in np.flatnonzero(dones):
            last = torch.from_numpy(infos[env]["terminal_observation"])[None]
            raised[env] += theirs.gamma * theirs.policy.predict_values(last).item()
        theirs.rollout_buffer.add(ours._last_obs, actions.numpy(), raised, starts, values, log_probabilities)
        ours._last_obs, starts = following, dones.astype(np.float32)
    with torch.no_grad():
        last = theirs.policy.predict_values(torch.from_numpy(following))
    theirs.rollout_buffer.compute_returns_and_advantage(last, dones)

    before = [layer.weight.detach().clone() for layer, _ in pairs(theirs.policy, ours.policy)]
    ours.train()
    theirs.train()
    for (layer, own), old in zip(pairs(theirs.policy, ours.policy), before, strict=True):
        assert not torch.allclose(layer.weight, old, atol=1e-4)
        torch.testing.assert_close(own.weight.reshape(layer.weight.T.shape), layer.weight.T, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.bias.flatten(), layer.bias, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.actor.task_log_std.table[0], theirs.policy.log_std, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------- what it learns


@grid("seed", [0, 1, 2, 3], always=[0])
def test_conflicting_tasks_of_different_scale_are_learnt(pointmass, seed):
    agent = MTPPO(
        "MultiTaskPolicy",
        pointmass(num_tasks=K, copies=4, seed=seed),
        learning_rate=3e-3,
        n_steps=50,
        batch_size=50 * K,
        n_epochs=5,
        gamma=0.9,
        gae_lambda=0.95,
        seed=seed,
        device="cpu",
        policy_kwargs={"hidden_sizes": [64, 64]},
    )
    agent.learn(12_000, log_interval=None)
    env = make_suite("pointmass", num_tasks=K).make_vec_env(seed=1_000 + seed, copies=5)
    observations = env.reset()
    done = np.zeros(env.num_envs, dtype=bool)
    while not done.all():
        observations, _, done, infos = env.step(agent.predict(observations, deterministic=True)[0])
    env.close()
    assert np.mean([info["is_success"] for info in infos]) >= 0.9


# ---------------------------------------------------------------------- balancers on both sides


@grid(
    "sides",
    [
        ("famo", None),
        ("igb_v1+cagrad", None),
        ("son_goku", None),
        ("fairgrad", "pcgrad"),
        ("igb_rl", None),
        ("uncertainty", "upgrad"),
        ("graddrop", "nash_mtl"),
        ("son_goku:mgda", "cagrad"),
        ("gradnorm", "aligned_mtl"),
        ("unitary", "pcgrad"),
    ],
    always=[("famo", None), ("son_goku", None), ("fairgrad", "pcgrad"), ("igb_rl", None)],
)
def test_balancers_of_every_kind_work_on_critic_and_actor(ppo, sides):
    agent = ppo(balancer=sides[0], actor_balancer=sides[1])
    before = [part.clone() for part in agent.policy.parameters()]
    agent.learn(400, log_interval=None)
    after = list(agent.policy.parameters())
    assert agent.guard.skipped == 0 and agent._n_updates == 20
    assert all(bool(part.isfinite().all()) for part in after)
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_balancer_that_samples_gives_a_task_other_transitions_for_each_of_its_groups():
    from agents.rollout import RolloutSample

    numbers = torch.arange(2 * 12.0).view(2, 12)
    sample = RolloutSample(numbers[..., None], numbers[..., None], *[numbers] * 4)
    order = permutations(2, 12, torch.Generator().manual_seed(0))
    groups = minibatch(sample, order, 8, 4, Selection.repeated(torch.tensor([0, 2]))).returns
    assert groups.shape == (2, 4) and bool((groups >= 12).all()) and len(groups.unique()) == 8


def test_weights_on_sampling_learn(ppo):
    agent = ppo(balancer="static", balancer_kwargs={"weights": [1, 1, 1, 5], "weights_on": "sampling"})
    agent.learn(400, log_interval=None)
    assert agent._n_updates == 20 and agent.guard.skipped == 0


# ---------------------------------------------------------------------- files


def test_a_saved_agent_predicts_and_learns_as_it_did(ppo, tmp_path):
    agent = ppo()
    agent.learn(240, log_interval=None)
    agent.save(tmp_path / "agent")
    loaded = MTPPO.load(tmp_path / "agent", device="cpu")
    observations = agent._last_obs
    expected, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert same(loaded.policy.state_dict(), agent.policy.state_dict())
    assert same(loaded.actor_optimizer.state_dict()["state"], agent.actor_optimizer.state_dict()["state"])
    loaded.set_env(agent.env)
    loaded.learn(80, log_interval=None)


def test_an_exported_policy_carries_the_scale_of_its_observations(ppo, tmp_path):
    agent = ppo()
    agent.learn(240, log_interval=None)
    assert float(agent.policy.scale.count) == 240
    policy = load_policy(save_policy(agent, tmp_path / "policy"), "cpu")
    assert not hasattr(policy, "critic")
    observations = agent._last_obs
    expected, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], expected)
    agent.save(tmp_path / "agent")
    of_agent = load_policy(tmp_path / "agent", "cpu")
    np.testing.assert_array_equal(of_agent.predict(observations, deterministic=True)[0], expected)
    with pytest.raises(AgentFileError, match="policy without critics, which cannot learn"):
        MTPPO.load(tmp_path / "policy", device="cpu")


def test_actions_fill_the_box_of_the_environment():
    env = make_suite("gym", tasks=["Pendulum-v1"]).make_vec_env(seed=0)
    agent = MTPPO("MultiTaskPolicy", env, n_steps=10, batch_size=5, device="cpu", policy_kwargs={"hidden_sizes": [8]})
    with torch.no_grad():
        agent.actor.network.head.bias.fill_(3.0)
    assert agent.predict(env.reset(), deterministic=True)[0] == pytest.approx(2.0)
    env.close()


# ---------------------------------------------------------------------- what it tells


def test_everything_that_it_logs_has_a_meaning_and_diagnostics_are_of_each_task(ppo):
    agent = ppo()
    logged = {}
    agent.learn(160, log_interval=None)
    agent.logger.record = lambda tag, value, exclude=None: logged.update({tag: value})
    agent.dump_logs()
    for tag in ("train_approx_kl", "train_clip_fraction", "train_explained_variance", "train_std"):
        assert all(f"{tag}/{task}" in logged for task in agent.task_names)
    assert [tag for tag in logged if tags.meaning_of(tag) is None] == []


@pytest.mark.parametrize("log_std", ["task", "state"])
@pytest.mark.parametrize(
    "options", [{"network": "mlp", "critic": "scalar"}, {"network": "bronet", "critic": "scalar"}, {}]
)
def test_it_learns_with_every_network_and_kind_of_deviation(ppo, options, log_std):
    agent = ppo(policy_kwargs={**options, "log_std": log_std, "hidden_sizes": [16, 16]})
    agent.learn(80, log_interval=None)
    assert agent.guard.skipped == 0 and agent._n_updates == 4


def test_an_iteration_ends_when_the_policy_has_gone_too_far(ppo):
    near, far = ppo(n_epochs=10, learning_rate=1e-2), ppo(n_epochs=10, learning_rate=1e-2, target_kl=1e-3)
    near.learn(80, log_interval=None)
    far.learn(80, log_interval=None)
    assert near._n_updates == 20 and 1 < far._n_updates < 20


def test_the_learning_rate_falls_while_the_policy_goes_too_far(ppo):
    agent = ppo(n_epochs=10, learning_rate=1e-2, target_kl=1e-3, kl_rule="adapt")
    agent.learn(160, log_interval=None)
    assert agent._n_updates == 40
    assert agent.actor_optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 1.5)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"n_steps": 4},
            r"n_steps=4 has 8 transitions of each task, and a minibatch needs 10: .* at least 5, or batch_size=32",
        ),
        (
            {"batch_size": 42},
            r"batch_size=42 counts the transitions of all 4 tasks and must be a positive multiple of 4",
        ),
        ({"actor_balancer": "famo"}, r"actor_balancer='famo' takes logarithms or ratios of the losses"),
        ({"target_kl": 0.0}, r"target_kl must be a number above 0, or None for no limit, found 0\.0"),
        ({"kl_rule": "stpo"}, r"Unknown kl_rule 'stpo'.*did you mean 'stop'"),
        ({"clip_range": 0}, r"clip_range must be a number above 0, found 0"),
        ({"normalize_advantage": "task"}, r"Unknown normalize_advantage 'task'"),
        ({"vf_coef": 0.5}, r"does not take 'vf_coef': actor and critics have optimizers of their own"),
        (
            {"policy_kwargs": {"network": "mlp"}},
            r"critic='popart' needs a head for each task, and network='mlp' has one",
        ),
        ({"policy_kwargs": {"critic": "popar"}}, r"Unknown critic 'popar'.*did you mean 'popart'"),
        ({"policy_kwargs": {"log_std": "clamp"}}, r"Unknown log_std 'clamp': choose from state, task"),
        ({"policy_kwargs": {"task_id": "critic_embedding"}}, r"choose task_id='embedding'"),
        ({"policy_kwargs": {"observation_scale": "std"}}, r"Unknown observation_scale 'std'"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(ppo, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        ppo(**options)


def without_rewards(env):
    """The environment, whose rewards are all zero."""
    step = env.step_wait

    def wait():
        observations, rewards, dones, infos = step()
        return observations, np.zeros_like(rewards), dones, infos

    env.step_wait = wait
    return env


def test_tasks_without_rewards_leave_the_agent_finite(ppo, pointmass):
    agent = ppo(env=without_rewards(pointmass(copies=2)))
    agent.learn(400, log_interval=None)
    assert agent.guard.skipped == 0
    assert all(bool(part.isfinite().all()) for part in agent.policy.state_dict().values())


def test_a_task_whose_episodes_never_end_is_learnt_from(ppo, pointmass):
    env = pointmass(copies=2)
    step = env.step_wait

    def wait():
        observations, rewards, _, infos = step()
        return observations, rewards, np.zeros(len(rewards), dtype=bool), infos

    env.step_wait = wait
    agent = ppo(env=env)
    agent.learn(160, log_interval=None)
    assert agent._n_updates == 8 and agent.guard.skipped == 0 and agent._episode_num == 0


def test_advantages_that_are_not_finite_end_training_with_the_name_of_the_task(ppo, monkeypatch):
    agent = ppo(max_skipped_updates=3)
    before = [part.clone() for part in agent.policy.parameters()]

    def broken(advantages, how):
        return advantages.index_fill(0, torch.tensor([2]), torch.nan)

    monkeypatch.setattr("agents.mtppo.normalised", broken)
    with pytest.raises(NonFiniteUpdate, match=r"3 updates in a row were skipped.* the advantages of 'point-2' is nan"):
        agent.learn(160, log_interval=None)
    assert isinstance(agent.guard, UpdateGuard) and agent.guard.skipped == 3
    actor = list(agent.actor.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before[: len(actor)], actor, strict=True))
