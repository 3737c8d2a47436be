"""Packages as pip installs them: a module, and metadata with entry points."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, module: str, program: str, group: str, entry_points: str, package: str = "lab") -> Path:
    """Write a package with these entry points into `site`, and return that folder."""
    facts = site / f"{package}-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / f"{module}.py").write_text(program)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{entry_points}\n")
    return site
