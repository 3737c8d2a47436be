"""The folder of published images and golden outputs, for tests that need files outside the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


SHARED = Path(os.environ.get("SRKD_SHARED") or ROOT.parent / "shared")
needs_shared = pytest.mark.skipif(
    not (SHARED / "data").is_dir(),
    reason="no shared test images: set SRKD_SHARED to a folder that holds data/benchmarks, data/reference and golden",
)


def shared() -> Path:
    """Return that folder; only for tests marked `needs_shared`."""
    return SHARED


def benchmarks() -> Path:
    """Return the folder of the benchmark sets; only for tests marked `needs_shared`."""
    return shared() / "data" / "benchmarks"


def golden_of(case: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the facts, inputs and outputs of a golden case; only for tests marked `needs_shared`."""
    folder = shared() / "golden" / case
    arrays = (np.load(folder / f"{part}.npz") for part in ("input", "output"))
    given, made = ({key: torch.from_numpy(file[key]) for key in file} for file in arrays)
    return json.loads((folder / "meta.json").read_text()), given, made
