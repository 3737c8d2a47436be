"""The code on the pages that extend srkd is that of the examples, which other tests install and run."""

from __future__ import annotations

import re

from tests.support.commands import ROOT

BLOCK = re.compile(r"^`(tests/example_[\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ("write-a-method", "add-a-network", "add-a-format")
EXAMPLES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ROOT.glob("tests/example_*")
    for path in folder.rglob("*")
    if path.suffix in (".py", ".toml", ".yaml")
}


def test_each_example_is_shown_as_it_is() -> None:
    pages = [(ROOT / "docs" / "extend" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES]
    shown = {path: code for page in pages for path, code in BLOCK.findall(page)}
    assert shown == EXAMPLES
