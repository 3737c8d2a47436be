"""The embedded teacher: small enough to ship, and better than bicubic by what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.assets import embedded_teacher
from compressor.checkpoints.load import load_checkpoint
from compressor.data.prepare import DataChoice, prepare_data
from compressor.training.validation import mean_psnr_y
from srkd.api import evaluate
from tests.shared import benchmarks, needs_shared


def test_it_is_fp16_and_at_most_four_megabytes():
    path = embedded_teacher()
    assert path.stat().st_size <= 4_000_000
    spec = load_checkpoint(path).network.spec
    assert (spec.arch, spec.scale, spec.width, spec.depth) == ("edsr", 4, 48, 16)


def test_it_beats_bicubic_on_photographs_it_never_saw():
    images = prepare_data(DataChoice(), scale=4, lr_patch=16).validation
    teacher = mean_psnr_y(load_checkpoint(embedded_teacher()).network, images, 4)
    assert teacher - mean_psnr_y(None, images, 4) > 1.2


@needs_shared
def test_its_gain_on_set5_is_what_the_card_says():
    scores = evaluate([embedded_teacher()], data=benchmarks() / "Set5").models
    gain = scores["teacher"]["Set5"].psnr_y - scores["bicubic"]["Set5"].psnr_y
    assert gain >= 2.3
    card = (Path(embedded_teacher()).parent / "teacher.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| Set5 |"))
    assert float(row.split("|")[4]) == pytest.approx(gain, abs=0.005)
