"""What every test shares: few threads, so that two workers do not fight over two cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.support.small_runs import save_photos, save_teacher

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output looks the same whoever runs the tests, and wherever."""
    for name in ("FORCE_COLOR", "COLUMNS", "_SRKD_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or fills the cache of whoever runs it."""
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "srkd-cache"))


@pytest.fixture(scope="session")
def tried_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tried")


@pytest.fixture(autouse=True)
def _files_are_tried_once(monkeypatch: pytest.MonkeyPatch, tried_folder: Path) -> None:
    """A file that one test has opened need not be tried in a child process again for the next."""
    monkeypatch.setattr("compressor.runtimes.probing.tried_folder", lambda: tried_folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three small photos to train on."""
    return save_photos(tmp_path / "photos")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """The file of a small EDSR x2 with random weights."""
    return save_teacher(tmp_path / "teacher.safetensors")
