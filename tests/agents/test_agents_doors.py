"""What users of Stable-Baselines3 try works as there, or is answered in one sentence."""

import io
import warnings

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.logger import configure

from agents import MTSAC, AgentFileError, ConfigurationError, load_policy
from agents.errors import unknown_name

# ---------------------------------------------------------------------- learning


def test_learning_for_no_time_changes_nothing(small_agent):
    agent = small_agent()
    assert agent.learn(0) is agent and agent.num_timesteps == 0
    agent.learn(100, log_interval=None)
    agent.learn(0, reset_num_timesteps=False)
    assert agent.num_timesteps == 100


def test_an_agent_without_an_environment_says_what_it_needs(small_agent, pointmass, tmp_path):
    empty = MTSAC("MultiTaskPolicy")
    for use in (lambda: empty.predict(np.zeros(6)), lambda: empty.set_env(pointmass())):
        with pytest.raises(ConfigurationError, match=r"make it with its environment, MTSAC\('MultiTaskPolicy', env\)"):
            use()
    small_agent().save(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", device="cpu")
    assert loaded.predict(np.zeros(6, np.float32))[0].shape == (2,)
    for agent in (empty, loaded):
        with pytest.raises(ConfigurationError, match=r"no environment to learn in: give it one with set_env"):
            agent.learn(10)
        with pytest.raises(ConfigurationError, match="no environment to learn in"):
            agent.save_state(tmp_path / "state")


@pytest.mark.parametrize(("steps", "warns"), [(40, True), (100, True), (104, False), (0, False)])
def test_a_call_of_learn_without_an_update_is_said(small_agent, steps, warns):
    agent = small_agent(learning_starts=100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.learn(steps, log_interval=None)
    found = [str(warning.message) for warning in caught if "makes no update" in str(warning.message)]
    assert bool(found) == warns
    if warns:
        assert f"ends at {steps} transitions" in found[0] and "starts after 100" in found[0]


def test_learning_on_past_the_warm_up_is_no_reason_to_warn(small_agent):
    agent = small_agent(learning_starts=100).learn(80, log_interval=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(80, log_interval=None, reset_num_timesteps=False)
    assert agent._n_updates > 0


@pytest.mark.parametrize("length", [40, 300])
@pytest.mark.parametrize("custom", [True, False])
def test_long_task_names_are_printed_whole(small_agent, pointmass, tmp_path, capsys, length, custom):
    env = pointmass()
    env.task_names = tuple(f"{'a-very-long-name-' * 20}"[:length] + f"-{task}" for task in range(4))
    agent = small_agent(env=env, verbose=1)
    if custom:
        agent.set_logger(configure(str(tmp_path), ["stdout", "log"]))
    agent.learn(400, log_interval=1)
    assert agent.num_timesteps == 400
    assert all(task in capsys.readouterr().out for task in env.task_names[:1])


def test_a_log_that_cannot_be_written_ends_no_training(small_agent, tmp_path):
    agent = small_agent()
    agent.set_logger(configure(str(tmp_path), ["csv", "json"]))
    agent.logger.output_formats[0].write = lambda *_: (_ for _ in ()).throw(OSError("No space left on device"))
    with pytest.warns(UserWarning, match=r"could not be written \(No space left on device\); training continues"):
        agent.learn(400, log_interval=1)
    assert agent.num_timesteps == 400


def test_a_checkpoint_that_would_pickle_the_replay_buffer_is_refused_before_the_first_step(
    small_agent, pointmass, tmp_path
):
    agent = small_agent()
    pickling = CheckpointCallback(save_freq=10**9, save_path=str(tmp_path), save_replay_buffer=True)
    for callback in (
        pickling,
        [pickling],
        CallbackList([EveryNTimesteps(100, pickling)]),
        EvalCallback(pointmass(), callback_on_new_best=pickling),
        EvalCallback(pointmass(), callback_after_eval=pickling),
    ):
        with pytest.raises(ConfigurationError, match=r"would write a pickle.*model\.save_state\(folder\)"):
            agent.learn(200, callback=callback)
    assert agent.num_timesteps == 0


# ---------------------------------------------------------------------- the state of a run, from Python


@pytest.mark.parametrize("steps", [200, 100])  # at the end of an episode of 50 steps, and within one
def test_a_saved_state_resumes_to_the_bit(small_agent, fingerprint, tmp_path, steps):
    whole, stopped = small_agent(balancer="famo"), small_agent(balancer="famo")
    for agent in (whole, stopped):
        agent.learn(steps, log_interval=None)
    stopped.save_state(tmp_path / "state")
    resumed = small_agent(balancer="famo")
    resumed.load_state(tmp_path / "state")
    for agent in (whole, resumed):
        agent.learn(200, log_interval=None, reset_num_timesteps=False)
    assert resumed.num_timesteps == steps + 200 and fingerprint(resumed) == fingerprint(whole)
    assert torch.equal(resumed.replay_buffer.rows[:, : steps // 4], whole.replay_buffer.rows[:, : steps // 4])


def test_a_ring_that_is_full_is_restored(small_agent, fingerprint, tmp_path):
    whole, resumed = small_agent(buffer_size=160), small_agent(buffer_size=160)
    whole.learn(240, log_interval=None)
    whole.save_state(tmp_path / "state")
    resumed.load_state(str(tmp_path / "state"))
    for agent in (whole, resumed):
        agent.learn(80, log_interval=None, reset_num_timesteps=False)
    assert fingerprint(resumed) == fingerprint(whole)


def test_a_state_takes_the_place_of_an_older_one_and_of_nothing_else(small_agent, tmp_path):
    agent = small_agent().learn(100, log_interval=None)
    for _ in range(2):
        agent.save_state(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(AgentFileError, match="exists and is no saved state"):
        agent.save_state(tmp_path / "mine")
    with pytest.raises(AgentFileError, match="no folder that save_state wrote"):
        agent.load_state(tmp_path / "mine")
    with pytest.raises(ConfigurationError, match="not of this agent"):
        small_agent(balancer="famo").load_state(tmp_path / "state")
    (tmp_path / "state" / "agent.pt").write_bytes(b"no tensors")
    with pytest.raises(AgentFileError, match="cannot be read as a saved state"):
        agent.load_state(tmp_path / "state")


# ---------------------------------------------------------------------- files


def test_an_agent_is_saved_to_and_loaded_from_an_open_file(small_agent, fingerprint, tmp_path):
    agent, memory = small_agent().learn(100, log_interval=None), io.BytesIO()
    agent.save(memory)
    memory.seek(0)
    assert fingerprint(MTSAC.load(memory, device="cpu")) == fingerprint(agent)
    with open(tmp_path / "agent.zip", "wb") as file:
        agent.save(file)
    with open(tmp_path / "agent.zip", "rb") as file:
        assert fingerprint(MTSAC.load(file, device="cpu")) == fingerprint(agent)
    memory.seek(0)
    assert load_policy(memory, "cpu").task_names == agent.task_names
    with pytest.raises(AgentFileError, match="cannot be read as an agent"):
        MTSAC.load(io.BytesIO(b"nothing"), device="cpu")


def test_sb3s_further_arguments_of_load(small_agent, pointmass, tmp_path, capsys):
    small_agent().save(tmp_path / "agent")
    custom = {"learning_rate": 0.1, "gamma": 0.5}
    agent = MTSAC.load(
        tmp_path / "agent", pointmass(), "cpu", custom_objects=custom, print_system_info=True, force_reset=False
    )
    assert agent.gamma == 0.5 and agent.lr_schedule(1.0) == 0.1
    assert "PyTorch" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="does not take 'gama', did you mean 'gamma'"):
        MTSAC.load(tmp_path / "agent", custom_objects={"gama": 0.5})


# ---------------------------------------------------------------------- predicting for one environment


@pytest.mark.parametrize("alone", [True, False])
def test_the_observation_of_a_single_environment_is_acted_on_by_the_name_of_its_task(small_agent, tmp_path, alone):
    agent = small_agent()
    agent.save(tmp_path / "agent")
    model = load_policy(tmp_path / "agent", "cpu") if alone else agent
    observations = agent.env.reset()
    expected, _ = model.predict(observations, deterministic=True)
    for k, task in enumerate(agent.task_names):
        action, _ = model.predict(observations[k, :2], deterministic=True, task=task)
        np.testing.assert_allclose(action, expected[k], atol=1e-6)
        several, _ = model.predict(observations[k : k + 1, :2].repeat(3, 0), deterministic=True, task=task)
        assert several.shape == (3, 2)
    short, _ = model.predict(observations[0, :1], deterministic=True, task="point-0")
    padded, _ = model.predict(np.array([observations[0, 0], 0.0]), deterministic=True, task="point-0")
    np.testing.assert_array_equal(short, padded)


def test_an_observation_that_does_not_fit_is_answered_with_the_one_hot(small_agent):
    agent = small_agent()
    with pytest.raises(ConfigurationError, match=r"6 numbers, 2 of the state and the one-hot of 4 tasks.*task='name'"):
        agent.predict(np.zeros(2, np.float32))
    with pytest.raises(ConfigurationError, match=r"found shape \(2, 2, 6\)"):
        agent.predict(np.zeros((2, 2, 6), np.float32))
    with pytest.raises(ConfigurationError, match=r"at most 2 numbers without its one-hot, found shape \(6,\)"):
        agent.predict(np.zeros(6, np.float32), task="point-0")
    with pytest.raises(ConfigurationError, match="Unknown task 'point-9': choose from point-0"):
        agent.predict(np.zeros(2, np.float32), task="point-9")
    with pytest.raises(ValueError, match="tuple"):
        agent.predict((np.zeros(6, np.float32), {}))


# ---------------------------------------------------------------------- hints


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"lr": 1e-3}, "did you mean 'learning_rate'"),
        ({"net_arch": [8]}, r"did you mean policy_kwargs=\{'hidden_sizes'"),
        ({"hidden_sizes": [8]}, r"did you mean policy_kwargs=\{'hidden_sizes'"),
        ({"policy_kwargs": {"net_arch": [8]}}, "did you mean 'hidden_sizes'"),
        ({"polyak": 0.1}, "did you mean 'tau'"),
        ({"discount": 0.9}, "did you mean 'gamma'"),
    ],
)
def test_what_other_libraries_call_it_leads_to_the_name_here(pointmass, given, hint):
    with pytest.raises(ConfigurationError, match=hint):
        MTSAC("MultiTaskPolicy", pointmass(), **given)


def test_an_unknown_name_gets_the_nearest_three_of_many():
    many = [f"name-{number:02}" for number in range(37)]
    for name in ("nam-07", "entirely different"):
        sentence = str(unknown_name("balancer", name, many))
        assert sentence.count("name-") == 3 and len(sentence) < 100
    assert "choose from a, b" in str(unknown_name("kind", "c", ["a", "b"]))
