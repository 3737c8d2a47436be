"""scripts/environment.py, the script behind `make`: which environment it uses, and that --where changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def where(python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    command = [python, str(ROOT / "scripts" / "environment.py"), "--where"]
    return subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=False)


def fake_environment(folder: Path, *, torch: bool) -> Path:
    """Create an environment whose fake Python reports that torch is installed, or not."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexit {0 if torch else 1}\n")
    python.chmod(0o755)
    return folder


def test_without_an_active_environment_it_uses_venv_of_the_clone() -> None:
    assert where().stdout.strip() == str(ROOT / ".venv")


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
@pytest.mark.parametrize("torch", [True, False])
def test_an_active_environment_is_used_if_it_has_torch(tmp_path: Path, variable: str, torch: bool) -> None:
    active = fake_environment(tmp_path / "active", torch=torch)
    assert where(**{variable: str(active)}).stdout.strip() == str(active if torch else ROOT / ".venv")


def test_an_active_environment_that_was_deleted_is_not_used(tmp_path: Path) -> None:
    assert where(VIRTUAL_ENV=str(tmp_path / "gone")).stdout.strip() == str(ROOT / ".venv")


def test_every_target_of_the_makefile_exists() -> None:
    names = [
        "quickstart",
        "test",
        "test-ci",
        "test-all",
        "lint",
        "types",
        "types-all",
        "coverage",
        "format",
        "clean",
        "env",
    ]
    done = subprocess.run(
        ["make", "-n", f"PYTHON={sys.executable}", *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for target in ("lint", "types", "test", "test-ci"):
        assert f"make {target}" in script
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
