"""What a stranger takes first: one version everywhere, a notebook that runs, a container whose steps are pip's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srkd import __version__
from tests.support.commands import ROOT, python


def test_one_version_stands_everywhere() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == __version__


def test_the_container_installs_torch_first_and_srkd_from_its_sources() -> None:
    steps = [line for line in (ROOT / "Containerfile").read_text().splitlines() if line.startswith("RUN")]
    assert len(steps) == 1 and steps[0].index('"$TORCH_INDEX" torch') < steps[0].index('"/src$EXTRAS"')
    assert {".git", ".venv", "build", "runs"} <= set((ROOT / ".dockerignore").read_text().split())


@pytest.mark.ci
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "notebooks" / "first_student.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    done = python("-c", "\n".join(code), cwd=tmp_path, timeout=1500)
    assert done.code == 0, done.err
    assert done.out.startswith("student ") and "run in onnxruntime" in done.out
