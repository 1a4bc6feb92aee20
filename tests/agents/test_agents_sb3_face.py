"""MTSAC behind Stable-Baselines3's face: learn, predict, save, load, and SB3's own callbacks."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from agents import MTSAC, AgentFileError, ConfigurationError

# ---------------------------------------------------------------------- learning


def test_total_timesteps_count_the_transitions_of_all_environments(small_agent):
    agent = small_agent(env_copies=2)
    agent.learn(201, log_interval=None)
    assert agent.num_timesteps == 208  # the first multiple of 8 environments that is no less
    assert agent.replay_buffer.filled.tolist() == [52] * 4


@pytest.mark.parametrize("pipeline", [True, False])
@pytest.mark.parametrize(("train_freq", "gradient_steps", "expected"), [(1, 1, 40), (1, 3, 120), (4, 2, 22), (1, 0, 0)])
def test_train_freq_counts_vector_steps_and_gradient_steps_updates(
    small_agent, pipeline, train_freq, gradient_steps, expected
):
    agent = small_agent(pipeline=pipeline, train_freq=train_freq, gradient_steps=gradient_steps)
    agent.learn(40 + 4 * 40, log_interval=None)
    late = gradient_steps if pipeline else 0  # in the pipeline, the last call of `train` is still to come
    assert agent._n_updates == max(0, expected - late)


def test_a_run_shorter_than_its_warm_up_makes_no_update(small_agent, tmp_path):
    agent = small_agent(learning_starts=10_000)
    before = agent.actor.network.head.weight.clone()
    agent.learn(400, log_interval=1)
    assert agent._n_updates == 0 and torch.equal(agent.actor.network.head.weight, before)


def test_learning_twice_goes_on_counting_unless_told_to_begin_anew(small_agent):
    agent = small_agent()
    agent.learn(100, log_interval=None)
    agent.learn(100, log_interval=None, reset_num_timesteps=False)
    assert agent.num_timesteps == 200 and agent.replay_buffer.size() == 50
    agent.learn(100, log_interval=None)
    assert agent.num_timesteps == 100 and agent.replay_buffer.size() == 75


def test_learning_goes_on_after_an_interrupted_step(small_agent, monkeypatch):
    agent = small_agent()
    agent.learn(100, log_interval=None)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(agent, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            agent.learn(100, log_interval=None, reset_num_timesteps=False)
    stored = agent.replay_buffer.size()
    agent.learn(40, log_interval=None, reset_num_timesteps=False)
    assert agent.num_timesteps == 140 and agent.replay_buffer.size() == stored + 10


def test_exploration_is_uniform_until_learning_starts_and_the_policys_own_afterwards(small_agent):
    agent = small_agent(learning_starts=400, env_horizon=20)
    for parameter in agent.actor.network.head.parameters():
        parameter.data.zero_()
    agent.actor.network.head.bias.data[..., 2:] = -20.0  # a policy without spread, in the middle
    agent.gradient_steps = 0
    agent.learn(600, log_interval=None)
    actions = agent.replay_buffer.rows[:, :150, 2:4]
    assert actions[:, :100].std().item() == pytest.approx(1 / np.sqrt(3), rel=0.1)
    assert actions[:, 100:].abs().max() < 1e-6


def test_a_learning_rate_schedule_is_followed(small_agent):
    agent = small_agent(learning_rate=lambda remaining: 1e-3 * remaining)
    agent.learn(400, log_interval=None)
    assert agent.actor_optimizer.param_groups[0]["lr"] == pytest.approx(1e-5, abs=1.1e-5)
    assert agent.temperature_optimizer.param_groups[0]["lr"] == agent.critic_optimizer.param_groups[0]["lr"]


def test_gradients_are_clipped_and_the_norm_is_reported_as_it_was(small_agent, random_sample):
    agent = small_agent(max_grad_norm=0.01)
    sample = random_sample(agent)
    metrics = agent.update(sample, torch.zeros(2, *sample.actions.shape))
    norm = torch.cat([p.grad.flatten() for p in agent.critic.parameters()]).norm()
    assert metrics["critic_gradient_norm"] > 0.1 and norm.item() == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_pulls_the_actor_alone(small_agent):
    agent = small_agent(actor_weight_decay=0.1)
    assert agent.actor_optimizer.param_groups[0]["weight_decay"] == 0.1
    assert agent.critic_optimizer.param_groups[0]["weight_decay"] == 0.0


# ---------------------------------------------------------------------- predicting


def test_predict_takes_one_observation_or_many(small_agent):
    agent = small_agent()
    observations = agent.env.reset()
    actions, state = agent.predict(observations, deterministic=True)
    assert actions.shape == (4, 2) and state is None and np.abs(actions).max() <= 1
    for observation, action in zip(observations, actions, strict=True):
        single, _ = agent.predict(observation, deterministic=True)
        assert single.shape == (2,)
        np.testing.assert_allclose(single, action, atol=1e-6)
    doubles, _ = agent.predict(observations.astype(np.float64), deterministic=True)
    np.testing.assert_allclose(doubles, actions, atol=1e-6)


def test_a_stochastic_prediction_spreads_and_a_deterministic_one_does_not(small_agent):
    agent = small_agent()
    observation = agent.env.reset()[0]
    certain = {agent.predict(observation, deterministic=True)[0].tobytes() for _ in range(5)}
    drawn = {agent.predict(observation)[0].tobytes() for _ in range(5)}
    assert len(certain) == 1 and len(drawn) == 5


def test_an_observation_without_the_task_is_refused(small_agent):
    with pytest.raises(ValueError, match="the one-hot of 4 tasks, found shape"):
        small_agent().predict(np.zeros(2, np.float32))


# ---------------------------------------------------------------------- SB3's callbacks and helpers


class Locals(BaseCallback):
    """Reads what SB3's documentation says a callback may read."""

    def _on_step(self):
        dones, infos, rewards, new_obs = (self.locals[name] for name in ("dones", "infos", "rewards", "new_obs"))
        assert len(dones) == len(infos) == len(rewards) == len(new_obs) == self.training_env.num_envs
        assert self.num_timesteps == self.model.num_timesteps == 4 * self.n_calls
        return True


