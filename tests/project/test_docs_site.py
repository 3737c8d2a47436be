"""The documentation as a site: its menu, its links, and the parts that are made when it is built.

test_reference.py builds it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from typing import Any, get_args

import pytest

from compressor.training.method import Kind
from recipes.catalogue import BUILTIN
from recipes.config.schema import preset_schema
from scripts import recipe_keys
from scripts.docs_site import links_of, menu, moved, on_page_markdown, outside, place_of, with_all_methods
from scripts.rendered import MARK, PARTS, with_parts
from tests.support.commands import ROOT


def test_the_menu_is_the_index() -> None:
    index = "# Docs\n\n[Methods](#methods)\n\n## Use\n\n| page | content |\n|---|---|\n"
    index += "| [One](one.md), [Two](methods/two.md#part) | see [three](three.md) |\n| [All](../README.md) | text |\n"
    assert menu(index) == [
        {"Overview": "index.md"},
        {"All pages": "pages.md"},
        {"Use": [{"One": "one.md"}, {"All": "index.md"}]},
    ]
    pages = {page for section in menu((ROOT / "docs" / "README.md").read_text())[2:] for page in _pages(section)}
    assert {"formats/int8.md", "methods/csd.md", "design/house.md", "project/CONTRIBUTING.md"} <= pages


def _pages(section: dict[str, list[dict[str, str]]]) -> list[str]:
    return [page for entries in section.values() for entry in entries for page in entry.values()]


def test_links_are_moved_to_the_pages_of_the_site() -> None:
    rest = "[b](onnx.md) `[c](onnx.md)` [d](https://x.org)\n\n    [e](../CONTRIBUTING.md)\n"
    text = "[a](../../CONTRIBUTING.md#tests) " + rest
    place = PurePosixPath("formats/int8.md")
    assert moved(text, place) == "[a](../project/CONTRIBUTING.md#tests) " + rest
    assert moved("[a](docs/formats/int8.md)", PurePosixPath("index.md")) == "[a](formats/int8.md)"
    assert moved("[a](../README.md) [b](README.md)", PurePosixPath("pages.md")) == "[a](index.md) [b](pages.md)"
    source = moved("[a](../../export/formats/table.py)", PurePosixPath("design/export.md"))
    assert source == "[a](../project/export/formats/table.py.md)"
    assert moved("[a](../results/int8_quality.json)", place) == "[a](../results/int8_quality.md)"
    contributing, missing = PurePosixPath("project/CONTRIBUTING.md"), '<img src="docs/a.svg">'
    assert moved(missing, contributing) == missing
    picture = moved('<img src="docs/images/overview.svg" width="8">', contributing)
    assert picture == '<img src="../images/overview.svg" width="8">'
    assert moved("[a](../images/overview.svg)", place) == "[a](../images/overview.svg)"
    assert moved("![a](results/tour.webp)", PurePosixPath("real-models.md")) == "![a](results/tour.webp)"


def test_marks_become_tables_and_parts() -> None:
    class Page:
        class file:
            src_uri = "methods/costs.md"

    text = "Before\n\n[result: method_costs](../results/method_costs.json)\n\nafter\n"
    shown = on_page_markdown(text, Page, None, None)
    assert "[result:" not in shown and shown.count("\n| ") > 10 and shown.endswith("\n\nafter\n")
    questions = on_page_markdown("<!-- rendered: all questions -->", Page, None, None)
    assert questions.count("\n| [") > 15 and "<!--" not in questions


def test_everything_that_pages_link_to_is_on_the_site() -> None:
    pages = outside()
    assert PurePosixPath("README.md") in pages and PurePosixPath("export/formats/table.py") in pages
    for path, text in pages.items():
        for target in links_of(text, path.parent) if path.suffix == ".md" else ():
            assert target in pages or target.is_relative_to("docs") or not (ROOT / target).is_file(), (path, target)
    assert place_of(PurePosixPath("docs/methods/csd.md")) == PurePosixPath("methods/csd.md")


def test_a_page_of_a_method_is_in_the_menu_without_a_line_in_the_index() -> None:
    menu_without = with_all_methods([{"Overview": "index.md"}, {"Methods": [{"Logits KD": "methods/logits.md"}]}])
    pages = _pages(menu_without[1])
    assert sorted(pages) == sorted(f"methods/{path.name}" for path in (ROOT / "docs" / "methods").glob("*.md"))
    assert {"CSD-lite": "methods/csd-lite.md"} in menu_without[1]["Methods"]


SCHEMA: dict[str, Any] = preset_schema(BUILTIN)
FOLDER = PurePosixPath("docs")


def test_every_part_stands_on_a_page_and_every_mark_is_one() -> None:
    marks = [name for page in ROOT.glob("docs/**/*.md") for name in MARK.findall(page.read_text(encoding="utf-8"))]
    assert sorted(marks) == sorted(PARTS)


def test_a_mark_becomes_its_part() -> None:
    page = with_parts("# Page\n\n<!-- rendered: what methods ask -->\n\n<!-- result: x -->\n", FOLDER)
    before, svg, after = page.split("div>")
    assert before == "# Page\n\n<" and after == "\n\n<!-- result: x -->\n"
    assert ET.fromstring(svg.removesuffix("</")).get("aria-label") == "What each method asks of the loop."
    with pytest.raises(KeyError):
        with_parts("<!-- rendered: no such part -->", FOLDER)


def test_the_table_of_members_says_how_each_is_called() -> None:
    table = PARTS["optional members"](FOLDER)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[2:]]
    assert {"`segments`", "`branches(teacher)`", "`modules(teacher, student)`"} <= {row[0].strip() for row in rows}
    assert all(row[1].strip() for row in rows)


def test_the_table_of_kinds_says_what_does_not_go_together() -> None:
    rows = {line.split("|")[1].strip(" `"): line for line in PARTS["methods together"](FOLDER).splitlines()[2:] if line}
    assert set(rows) == set(get_args(Kind)) and "goes with all" in rows["pixel"]
    assert all(any(f"`{name}`" in row for row in rows.values()) for name in BUILTIN)
    for first, second in (("contrast", "contrast"), ("bands", "feature"), ("looks", "output")):
        for kind, other in ((first, second), (second, first)):
            assert re.search(rf"\*[^*]*\b{other}\b[^*]*\*: ", rows[kind])


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the cells of a section's table by key."""
    section = re.split(r"^#+ ", f"\n{page}".partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_page_has_every_key_of_the_schema_with_its_meaning() -> None:
    keys = recipe_keys.keys_of_recipes(FOLDER)
    sections = {"## The file": ("", SCHEMA)}
    for key, part in SCHEMA["properties"].items():
        if "$ref" in part:
            sections[f"## `{key}`"] = (f"{key}.", SCHEMA["definitions"][part["$ref"].rpartition("/")[2]])
    sections |= {f"### `{name}`": ("", SCHEMA["definitions"][f"options-{name}"]) for name in BUILTIN}
    assert len(sections) == 3 + len(BUILTIN)
    for heading, (prefix, part) in sections.items():
        table = rows(keys, heading)
        assert list(table) == [prefix + key for key in part["properties"]], heading
        for key, one in part["properties"].items():
            value, default, meaning = table[prefix + key]
            assert value and default and meaning == one["description"], (heading, key)
    methods = {f"methods.0.{key}" for name in BUILTIN for key in SCHEMA["definitions"][f"method-{name}"]["properties"]}
    listed = rows(keys, "## `methods`")
    assert set(listed) == methods and all(cells[-1] for cells in listed.values())
