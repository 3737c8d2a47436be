"""The documentation as a site: its menu has every page, links lead to its pages, and marks become what they name.

test_reference.py builds it.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from scripts.docs_site import (
    anchor_of,
    links_of,
    menu,
    moved,
    on_page_markdown,
    outside,
    place_of,
    with_all_methods,
    with_plain_bars,
)
from tests.support.commands import ROOT


def test_the_menu_is_the_index() -> None:
    index = "# Docs\n\n[Methods](#methods)\n\n## Use\n\n| page | content |\n|---|---|\n"
    index += "| [One](one.md), [Two](methods/two.md#part) | see [three](three.md) |\n| [All](../README.md) | text |\n"
    assert menu(index) == [
        {"Overview": "README.md"},
        {"Use": [{"One": "one.md"}, {"All": "project/README.md"}]},
    ]
    pages = {page for section in menu((ROOT / "docs" / "README.md").read_text())[1:] for page in _pages(section)}
    assert {"formats/int8.md", "methods/csd.md", "design/house.md", "project/CONTRIBUTING.md"} <= pages


def _pages(section: dict[str, list[dict[str, str]]]) -> list[str]:
    return [page for entries in section.values() for entry in entries for page in entry.values()]


def test_links_are_moved_to_the_pages_of_the_site() -> None:
    rest = "[b](onnx.md) `[c](onnx.md)` [d](https://x.org)\n\n    [e](../CONTRIBUTING.md)\n"
    text = "[a](../../CONTRIBUTING.md#tests) " + rest
    place = PurePosixPath("formats/int8.md")
    assert moved(text, place) == "[a](../project/CONTRIBUTING.md#tests) " + rest
    assert moved("[a](docs/formats/int8.md)", PurePosixPath("project/README.md")) == "[a](../formats/int8.md)"
    source = moved("[a](../../export/formats/table.py)", PurePosixPath("design/export.md"))
    assert source == "[a](../project/export/formats/table.py.md)"
    assert moved("[a](../results/int8_quality.json)", place) == "[a](../results/int8_quality.md)"
    assert moved('<img src="docs/a.svg">', PurePosixPath("project/README.md")) == '<img src="docs/a.svg">', (
        "no such file"
    )
    picture = moved('<img src="docs/images/overview.svg" width="8">', PurePosixPath("project/README.md"))
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


def test_bars_in_the_code_of_a_table_lose_their_backslash() -> None:
    assert with_plain_bars("| `a\\|b` | c\\|d |\n`e\\|f`\n") == "| `a|b` | c\\|d |\n`e\\|f`\n"


def test_anchors_are_those_of_a_code_host() -> None:
    assert anchor_of("Speed, and quality (Set5)") == "speed-and-quality-set5"


def test_a_page_of_a_method_is_in_the_menu_without_a_line_in_the_index() -> None:
    menu_without = with_all_methods([{"Overview": "README.md"}, {"Methods": [{"Logits KD": "methods/logits.md"}]}])
    pages = _pages(menu_without[1])
    assert sorted(pages) == sorted(f"methods/{path.name}" for path in (ROOT / "docs" / "methods").glob("*.md"))
    assert {"CSD-lite": "methods/csd-lite.md"} in menu_without[1]["Methods"]