def test_callbacks_read_the_local_names_that_sb3_documents(small_agent):
    small_agent().learn(100, callback=Locals(), log_interval=None)


def test_sb3s_evaluation_checkpoint_and_stopping_callbacks_work(small_agent, pointmass, tmp_path):
    agent = small_agent()
    evaluation = EvalCallback(
        pointmass(seed=1), n_eval_episodes=4, eval_freq=50, log_path=tmp_path, best_model_save_path=tmp_path, verbose=0
    )
    checkpoint = CheckpointCallback(save_freq=50, save_path=tmp_path)
    agent.learn(400, callback=[evaluation, checkpoint])
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [200, 400] and results["successes"].shape == (2, 4)
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == [
        "best_model.zip",
        "rl_model_200_steps.zip",
        "rl_model_400_steps.zip",
    ]
    assert MTSAC.load(tmp_path / "best_model", device="cpu").num_timesteps in (200, 400)


def test_training_stops_when_a_callback_says_so(small_agent):
    agent = small_agent()  # episodes of 50 steps in 4 environments
    agent.learn(10_000, callback=StopTrainingOnMaxEpisodes(max_episodes=2), log_interval=None)
    assert agent.num_timesteps == 400  # the second episode of each environment


def test_sb3_evaluates_the_agent(small_agent, pointmass, recwarn):
    mean, spread = evaluate_policy(small_agent(), pointmass(seed=5), n_eval_episodes=8)
    assert np.isfinite([mean, spread]).all()
    assert not [warning for warning in recwarn if "Monitor" in str(warning.message)]


def test_the_progress_bar_of_sb3_runs(small_agent):
    agent = small_agent().learn(100, progress_bar=True, log_interval=None)
    assert agent.num_timesteps == 100


