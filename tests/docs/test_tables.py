"""The tables of README.md and the guides say what the registries say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
assert _spec is not None and _spec.loader is not None
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert tables.with_tables(text) == text, "a registry has changed: run `make docs` and commit the pages"


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    import re

    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
