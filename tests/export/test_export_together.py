"""All formats in one folder: each file is still the compared one, and opens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import srkd
from compressor.inference.open import find_source_checkpoint, open_model
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from export.formats.table import FORMATS

pytestmark = pytest.mark.extras


SLOW = ("litert-int8",)
"""Formats whose export tries several mixtures of precisions: it takes most of the time."""
ONE_SIZE = ("coreml-fp16", "qnn-w8a8", "qnn-w8a16")
"""Formats that need --static, which this export has not."""


@pytest.mark.parametrize(
    ("order", "left_out"),
    [
        pytest.param(1, SLOW, id="but for one, as in the table"),
        pytest.param(1, (), id="as in the table", marks=pytest.mark.slow),
        pytest.param(-1, (), id="the other way", marks=pytest.mark.slow),
    ],
)
def test_every_file_of_one_folder_opens_and_is_the_network(
    tmp_path: Path, order: int, left_out: tuple[str, ...]
) -> None:
    left_out += ONE_SIZE
    rows = [row for row in FORMATS.values() if row.missing_requirement() is None and row.name not in left_out][::order]
    if len(rows) < 5:
        pytest.skip("hardly any optional library is installed: make extras")
    network = build(CompactSpec(width=8, depth=1, scale=2), seed=0).requires_grad_(False)  # shaders hold no EDSR
    checkpoint = tmp_path / "small.safetensors"
    save_network(network, checkpoint)
    report = srkd.export(checkpoint, formats=[row.name for row in rows])
    assert report.ok, [file.reason for file in report.files]
    lr = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    for row, file in zip(rows, report.files, strict=True):
        assert file.path is not None and find_source_checkpoint(file.path) == checkpoint
        if row.cannot_run_here() is None:
            expected = network(lr).clamp(0, 1) if row.bounds.clipped else network(lr)
            difference = (open_model(file.path).run(lr) - expected).abs().max()
            assert difference <= (row.bounds.max_abs_elsewhere or row.bounds.max_abs), row.name
        assert srkd.inspect(file.path).spec == network.spec.to_dict()