def test_tensorboard_gets_sb3s_tags_and_one_tag_per_task(small_agent, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    agent = small_agent(tensorboard_log=str(tmp_path), balancer="rlw")
    agent.learn(600, tb_log_name="toy")
    events = EventAccumulator(str(tmp_path / "toy_1")).Reload()
    tags = set(events.Tags()["scalars"])
    shared = {"train/actor_loss", "train/critic_loss", "train/ent_coef", "train/ent_coef_loss"}
    rollout = {"rollout/ep_len_mean", "rollout/ep_rew_mean", "rollout/success_rate", "time/fps"}
    assert shared | rollout <= tags
    for tag in ("train_critic_loss", "balancer_weight", "rollout_success", "ent_coef"):
        assert {f"{tag}/point-{task}" for task in range(4)} <= tags
    losses = [events.Scalars(f"train_critic_loss/point-{task}")[-1].value for task in range(4)]
    assert events.Scalars("train/critic_loss")[-1].value == pytest.approx(np.mean(losses), rel=1e-5)
    assert events.Scalars("rollout/ep_len_mean")[-1].value == 50


def test_logged_metrics_are_means_since_the_last_log():
    from agents.metrics import UpdateMetrics

    metrics = UpdateMetrics()
    for value in (1.0, 2.0, 6.0):
        metrics.add({"critic_loss": torch.tensor([value, 10 * value]), "critic_gradient_norm": torch.tensor(value)})
    tags = metrics.flush(["a", "b"])
    assert tags["train_critic_loss/a"] == 3.0 and tags["train_critic_loss/b"] == 30.0
    assert tags["train/critic_loss"] == 16.5 and tags["train/critic_gradient_norm"] == 3.0
    assert metrics.flush(["a", "b"]) == {}


def test_an_environment_under_vec_monitor_is_learnt(small_agent, pointmass):
    with pytest.warns(UserWarning, match="already wrapped"):
        env = VecMonitor(pointmass())
    agent = small_agent(env=env).learn(400, log_interval=None)
    assert agent._n_updates > 0 and np.isfinite(agent.progress.returns).all()


# ---------------------------------------------------------------------- environments that do not fit


def test_an_environment_without_tasks_is_refused_with_a_way_out():
    with pytest.raises(ConfigurationError, match=r"names its tasks, found DummyVecEnv: .*make_env\('gym'"):
        MTSAC("MultiTaskPolicy", "Pendulum-v1")


def test_vec_normalize_is_refused(pointmass):
    with pytest.raises(ConfigurationError, match="no VecNormalize.*reward_scale='std'"):
        MTSAC("MultiTaskPolicy", VecNormalize(pointmass()))


def test_set_env_takes_the_same_tasks_only(small_agent, pointmass):
    agent = small_agent()
    agent.learn(100, log_interval=None)
    agent.set_env(pointmass(seed=9))
    agent.learn(100, log_interval=None, reset_num_timesteps=False)
    assert agent.num_timesteps == 200
    with pytest.raises(
        ConfigurationError, match=r"learns the tasks \['point-0'.*environment has \['point-0', 'point-1'\]"
    ):
        agent.set_env(pointmass(num_tasks=2))
    assert agent.env.num_tasks == 4


def test_set_env_refuses_another_number_of_copies_and_learning_goes_on_in_the_old_one(small_agent, pointmass):
    agent = small_agent()
    agent.learn(100, log_interval=None)
    with pytest.raises(ConfigurationError, match=r"learns in 4 environments, found 8: make it with copies=1"):
        agent.set_env(pointmass(copies=2))
    agent.learn(100, log_interval=None, reset_num_timesteps=False)
    assert agent.num_timesteps == 200


def test_equal_spaces_of_other_tasks_are_not_the_same_tasks(small_agent, pointmass, tmp_path):
    other = pointmass()
    other.task_names = ("a", "b", "c", "d")
    agent = small_agent()
    agent.save(tmp_path / "agent")
    with pytest.raises(ConfigurationError, match="the environment has"):
        agent.set_env(other)
    with pytest.raises(ConfigurationError, match="the environment has"):
        MTSAC.load(tmp_path / "agent", env=other, device="cpu")


# ---------------------------------------------------------------------- files

OPTIONS = [
    {"balancer": "static", "balancer_kwargs": {"weights": [1, 2, 3, 4]}, "reward_scale": "std"},
    {"temperature": "shared", "policy_kwargs": {"network": "multihead", "task_id": "embedding", "num_critics": 3}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["static", "multihead"])
def test_every_tensor_survives_a_save_and_predictions_are_identical(small_agent, fingerprint, tmp_path, options):
    agent = small_agent(**options)
    agent.learn(300, log_interval=None)
    agent.save(tmp_path / "agent")
    copy = MTSAC.load(tmp_path / "agent", device="cpu")
    assert fingerprint(copy) == fingerprint(agent)
    assert copy.num_timesteps == agent.num_timesteps and copy._n_updates == agent._n_updates
    observations = agent.env.reset()
    expected, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(copy.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("options", OPTIONS, ids=["static", "multihead"])
def test_a_loaded_agent_learns_on_identically_from_the_same_batches_and_noise(
    small_agent, pointmass, random_sample, fingerprint, tmp_path, options
):
    agent = small_agent(**options)
    agent.learn(300, log_interval=None)
    agent.save(tmp_path / "agent")
    copy = MTSAC.load(tmp_path / "agent", env=pointmass(), device="cpu")
    for number in range(5):
        sample = random_sample(agent, seed=number)
        noise = torch.randn(2, *sample.actions.shape, generator=torch.Generator().manual_seed(number))
        agent.update(sample, noise)
        copy.update(sample, noise)
    assert fingerprint(copy) == fingerprint(agent)


def test_a_loaded_agent_learns_on_in_an_environment_given_then_or_later(small_agent, pointmass, tmp_path):
    small_agent().learn(200, log_interval=None).save(tmp_path / "agent")
    late = MTSAC.load(tmp_path / "agent", device="cpu")
    late.set_env(pointmass(copies=2))
    for agent in (MTSAC.load(tmp_path / "agent", env=pointmass(copies=2), device="cpu"), late):
        updates = agent._n_updates
        agent.learn(80, log_interval=None, reset_num_timesteps=False)
        assert agent.num_timesteps == 280 and agent._n_updates > updates
        assert agent.replay_buffer.size() == 20 and torch.isfinite(agent.critic.network.head.weight).all()


def test_a_loaded_agent_never_trains_on_its_empty_replay_buffer(small_agent, pointmass, tmp_path, monkeypatch):
    small_agent().learn(200, log_interval=None).save(tmp_path / "agent")
    agent = MTSAC.load(tmp_path / "agent", env=pointmass(), device="cpu")
    agent.replay_buffer.rows.fill_(torch.nan)  # what uninitialised memory may hold
    agent.learn(40, log_interval=None, reset_num_timesteps=False)
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


def test_settings_can_be_changed_on_loading(small_agent, tmp_path):
    small_agent().learn(100, log_interval=None).save(tmp_path / "agent")
    agent = MTSAC.load(tmp_path / "agent", device="cpu", gamma=0.5, seed=9, adam_epsilon=1e-3, learning_rate=0.1)
    assert agent.gamma == 0.5 and agent.generators.seed == 9
    assert agent.actor_optimizer.param_groups[0]["eps"] == 1e-3 and agent.lr_schedule(1) == 0.1
    assert len(agent.actor_optimizer.state) > 0
    with pytest.raises(ConfigurationError, match="does not take 'gama', did you mean 'gamma'"):
        MTSAC.load(tmp_path / "agent", gama=0.5)


def test_weights_and_temperatures_that_are_given_on_loading_are_taken(small_agent, tmp_path):
    given = {"balancer": "static", "balancer_kwargs": {"weights": [1, 2, 3, 4]}}
    small_agent(**given).learn(100, log_interval=None).save(tmp_path / "agent")
    as_saved = MTSAC.load(tmp_path / "agent", device="cpu")
    assert as_saved.critic_balancer.fixed.tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6])
    other = {"balancer_kwargs": {"weights": [3, 1, 0, 0]}, "ent_coef": 0.05}
    agent = MTSAC.load(tmp_path / "agent", device="cpu", **other)
    assert agent.critic_balancer.fixed.tolist() == [3, 1, 0, 0]  # the actor's side follows it
    assert agent.temperature.value().tolist() == pytest.approx([0.05] * 4)
    agent.save(tmp_path / "other")
    assert MTSAC.load(tmp_path / "other", device="cpu").temperature.value().tolist() == pytest.approx([0.05] * 4)


def test_weights_in_a_file_of_an_earlier_version_are_those_of_its_settings(small_agent, tmp_path):
    balancer = small_agent(balancer="static", balancer_kwargs={"weights": [1, 2, 3, 4]}).critic_balancer
    balancer.load_state_dict({**balancer.state_dict(), "fixed": torch.tensor([4.0, 0.0, 0.0, 0.0])})
    assert balancer.fixed.tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"balancer": "cagrad"}, "balancer='cagrad'"),
        ({"reward_scale": "std", "gamma": 0.9}, "reward_scale='std', gamma=0.9"),
    ],
)
def test_settings_that_a_file_does_not_fit_are_named(small_agent, tmp_path, settings, named):
    small_agent(balancer="famo").save(tmp_path / "agent")
    with pytest.raises(AgentFileError, match=f"does not fit the agent it describes with {named} instead of its own"):
        MTSAC.load(tmp_path / "agent", device="cpu", seed=0, **settings)  # the seed is its own


