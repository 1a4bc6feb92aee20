"""A learning-rate schedule survives a file, or the file says that it does not."""

import warnings

import numpy as np
import pytest
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from agents import MTSAC, AgentFileError
from agents.learning_rate import from_description

POINTS = np.linspace(0, 1, 11)


@pytest.mark.parametrize(
    "rate",
    [
        3e-4,
        ConstantSchedule(2e-4),
        LinearSchedule(1e-3, 2e-5, 0.5),
        FloatSchedule(LinearSchedule(1e-3, 0.0, 1.0)),
    ],
)
def test_a_schedule_that_can_be_described_is_loaded_as_it_was_saved(small_agent, tmp_path, rate):
    agent = small_agent(learning_rate=rate)
    agent.learn(100, log_interval=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.save(tmp_path / "agent")
        again = MTSAC.load(tmp_path / "agent", device="cpu")
        again.save(tmp_path / "again")
    for loaded in (again, MTSAC.load(tmp_path / "again", device="cpu")):
        assert [loaded.lr_schedule(point) for point in POINTS] == [agent.lr_schedule(point) for point in POINTS]


def test_a_resumed_agent_does_not_jump_back_to_the_first_rate(small_agent, pointmass, tmp_path):
    agent = small_agent(learning_rate=LinearSchedule(1e-3, 2e-5, 1.0))
    agent.learn(400, log_interval=None).save(tmp_path / "agent")
    copy = MTSAC.load(tmp_path / "agent", env=pointmass(), device="cpu")
    copy.learn(40, log_interval=None, reset_num_timesteps=False)
    assert copy.actor_optimizer.param_groups[0]["lr"] < 3e-4


def test_a_schedule_that_is_code_leaves_its_first_rate_and_a_warning(small_agent, tmp_path):
    agent = small_agent(learning_rate=lambda remaining: 1e-3 * remaining + 1e-5)
    agent.learn(400, log_interval=None)
    with pytest.warns(UserWarning, match=r"is code, which an agent file does not hold.*LinearSchedule"):
        agent.save(tmp_path / "agent")
    assert MTSAC.load(tmp_path / "agent", device="cpu").lr_schedule(0.5) == pytest.approx(1.01e-3)
    given = MTSAC.load(tmp_path / "agent", device="cpu", learning_rate=LinearSchedule(1.0, 0.0, 1.0))
    assert given.lr_schedule(0.5) == 0.5


@pytest.mark.parametrize(
    "described",
    [
        {"schedule": "cosine", "start": 1.0, "end": 0.0, "end_fraction": 1.0},
        {"schedule": "linear", "start": 1.0},
        {"schedule": "linear", "start": 1.0, "end": 0.0, "end_fraction": 1.0, "more": 1},
    ],
)
def test_a_description_of_no_schedule_is_refused(described):
    with pytest.raises(ValueError, match="no schedule that is known"):
        from_description(described)


def test_a_file_with_such_a_description_is_no_agent(small_agent, tmp_path, monkeypatch):
    agent = small_agent()
    monkeypatch.setattr(agent, "_described_rate", lambda: {"schedule": "cosine"})
    agent.save(tmp_path / "agent")
    with pytest.raises(AgentFileError, match="no schedule that is known"):
        MTSAC.load(tmp_path / "agent", device="cpu")
