"""Learning-rate schedules as JSON: those that can be described survive in ``agent.zip``, of others the first rate."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

_LINEAR = ("start", "end", "end_fraction")


def describe(rate: Any) -> Any:
    """A learning rate as JSON holds it: a number, or SB3's linear schedule as a dictionary.

    :param rate: what the agent was given: a number or a schedule
    :return: None for a schedule that is code
    """
    if isinstance(rate, FloatSchedule):  # a wrapper that SB3 puts around schedules
        return describe(rate.value_schedule)
    if type(rate) is ConstantSchedule:
        return float(rate.val)
    if type(rate) is LinearSchedule:
        return {"schedule": "linear", **{name: float(getattr(rate, name)) for name in _LINEAR}}
    return None if callable(rate) else float(rate)


def from_description(described: Any) -> Any:
    """The learning rate that `describe` wrote.

    :raises ValueError: for a description of no schedule
    """
    if not isinstance(described, Mapping):
        return described
    if set(described) != {"schedule", *_LINEAR} or described["schedule"] != "linear":
        raise ValueError(f"learning_rate is no schedule that is known here: {dict(described)!r:.200}")
    return LinearSchedule(*(float(described[name]) for name in _LINEAR))
