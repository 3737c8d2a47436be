"""docs/methods has a page a method: what it is, when to use it, what it costs, every option, our result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipes.catalogue import METHODS, catalogue
from recipes.loading import load_preset
from recipes.options import options_of

PAGES = Path(__file__).parent.parent / "docs" / "methods"
TITLES = {"lfd": "LFD-style", "facd": "FACD-style", "clsd": "CLSD-style"}
"""What methods whose sources leave choices to us are called wherever a user meets them."""


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_page_says_all_that_a_reader_wants(method: str) -> None:
    page = (PAGES / f"{method}.md").read_text(encoding="utf-8")
    assert page.startswith("# " + TITLES.get(method, ""))
    for what in (r"\bWhen\b", r"\b[Cc]osts?\b", r"\b(Ours|Our result|Results)\b", r"results\.md", r"three seeds"):
        assert re.search(what, page), what
    for option in options_of(catalogue().method(method)).model_fields:
        assert f"`{option}`" in page, option


@pytest.mark.parametrize("method", sorted(TITLES))
def test_a_reconstructed_method_is_called_so(method: str) -> None:
    for name in (method, f"{method}-paper"):
        assert load_preset(name).title.startswith(TITLES[method])