def test_a_schedule_that_is_code_is_saved_as_the_rate_it_starts_with_and_that_is_said(small_agent, tmp_path):
    agent = small_agent(learning_rate=lambda remaining: 1e-3 * remaining).learn(100, log_interval=None)
    with pytest.warns(UserWarning, match="is code, which an agent file does not hold"):
        agent.save(tmp_path / "agent")
    assert MTSAC.load(tmp_path / "agent", device="cpu").learning_rate == 1e-3


def test_only_optimizers_can_be_left_out(small_agent, tmp_path):
    agent = small_agent()
    names = {}
    for key, exclude in (("all", None), ("sb3", ["replay_buffer"]), ("light", ["optimizers"])):
        agent.save(tmp_path / key, exclude=exclude)
        names[key] = {name for name in zipfile.ZipFile(tmp_path / f"{key}.zip").namelist() if name.endswith(".pth")}
    assert names["all"] == names["sb3"]
    assert names["all"] - names["light"] == {
        "actor_optimizer.pth",
        "critic_optimizer.pth",
        "temperature_optimizer.pth",
    }
    observations = agent.env.reset()
    light = MTSAC.load(tmp_path / "light", device="cpu")
    np.testing.assert_array_equal(
        light.predict(observations, deterministic=True)[0], agent.predict(observations, deterministic=True)[0]
    )


