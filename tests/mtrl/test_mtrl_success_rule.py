"""Where nobody says what a success is, the return is the headline; and where `evaluate` can measure."""

import warnings

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from agents.tags import EVAL_RETURN, of_task
from envs import make_suite
from mtrl import evaluate, make_env
from mtrl.console import describe_success
from mtrl.errors import ConfigError
from mtrl.schema import nearest_setting
from mtrl.tracking import evaluation_metrics

SWING = "Pendulum-v1"


class Still:
    def __init__(self, size):
        self.size = size

    def predict(self, observation, *, deterministic=True):
        return np.zeros((len(observation), self.size), np.float32), None


@pytest.mark.parametrize("workers", [0, 2])
def test_tasks_without_a_rule_of_success_are_named_and_their_return_is_the_headline(workers):
    suite = make_suite("gym", tasks={"a": SWING, "b": SWING}, horizon=5)
    with pytest.warns(
        UserWarning, match=r"never say whether an episode succeeds.*: a, b\. Look at the return.*success_re"
    ):
        result = evaluate(Still(1), suite, 2, workers=workers, stop_at_success=True)
    assert result.without_rule == ("a", "b") and not result.judges_success
    assert describe_success(result).startswith(f"return {result.returns.mean():,.1f}, worst ")
    assert evaluation_metrics(result, final=False)[of_task(EVAL_RETURN, "a")] == result.task_return["a"]


@pytest.mark.parametrize("rule", ["return", "info", "only at the end", "toy"])
def test_tasks_with_a_rule_of_success_are_not_warned_of(rule):
    class Saying(gymnasium.Wrapper):
        count = 0

        def step(self, action):
            self.count += 1
            *found, info = super().step(action)
            says = rule == "info" or self.count % 5 == 0
            return (*found, {**info, **({"is_success": False} if says else {})})

    def constructor():
        return Saying(gymnasium.make(SWING))

    options = {"success_return": 0.0} if rule == "return" else {}
    suite = make_suite("gym", tasks={"a": SWING if rule == "return" else constructor}, horizon=5, **options)
    if rule == "toy":
        suite = make_suite("pointmass")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = evaluate(Still(suite.action_space.shape[0]), suite, 2, workers=0)
    assert result.without_rule == () and describe_success(result).startswith("success 0.00")


def test_one_task_of_two_without_a_rule_is_named():
    suite = make_suite("gym", tasks={"a": SWING, "b": SWING}, horizon=5, success_return={"b": -1e9})
    with pytest.warns(UserWarning, match=r"every agent: a\. Look"):
        result = evaluate(Still(1), suite, 2, workers=0)
    assert result.judges_success and result.task_success == {"a": 0.0, "b": 1.0}


# ---------------------------------------------------------------------- where to evaluate


def test_a_suite_by_name_and_a_wrapped_environment_are_evaluated():
    assert evaluate(Still(2), "pointmass", 2, workers=0).episodes == 2
    env = make_env("pointmass")
    plain = evaluate(Still(2), env, 2)
    with pytest.warns(UserWarning, match="already wrapped"):
        monitored = VecMonitor(env)
    wrapped = evaluate(Still(2), monitored, 2)
    assert wrapped.task_names == plain.task_names and wrapped.returns.shape == plain.returns.shape
    env.close()


@pytest.mark.parametrize(
    "place",
    [
        lambda: DummyVecEnv([lambda: gymnasium.make(SWING)]),
        lambda: gymnasium.make(SWING),
        lambda: VecNormalize(make_env("pointmass")),
        lambda: None,
    ],
)
def test_what_cannot_be_evaluated_in_is_one_sentence(place):
    with pytest.raises(ConfigError, match="evaluate takes a suite, the name of one, or an environment that names its"):
        evaluate(Still(2), place(), 1)


def test_the_command_line_knows_what_other_libraries_call_it():
    known = ["agent.learning_rate", "agent.tau", "agent.gamma", "network.hidden_sizes"]
    for key, ours in (("agent.lr", known[0]), ("polyak", known[1]), ("network.net_arch", known[3])):
        assert nearest_setting(key, known) == f"; did you mean '{ours}'?"


def test_the_horizon_of_the_command_line_serves_tasks_that_have_none():
    from mtrl.config import RunConfig

    gymnasium.register("Endless-v0", "gymnasium.envs.classic_control:PendulumEnv")
    try:
        config = {"env": {"suite": "gym", "tasks": ["Endless-v0", SWING], "horizon": 20}}
        suite = RunConfig.from_dict(config).make_suite()
    finally:
        del gymnasium.registry["Endless-v0"]
    assert list(suite.horizons) == [20, 200]
