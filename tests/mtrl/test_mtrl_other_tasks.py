"""A policy is measured in the tasks that it has learnt, in their order."""

import numpy as np
import pytest

from agents import MTSAC, ConfigurationError, load_policy, save_policy
from envs import make_suite
from mtrl import evaluate
from mtrl.pretrained import list_pretrained, pretrained_policy
from mtrl.video import write_mosaic

SWING = "Pendulum-v1"
ORDERS = [({"b": SWING, "a": SWING}, "in the agent's order"), ({"a": SWING, "c": SWING}, "the agent's tasks")]


def swings(tasks):
    return make_suite("gym", tasks=tasks, horizon=5)


@pytest.fixture
def agent(tmp_path):
    env = swings({"a": SWING, "b": SWING}).make_vec_env(seed=0)
    agent = MTSAC("MultiTaskPolicy", env, seed=0, policy_kwargs={"hidden_sizes": [8]}, device="cpu")
    yield agent
    env.close()


@pytest.fixture(params=["agent", "its policy", "loaded agent", "policy of an agent", "policy alone"])
def model(request, agent, tmp_path):
    agent.save(tmp_path / "agent")
    save_policy(agent, tmp_path / "policy")
    return {
        "agent": lambda: agent,
        "its policy": lambda: agent.policy,
        "loaded agent": lambda: MTSAC.load(tmp_path / "agent", device="cpu"),
        "policy of an agent": lambda: load_policy(tmp_path / "agent", "cpu"),
        "policy alone": lambda: load_policy(tmp_path / "policy", "cpu"),
    }[request.param]()


@pytest.mark.parametrize(("tasks", "cure"), ORDERS)
def test_other_tasks_or_another_order_are_refused(model, tasks, cure):
    assert tuple(model.task_names) == ("a", "b")
    suite = swings(tasks)
    env = suite.make_vec_env(seed=0)
    for place in (suite, env):
        with pytest.raises(ConfigurationError, match=rf"learns the tasks \['a', 'b'\].*{cure}"):
            evaluate(model, place, 2)
    env.close()
    result = evaluate(model, swings({"a": SWING, "b": SWING}), 2, workers=0)
    assert result.task_names == ("a", "b")


@pytest.mark.parametrize(("tasks", "cure"), ORDERS)
def test_no_video_is_made_of_tasks_that_were_not_learnt(agent, tmp_path, tasks, cure):
    with pytest.raises(ConfigurationError, match=cure):
        write_mosaic(agent, swings(tasks), tmp_path / "mosaic.mp4")


def test_a_model_that_names_no_tasks_acts_in_any():
    class Still:
        def predict(self, observation, *, deterministic=True):
            return np.zeros((len(observation), 1), np.float32), None

    assert evaluate(Still(), swings({"b": SWING, "a": SWING}), 2, workers=0).task_names == ("b", "a")


@pytest.mark.parametrize("name", list_pretrained())
def test_the_policies_that_ship_know_their_tasks(name):
    policy = pretrained_policy(name)
    learnt = policy.load("cpu").task_names
    assert list(learnt) == [task for task in policy.card["results"] if task != "mean"]
    with pytest.raises(ConfigurationError, match="in the agent's order"):
        evaluate(policy.load("cpu"), make_suite("metaworld", tasks=list(reversed(learnt))), 1)
