"""The documentation: links are valid, every page is in the index, and the tests that a page names exist."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.commands import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "demo" / "README.md", *ROOT.glob("docs/**/*.md")])
INVENTED = {"test_echo.py"}
"""Tests that do not exist: that of the example method in CONTRIBUTING.md."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http:", "https:"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that code hosts generate for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    indexes = (index, index.parent / "results" / "README.md")  # the second lists what was measured
    linked = {(one.parent / link.partition("#")[0]).resolve() for one in indexes for link in links(one)}
    assert [page for page in ROOT.glob("docs/**/*.md") if page != index and page not in linked] == []


@every_page
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    names = set(re.findall(r"\btest_\w+\.py\b", page.read_text(encoding="utf-8")))
    assert names - INVENTED <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


@every_page
def test_every_table_is_one(page: Path) -> None:
    """The second row is a rule, and no row has more or fewer cells: otherwise a reader sees lines of bars."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", row.strip())[1:-1] for row in table.splitlines()]
        assert len(rows) > 1 and all(re.fullmatch(r" *:?-+:? *", cell) for cell in rows[1]), rows[0]
        assert {len(row) for row in rows} == {len(rows[0])}, rows[0]


LIST = re.compile(r"(?:[-*]|\d+\.) ")


@every_page
def test_every_list_begins_after_a_blank_line(page: Path) -> None:
    """Otherwise the site shows a paragraph with dashes in it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = re.sub(r"^<!--.*-->$", "", text, flags=re.MULTILINE).splitlines()
    for above, line in pairwise(lines):
        if LIST.match(line):
            assert not above or LIST.match(above) or above.startswith("  "), line
