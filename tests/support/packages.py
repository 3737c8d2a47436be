"""The product's own packages, and others as pip installs them: a module, and metadata with entry points."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.commands import ROOT

PACKAGES = ("compressor", "recipes", "export", "demo", "srkd")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def names_in(path: Path) -> tuple[set[object], set[str]]:
    """Return the constants of a file, and the modules that it imports from."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return texts, {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def install(site: Path, module: str, program: str, group: str, entry_points: str, package: str = "lab") -> Path:
    """Write a package with these entry points into `site`, and return that folder."""
    facts = site / f"{package}-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / f"{module}.py").write_text(program)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{entry_points}\n")
    return site
