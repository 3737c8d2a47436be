"""The documentation: links are valid, every page is in the index, the tests and examples that it names exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tests.support.commands import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "demo" / "README.md", *ROOT.glob("docs/**/*.md")])
INVENTED = {"test_echo.py"}
"""Tests that do not exist: that of the example method in CONTRIBUTING.md."""


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http:", "https:"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that code hosts generate for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield f"{page.relative_to(ROOT)}: {link}"


def test_links_lead_somewhere() -> None:
    assert [link for page in PAGES for link in broken_links(page)] == []


def test_a_page_has_each_heading_once() -> None:
    for page in PAGES:
        headings = re.findall(r"^##+ .+$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert len(headings) == len(set(headings)), page


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    linked |= {index, *ROOT.glob("docs/methods/*.md")}  # the site's menu has every page of a method (test_docs_site.py)
    assert [page for page in ROOT.glob("docs/**/*.md") if page not in linked] == []


def test_docs_stay_small_enough_to_find_a_page_in_them() -> None:
    """Generated pages, tables and pictures are made when the site is built (scripts/docs_site.py)."""
    assert len(list(ROOT.glob("docs/*.md"))) <= 15
    assert len([path for path in ROOT.glob("docs/**/*") if path.is_file()]) <= 110


def test_the_pages_that_the_code_names_exist() -> None:
    named: dict[str, Path] = {}
    for package in ("srkd", "recipes", "export", "demo", "compressor", "benchmarks", "scripts"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".yaml", ".md") and "node_modules" not in path.parts:
                named |= dict.fromkeys(re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text(encoding="utf-8")), path)
    assert len(named) > 8
    assert {page: str(path) for page, path in named.items() if not (ROOT / page).is_file()} == {}


def test_the_tests_that_a_page_names_exist() -> None:
    names = {page: set(re.findall(r"\btest_\w+\.py\b", page.read_text(encoding="utf-8"))) for page in PAGES}
    there = INVENTED | {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert {page: found - there for page, found in names.items() if not found <= there} == {}


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_table_is_one() -> None:
    """The second row is a rule, and no row has more or fewer cells: otherwise a reader sees lines of bars."""
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\n?)+", without_code(page), flags=re.MULTILINE):
            rows = [re.split(r"(?<!\\)\|", row.strip())[1:-1] for row in table.splitlines()]
            assert len(rows) > 1 and all(re.fullmatch(r" *:?-+:? *", cell) for cell in rows[1]), (page, rows[0])
            assert {len(row) for row in rows} == {len(rows[0])}, (page, rows[0])


LIST = re.compile(r"(?:[-*]|\d+\.) ")


def test_every_list_begins_after_a_blank_line() -> None:
    """Otherwise the site shows a paragraph with dashes in it."""
    for page in PAGES:
        lines = re.sub(r"^<!--.*-->$", "", without_code(page), flags=re.MULTILINE).splitlines()
        for above, line in pairwise(lines):
            if LIST.match(line):
                assert not above or LIST.match(above) or above.startswith("  "), (page, line)


BLOCK = re.compile(r"^`(tests/example_[\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ROOT.glob("tests/example_*")
    for path in folder.rglob("*")
    if path.suffix in (".py", ".toml", ".yaml")
}


def test_each_example_is_shown_as_it_is() -> None:
    """The code on the pages that extend srkd; other tests install and run the examples."""
    pages = [ROOT / "docs" / "extend" / f"{name}.md" for name in ("write-a-method", "add-a-network", "add-a-format")]
    shown = {path: code for page in pages for path, code in BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert shown == EXAMPLES
