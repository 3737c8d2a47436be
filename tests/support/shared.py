"""The folder of published images and golden outputs, for the tests that need more than the repository holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def shared_dir() -> Path | None:
    """$SRKD_SHARED, or the folder `shared` beside the checkout; None where there is neither."""
    named = os.environ.get("SRKD_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    return folder if (folder / "data").is_dir() else None


needs_shared = pytest.mark.skipif(
    shared_dir() is None,
    reason="no shared test images: set SRKD_SHARED to a folder that holds data/benchmarks, data/reference and golden",
)


def benchmarks() -> Path:
    """The benchmark sets; only for tests marked `needs_shared`."""
    found = shared_dir()
    assert found is not None
    return found / "data" / "benchmarks"
