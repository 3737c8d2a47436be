"""What the tests of int8 files share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from export.int8 import task
from export.int8.calibration import calibration_patches
from export.proof import speed


@pytest.fixture(scope="module")
def quick_int8() -> Iterator[None]:
    """Calibrate int8 files on eight patches and time them for a moment: their best quality and speed do not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "calibration_patches", partial(calibration_patches, count=8))
        patch.setattr(speed, "SECONDS", 0.2)
        yield
