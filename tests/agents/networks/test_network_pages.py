"""docs/networks says what the registry and the docstrings say."""

import pytest

from agents.networks import NETWORKS
from docs.networks.generate import FOLDER, meanings_of, pages


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_current(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `python -m docs.networks.generate`"


def test_no_page_is_left_of_a_network_that_is_gone():
    assert {path.name for path in FOLDER.glob("*.md")} == set(pages())


@pytest.mark.parametrize("record", NETWORKS.listed(), ids=lambda record: record.name)
def test_every_option_is_documented(record):
    assert record.options <= meanings_of(record).keys()
