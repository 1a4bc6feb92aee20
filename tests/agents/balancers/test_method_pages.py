"""docs/methods says what the registry and the docstrings say."""

import pytest

from agents.balancers import list_balancers
from agents.balancing.registry import declaration
from agents.settings import explanations
from docs.methods.generate import FOLDER, pages


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_current(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `python -m docs.methods.generate`"


def test_no_page_is_left_of_a_method_that_is_gone():
    assert {path.name for path in FOLDER.glob("*.md")} == set(pages())


@pytest.mark.parametrize("record", list_balancers(), ids=lambda record: record.name)
def test_every_method_documents_its_scale_its_deviations_and_its_options(record):
    assert record.paper and record.summary and record.cost
    undocumented = record.options - explanations(declaration(record.balancer)).keys()
    assert not undocumented, f"{record.name} does not document {', '.join(sorted(undocumented))}"
