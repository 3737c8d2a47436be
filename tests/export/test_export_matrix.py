"""Every network to ONNX at every scale, for any size and for one: compared, with true metadata."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compressor.inference.open import open_model
from compressor.models.networks.registry import NETWORKS, build
from export.formats.conversion import FileOptions
from export.writing.exporting import Source, export_model
from tests.support.networks import tiny

pytestmark = pytest.mark.ci

SCALES = (2, 3, 4)
IN_CI = {("carn", 2, False), ("carn_m", 4, False), ("rcan", 3, False), ("compact", 4, False)}
IN_CI |= {("swinir", 2, False), ("swinir", 2, True)}
"""Network, scale, and whether the file has one size, of the files in CI; `make test-matrix` exports all. One size
changes only graphs with windows; test_export_onnx.py exports EDSR."""

LATER = (pytest.mark.slow, pytest.mark.matrix)
CELLS = [
    pytest.param(arch, scale, fixed, marks=() if (arch, scale, fixed is not None) in IN_CI else LATER)
    for arch in NETWORKS
    for scale in SCALES
    for fixed in (None, (24, 20))
]
HALVES = [pytest.param(arch, format, marks=LATER) for arch in NETWORKS for format in ("fp16", "bf16")]


@pytest.mark.parametrize(("arch", "scale", "fixed"), CELLS)
def test_every_network_to_onnx(arch: str, scale: int, fixed: tuple[int, int] | None, tmp_path: Path) -> None:
    network = build(tiny(arch, scale), seed=scale)
    (file,) = export_model(network, Source(arch), ["onnx"], tmp_path, options=FileOptions(lr_size=fixed)).files
    assert file.verdict == "passed", file.reason
    assert file.parity is not None and file.parity.max_abs <= 1e-5 and file.path is not None
    runtime = open_model(file.path)
    assert runtime.descriptor.fixed_size == fixed and runtime.descriptor.scale == scale
    width, height = fixed or (13, 9)
    lr = torch.rand(2, 3, height, width)
    torch.testing.assert_close(runtime.run(lr), network(lr), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("arch", "format"), HALVES)
def test_every_network_in_half_precision(arch: str, format: str, tmp_path: Path) -> None:
    network = build(tiny(arch, 4), seed=1)
    options = FileOptions(io="uint8")
    (file,) = export_model(network, Source(arch), [format], tmp_path, options=options).files
    assert file.verdict == "passed", file.reason
