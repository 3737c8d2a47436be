"""What every test shares: few threads, so that two workers do not fight over two cores."""

from __future__ import annotations

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output looks the same whoever runs the tests, and wherever."""
    for name in ("FORCE_COLOR", "COLUMNS", "_SRKD_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
