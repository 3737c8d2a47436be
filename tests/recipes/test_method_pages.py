"""docs/methods has a page a method: what it is, when to use it, what it costs, every option, our result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.equal_budget import SETS
from benchmarks.method_costs import Cost
from benchmarks.methods_compared import CALLED, all_contenders, all_methods, ranking
from recipes.catalogue import METHODS, catalogue, preset_names
from recipes.config.options import options_model
from recipes.config.reading import load_preset

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
TITLES = {"lfd": "LFD-style", "facd": "FACD-style", "clsd": "CLSD-style"}
"""What methods whose sources leave choices to us are called wherever a user meets them."""


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_page_says_all_that_a_reader_wants(method: str) -> None:
    page = (PAGES / f"{method}.md").read_text(encoding="utf-8")
    assert page.startswith("# " + TITLES.get(method, ""))
    for what in (r"\bWhen\b", r"\b[Cc]osts?\b", r"\b(Ours|Our result|Results)\b", r"results\.md", r"three seeds"):
        assert re.search(what, page), what
    for option in options_model(catalogue().method(method)).model_fields:
        assert f"`{option}`" in page, option


@pytest.mark.parametrize("method", sorted(TITLES))
def test_a_reconstructed_method_is_called_so(method: str) -> None:
    for name in (method, f"{method}-paper"):
        assert load_preset(name).title.startswith(TITLES[method])


SPANS = re.compile(r"`[^`]*`|\]\([^)]*\)|^ {4,}.*$|^--.*$", re.MULTILINE)
"""Code, addresses of links and commands, where a method goes by its recipe's name."""


def bare_names(text: str) -> list[str]:
    """Where a reconstructed method has its paper's name alone.

    A possessive is the authors' own work (CLSD's table, FACD's abstract), a name in quotation marks a row's of theirs.
    """
    words = SPANS.sub(" ", text)
    return re.findall(r"(?<![\w\"'-])(?:CLSD|FACD|LFD|clsd|facd|lfd)(?!-style|'s|[\w\"'])", words)


def test_a_bare_name_is_found_and_a_possessive_is_the_papers() -> None:
    assert (
        bare_names('FACD\'s gate, CLSD-style, `lfd`, [LFD-style](lfd.md), rows "LFD"\n\n    srkd --recipe clsd\n') == []
    )
    assert bare_names("[FACD](facd.md) and CLSD learn; | lfd | 1 |; clsd-like") == ["FACD", "CLSD", "lfd", "clsd"]


ROOT = PAGES.parent.parent
TOLD = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", TOLD, ids=lambda page: page.name)
def test_no_page_calls_a_reconstructed_method_by_its_papers_name(page: Path) -> None:
    assert bare_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", preset_names())
def test_no_recipe_does(name: str) -> None:
    preset = load_preset(name)
    assert bare_names(f"{preset.title}; {preset.source}") == []


def test_benchmarks_print_the_same_names() -> None:
    assert TITLES == CALLED
    rows = {one.name: one.called for one in all_contenders(all_methods(), [])}
    assert {name: called for name, called in rows.items() if name != called} == TITLES
    scores = {"clsd": [dict.fromkeys(SETS, 30.0)], "csd": [dict.fromkeys(SETS, 29.0)]}
    lines = "\n".join(ranking(scores))
    assert "- published csd above CLSD's; here CLSD-style: gain over csd: " in lines and bare_names(lines) == []
    assert Cost("lfd", 1.0, 1.0, 1.0).row().startswith("| LFD-style | ")
