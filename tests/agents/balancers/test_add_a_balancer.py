"""docs/add-a-balancer.md is true: its method registers, its test class runs, and it is as short as promised."""

import re
from pathlib import Path

import pytest

from agents.balancers import Needs, make_balancer
from agents.balancing import registry

PAGE = Path(__file__).parents[3] / "docs" / "add-a-balancer.md"
METHOD, TESTS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)

_namespace = {"__name__": __name__}
exec(compile(METHOD, str(PAGE), "exec"), _namespace)
_record = registry.BALANCERS._records.pop("group_dro")  # known during the tests of this file only
exec(compile(TESTS, str(PAGE), "exec"), globals())  # TestGroupDRO, collected from here
del BalancerProperties  # noqa: F821  made by the line above, and no test class of its own


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(registry.BALANCERS._records, "group_dro", _record)


def test_a_complete_balancer_takes_at_most_forty_lines():
    assert len(METHOD.splitlines()) <= 40


def test_the_new_method_composes_and_names_its_options():
    balancer = make_balancer("group_dro+pcgrad", num_tasks=3, step_size=0.1)
    assert balancer.needs & Needs.TASK_GRADIENTS
    with pytest.raises(ValueError, match="did you mean 'step_size'"):
        make_balancer("group_dro", num_tasks=3, stepsize=0.1)
