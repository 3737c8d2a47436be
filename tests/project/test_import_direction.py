"""Imports have one direction and no cycles, and a class name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.commands import ROOT, python
from tests.support.packages import SOURCES


def test_the_direction_holds() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = python("-c", program, "--no-cache", cwd=ROOT)
    assert done.code == 0, done.out + done.err
    contracts = (ROOT / "pyproject.toml").read_text().count("[[tool.importlinter.contracts]]")
    assert contracts >= 6 and f"{contracts} kept, 0 broken" in done.out


def names_cuda(path: Path) -> bool:
    """Return whether code of a file, not its docstrings, has a name or a text with CUDA in it."""
    tree = ast.parse(path.read_text())
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = (node for node in ast.walk(tree) if id(node) not in texts)
    named = (getattr(node, key, "") for node in nodes for key in ("value", "attr", "id"))
    return any(isinstance(name, str) and "cuda" in name.lower() for name in named)


def test_the_files_that_name_cuda_are_listed_with_a_reason() -> None:
    page = (ROOT / "docs" / "design" / "house.md").read_text()
    section = page.partition("## What knows a kind of device")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall("`([^`]+)`", row)]
    files = {str(path.relative_to(ROOT)) for path in SOURCES if names_cuda(path)}
    assert {file for file in files if not any(name in file for name in listed)} == set()
    assert [name for name in listed if not any(name in file for file in files)] == []


def imports_of(path: Path) -> set[str]:
    """Return the modules of this project that a file imports anywhere, also in functions and for types."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= submodules & MODULES.keys() or {node.module}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules & MODULES.keys()


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def test_no_import_cycles() -> None:
    """Lazy imports and imports for types count too."""
    graph = {name: imports_of(path) - {name} for name, path in MODULES.items()}
    sorter: TopologicalSorter[str] = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_no_test_imports_another() -> None:
    """Shared helpers live in tests/support."""
    importing = {}
    for path in (ROOT / "tests").rglob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        if others := {name for name in names if name.startswith("tests.") and ".test_" in name}:
            importing[path.name] = others
    assert importing == {}


def test_no_two_modules_define_a_class_of_the_same_name() -> None:
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                files[node.name].append(path)
    assert {name: paths for name, paths in files.items() if len(paths) > 1} == {}
