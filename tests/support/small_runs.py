"""The smallest meaningful run of `srkd compress`: three photos, an EDSR teacher, patches of 8×8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build

SMALL = ("schedule.batch=2", "schedule.lr_patch=8")
SET_SMALL = tuple(word for setting in SMALL for word in ("--set", setting))
TWO_SEEDS: dict[str, Any] = {"settings": SMALL, "threads": 1, "goal": "original", "width": 0.5, "steps": 2, "seeds": 2}
TEACHER = EDSRSpec(scale=2, width=8, depth=4)


def save_photos(folder: Path, times: int = 1) -> Path:
    """Write three smooth photos of 40×48, or so many times as large; return the folder."""
    folder.mkdir(parents=True)
    for index in range(3):
        ramp = np.linspace(0, 255, 48 * times)[:, None, None]
        along = ramp * np.ones((1, 40 * times, 3)) * [1, 0.5 + index / 6, 0.3]
        Image.fromarray(along.astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def save_teacher(path: Path) -> Path:
    save_network(build(TEACHER, seed=1), path, metadata={})
    return path
