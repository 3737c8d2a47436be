"""What tests of exports share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.int8 import task
from export.int8.calibration import calibration_patches
from export.proof import speed


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Network:
    """The network of a file of tests, without gradients: that of its SPEC, otherwise a small EDSR."""
    return build(getattr(request.module, "SPEC", EDSRSpec(width=8, depth=1, scale=2)), seed=0).requires_grad_(False)


@pytest.fixture(scope="module")
def quick_int8() -> Iterator[None]:
    """Calibrate int8 files on eight patches and time them for a moment: their best quality and speed do not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "calibration_patches", partial(calibration_patches, count=8))
        patch.setattr(speed, "SECONDS", 0.2)
        yield
