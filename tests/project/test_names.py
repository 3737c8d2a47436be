"""A class name means one thing in the whole product."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.support.commands import ROOT
from tests.support.packages import SOURCES

SHARED: dict[str, str] = {}
"""Class names that several modules may define, each with its reason: one meaning, as of a protocol and its class."""


def modules_by_class(files: list[Path]) -> dict[str, set[str]]:
    """Return the files that define a class of each name at their top level."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in files:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].add(path.name if not path.is_relative_to(ROOT) else str(path.relative_to(ROOT)))
    return found


def doubled(files: list[Path]) -> dict[str, set[str]]:
    return {name: modules for name, modules in modules_by_class(files).items() if len(modules) > 1}


def test_no_two_modules_define_a_class_of_the_same_name() -> None:
    found = doubled(SOURCES)
    assert {name: sorted(modules) for name, modules in found.items() if name not in SHARED} == {}
    assert sorted(set(SHARED) - set(found)) == [], "these names are no longer shared"


def test_a_doubled_name_is_found(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("class Row: ...\n\n\nclass _Plot: ...\n")
    (tmp_path / "c.py").write_text("class Other: ...\n")
    files = sorted(tmp_path.glob("*.py"))
    assert doubled(files) == {"Row": {"a.py", "b.py"}, "_Plot": {"a.py", "b.py"}}