def test_an_agent_file_holds_json_and_tensors_alone(small_agent, tmp_path):
    agent = small_agent(gamma=np.float32(0.9), learning_starts=np.int64(40))
    agent.learn(100, log_interval=None).save(tmp_path / "agent")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        text = archive.read("data").decode()
        assert ":serialized:" not in text and json.loads(text)["settings"]["learning_starts"] == 40
        for name in archive.namelist():
            if name.endswith(".pth"):
                with archive.open(name) as file:
                    torch.load(file, weights_only=True)
    assert MTSAC.load(tmp_path / "agent", device="cpu").gamma == pytest.approx(0.9)
    assert not list(tmp_path.glob("*.partial"))


def test_a_setting_that_json_cannot_hold_is_refused_and_the_old_file_kept(small_agent, tmp_path):
    agent = small_agent()
    agent.save(tmp_path / "agent")
    before = (tmp_path / "agent.zip").read_bytes()
    agent.policy_kwargs = {"hidden_sizes": object()}
    with pytest.raises(AgentFileError, match="JSON and tensors alone: <object"):
        agent.save(tmp_path / "agent")
    assert (tmp_path / "agent.zip").read_bytes() == before


class Hostile:
    """Makes a folder where it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def rewritten(source, target, **members):
    """A copy of an agent file with other members; None removes one."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name not in members:
                new.writestr(name, old.read(name))
        for name, content in members.items():
            if content is not None:
                new.writestr(name, content)
    return target


