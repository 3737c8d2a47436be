"""ExecuTorch: the largest size of a file, and files of one size; test_formats.py has what holds for all formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compressor.base.errors import UsageError
from compressor.inference.open import open_model
from compressor.inference.super_resolve import super_resolve
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.executorch_runtime import ExecuTorchRuntime
from compressor.runtimes.table import OpenOptions
from export.convert.to_executorch import SIDE_RANGE, max_side
from tests.support.exports import export_file
from tests.support.extras import extra

extra("executorch")
pytestmark = pytest.mark.extras

COMPACT = CompactSpec(width=8, depth=1, scale=2)
SWINIR = SwinIRSpec(width=4, depths=(2,), heads=(2,), window=4, scale=2, features=4)


@pytest.fixture(scope="module")
def network() -> Network:
    return build(COMPACT, seed=0)


@pytest.fixture(scope="module")
def good(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = export_file(network, "executorch", tmp_path_factory.mktemp("good"))
    assert file.verdict == "passed" and file.path is not None, file.reason
    assert file.facts["max_size"] == "512x512"
    return file.path


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    """A copy of the program and its sidecar that a test may damage."""
    for part in good.parent.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    return tmp_path / good.name


def test_threads_are_those_that_were_asked_for(good: Path) -> None:
    runtime = open_model(good, OpenOptions(threads=1))
    assert isinstance(runtime, ExecuTorchRuntime) and runtime.threads == 1


def test_pictures_beyond_the_bound_are_cut(good: Path, copied: Path, network: Network) -> None:
    with pytest.raises(UsageError, match="at most 512x512, got 513x8"):
        open_model(good).run(torch.rand(1, 3, 8, 513))
    sidecar = copied.with_name(copied.name + ".json")
    message = json.loads(sidecar.read_text())
    message["facts"]["max_size"] = "24x24"
    sidecar.write_text(json.dumps(message))
    lr = torch.rand(1, 3, 50, 40)
    tiled = super_resolve(open_model(copied), lr, tile=0)
    assert tiled.tile is not None and tiled.seam is None
    with torch.no_grad():
        torch.testing.assert_close(tiled.sr, network(lr), atol=1e-5, rtol=0)


def test_the_bound_follows_from_the_width() -> None:
    sides = [max_side(build(EDSRSpec(4, width=width, depth=1), seed=0)) for width in (8, 32, 64, 256)]
    assert sides == sorted(sides, reverse=True) and sides[0] == SIDE_RANGE[1] and sides[-1] == SIDE_RANGE[0]
    assert sides[1] == 256, "4 KB a pixel: 32·4 channels at twice the size, before and after the shuffle"
