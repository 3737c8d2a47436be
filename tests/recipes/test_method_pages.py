"""docs/methods has a page per method: what it is, when to use it, its cost, options with defaults, our result."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.evidence import Result, results_folder
from benchmarks.method_costs import Cost
from benchmarks.methods import TITLES
from benchmarks.pages import with_results
from benchmarks.preset_lengths import all_recipes
from recipes.catalogue import METHODS, RECIPES
from recipes.config.options import options_model
from recipes.config.reading import load_preset

pytestmark = pytest.mark.ci

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
every_method = pytest.mark.parametrize("method", sorted(METHODS))


def read(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def table_rows(page: str, first: str) -> list[list[str]]:
    """Return the cells of the rows under each table heading whose first column is `first`."""
    rows, inside = [], False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        inside = line.startswith("|") and (inside or cells[0] == first)
        if inside and cells[0] != first and not cells[0].startswith("--"):
            rows.append(cells)
    return rows


@every_method
def test_a_page_has_a_title_the_three_answers_and_links_to_the_results(method: str) -> None:
    page = read(method)
    assert page.startswith("# " + TITLES.get(method, ""))
    labels = [label.lower() for label in re.findall(r"^(?:## |(?:.*\. )?\*\*)([\w ]+)", page, re.MULTILINE)]
    for topics in (("when",), ("cost",), ("our", "result")):
        assert any(topic in label for label in labels for topic in topics), (topics, labels)
    assert "](results.md)" in page


@every_method
def test_every_option_is_documented_and_every_documented_one_exists(method: str) -> None:
    page, options = read(method), options_model(METHODS.find(method)).model_fields
    assert [option for option in options if f"`{option}`" not in page] == []
    documented = {name: row[1] for row in table_rows(page, "option") for name in re.findall(r"`(\w+)`", row[0])}
    assert set(documented) <= set(options)
    for name, text in documented.items():
        default = options[name].default
        text = text.strip("`")
        if isinstance(default, bool):
            assert text == str(default).lower(), name
        elif isinstance(default, (int, float)):
            assert float(Fraction(text)) == pytest.approx(default), name
        elif isinstance(default, str) and default and "," not in page.split(f"`{name}`")[0].splitlines()[-1]:
            assert text == default, name


@every_method
def test_a_page_shows_the_row_of_its_method_and_scores_of_the_results_alone(method: str) -> None:
    table, page = Result.read(results_folder() / "methods.json").tables[""], read(method)
    assert " images and 3 seeds ± " in table.caption
    assert (f"[result: methods/{method}]" in page) == (method in {row["name"] for row in table.rows})
    results = with_results(read("results"), results_folder())
    assert [score for score in re.findall(r"\d\d\.\d{3} ± \d\.\d{3}", page) if score not in results] == []


@pytest.mark.parametrize("method", sorted(TITLES))
def test_a_reconstructed_method_is_called_so(method: str) -> None:
    for name in (method, f"{method}-paper"):
        assert load_preset(name).title.startswith(TITLES[method])


CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|^<!--.*-->$|^\[result: .*$|^ {4,}.*$|^--.*$", re.MULTILINE)
"""Code, link addresses, comments and commands, in which a method has its recipe's name."""


def bare_names(text: str) -> list[str]:
    """Return the places where a reconstructed method has only its paper's name.

    A possessive refers to the authors' own work (CLSD's table, FACD's abstract), a quoted name to one of their rows.
    """
    return re.findall(r"(?<![\w\"'-])(?:CLSD|FACD|LFD|clsd|facd|lfd)(?!-style|'s|[\w\"'])", CODE.sub(" ", text))


def test_a_bare_name_is_recognised_and_a_possessive_is_the_papers() -> None:
    assert (
        bare_names('FACD\'s gate, CLSD-style, `lfd`, [LFD-style](lfd.md), rows "LFD"\n\n    srkd --recipe clsd\n') == []
    )
    assert bare_names("[FACD](facd.md) and CLSD learn; | lfd | 1 |; clsd-like") == ["FACD", "CLSD", "lfd", "clsd"]


ROOT = PAGES.parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


def test_no_page_calls_a_reconstructed_method_by_its_papers_name() -> None:
    assert {page: names for page in DOCUMENTS if (names := bare_names(page.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_no_recipe_does(name: str) -> None:
    preset = load_preset(name)
    assert bare_names(f"{preset.title}; {preset.source}") == []


def test_benchmarks_print_the_same_names() -> None:
    assert Cost("lfd", 1.0, 1.0, 1.0).row()["method"] == "LFD-style"


LONGEST_HOURS = {"srkd-best": 8.0}
"""Hours of one core for recipes that may take more than the two promised on the page."""


def test_a_preset_is_as_long_as_its_measured_steps_allow() -> None:
    """A change of a measured preset's steps or batch requires a new measurement."""
    table = Result.read(results_folder() / "preset_lengths.json").tables[""]
    rows = {str(row["recipe"]).strip("`"): row for row in table.rows}
    assert rows and rows.keys() <= set(all_recipes())
    for name, row in rows.items():
        rule = load_preset(name).schedule
        assert (row["batch"], row["steps"]) == (f"{rule.batch} of {rule.lr_patch}×{rule.lr_patch}", rule.steps), name
        hours = float(row["hours"] or 0)
        assert hours == pytest.approx(float(row["seconds"] or 0) * rule.steps / 3600), name
        assert hours <= LONGEST_HOURS.get(name, 2.0), name