@pytest.fixture
def saved(small_agent, tmp_path):
    small_agent().save(tmp_path / "agent")
    return tmp_path / "agent.zip"


def data_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("data"))


def hostile_members(saved, sentinel):
    import base64
    import io

    code = pickle.dumps(Hostile(sentinel))
    serialized = {":type:": "x", ":serialized:": base64.b64encode(code).decode()}
    with_torch = io.BytesIO()
    torch.save({"x": Hostile(sentinel)}, with_torch)
    data = data_of(saved)
    yield {"data": json.dumps({**data, "settings": serialized})}
    yield {"data": json.dumps({**data, "policy_class": serialized})}
    yield {"data": json.dumps({**data, "settings": {**data["settings"], "policy_kwargs": serialized}})}
    yield {"data": code}
    yield {"policy.pth": with_torch.getvalue()}
    yield {"policy.pth": code}
    yield {"pytorch_variables.pth": with_torch.getvalue()}


def test_a_file_with_a_pickle_inside_executes_nothing(saved, tmp_path):
    sentinel = tmp_path / "executed"
    pickle.loads(pickle.dumps(Hostile(sentinel)))
    assert sentinel.exists(), "the trap must work, or the test means nothing"
    sentinel.rmdir()
    refused = 0
    for number, members in enumerate(hostile_members(saved, sentinel)):
        path = rewritten(saved, tmp_path / f"hostile-{number}.zip", **members)
        try:
            MTSAC.load(path, device="cpu")
        except (AgentFileError, ConfigurationError):
            refused += 1
        assert not sentinel.exists(), f"{list(members)} was executed"
    assert refused == 6  # an entry of `data` that nobody reads is no harm


def test_files_that_are_no_agents_get_one_sentence(saved, tmp_path):
    data = data_of(saved)
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "folder.zip").mkdir()
    broken = {
        "text.zip": "cannot be read as an agent",
        "folder.zip": "cannot be read as an agent",
        "nowhere": "There is no agent at .*nowhere.zip",
        "no-data": ("cannot be read as an agent", {"data": None}),
        "format": ("no agent file of format 1, its format is 7", {"data": json.dumps({**data, "format": 7})}),
        "list": ("its format is None", {"data": "[]"}),
        "short": ("'settings' is missing", {"data": json.dumps({"format": 1})}),
        "session": ("sets 'tensorboard_log'", {"data": json.dumps({**data, "settings": {"tensorboard_log": "/"}})}),
        "no-policy": ("does not fit the agent it describes", {"policy.pth": None}),
    }
    for name, expected in broken.items():
        path = tmp_path / name
        if isinstance(expected, tuple):
            expected, members = expected
            rewritten(saved, path, **members)
        with pytest.raises(AgentFileError, match=expected):
            MTSAC.load(path, device="cpu")


def test_tensors_of_another_shape_are_refused(saved, small_agent, tmp_path):
    small_agent(policy_kwargs={"hidden_sizes": [8]}).save(tmp_path / "other")
    other = zipfile.ZipFile(tmp_path / "other.zip").read("policy.pth")
    with pytest.raises(AgentFileError, match="does not fit the agent it describes"):
        MTSAC.load(rewritten(saved, tmp_path / "mixed.zip", **{"policy.pth": other}), device="cpu")


def test_replay_buffers_are_neither_written_nor_read_as_pickles(small_agent, tmp_path):
    agent = small_agent()
    with pytest.raises(ConfigurationError, match=r"save_state\(folder\)"):
        agent.save_replay_buffer(tmp_path / "replay.pkl")
    with pytest.raises(ConfigurationError, match="pickle"):
        agent.load_replay_buffer(tmp_path / "replay.pkl")


def test_dummy_vec_envs_of_several_environments_name_no_tasks_either():
    import gymnasium

    with pytest.raises(ConfigurationError, match="names its tasks"):
        MTSAC("MultiTaskPolicy", DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 2))
