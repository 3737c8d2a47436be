"""Fixtures of the training loop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.run_files import change_run_file


@pytest.fixture
def unfinished(whole: Path, tmp_path: Path) -> Path:
    """Return a run folder as left by a process that was killed at the end."""
    run = shutil.copytree(whole, tmp_path / "run")
    change_run_file(run, lambda facts: facts.pop("result"))
    return run
