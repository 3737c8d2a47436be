"""What tests of exports share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import pytest

from compressor.base.context import Context
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.int8 import task
from export.int8.calibration import calibration_patches
from export.proof import speed
from export.writing.exporting import FileReport
from tests.support.exports import export_file


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Network:
    """The network of a file of tests: that of its SPEC, otherwise a small EDSR."""
    return build(getattr(request.module, "SPEC", EDSRSpec(width=8, depth=1, scale=2)), seed=0)


@contextmanager
def quickly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "calibration_patches", partial(calibration_patches, count=8))
        patch.setattr(speed, "SECONDS", 0.2)
        yield


@pytest.fixture(scope="module")
def quick_int8() -> Iterator[None]:
    """Calibrate int8 files on eight patches and time them for a moment: their best quality and speed do not matter."""
    with quickly():
        yield


@pytest.fixture(scope="session")
def small_edsr() -> Network:
    return build(EDSRSpec(width=8, depth=1, scale=4), seed=0)


@pytest.fixture(scope="session")
def int8_file(
    small_edsr: Network, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[FileReport, list[str]]]:
    """Return a function that exports `small_edsr` to an int8 format, once for all tests; it returns the notes, too."""

    @cache
    def export(name: str) -> tuple[FileReport, list[str]]:
        notes: list[str] = []
        with quickly():
            file = export_file(small_edsr, name, tmp_path_factory.mktemp(name), context=Context(note=notes.append))
        assert file.verdict == "passed" and file.path is not None, file.reason
        return file, notes

    return export
