"""The embedded teacher and student: small enough to ship, and as much better than bicubic as their cards state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.embedded_student import embedded_student
from compressor.assets import embedded_teacher
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.checkpoints.load import load_checkpoint
from compressor.teachers.teacher import load_teacher
from compressor.training.validation import Validation
from srkd import evaluate
from tests.support.shared import benchmarks, needs_shared

CASES = [
    pytest.param(embedded_teacher, 4_000_000, 48, id="teacher"),
    pytest.param(embedded_student, 500_000, 24, id="student"),
]


@pytest.mark.parametrize(("asset", "largest", "width"), CASES)
def test_they_are_fp16_and_small(asset: Callable[[], Path], largest: int, width: int) -> None:
    path = asset()
    assert path.stat().st_size <= largest
    spec = load_checkpoint(path).network.spec
    assert (spec.arch, spec.scale, spec.width, spec.depth) == ("edsr", 4, width, 16)


@pytest.mark.ci
@pytest.mark.parametrize(("asset", "gain"), [(embedded_teacher, 1.2), (embedded_student, 0.8)])
def test_they_beat_bicubic_on_photographs_they_never_saw(asset: Callable[[], Path], gain: float) -> None:
    validation = Validation(prepare_data(DataChoice(), scale=4, lr_patch=16).validation, 4, "original")
    own, bicubic = validation.score(load_checkpoint(asset()).network), validation.reference.bicubic
    assert own.psnr_y is not None and bicubic.psnr_y is not None and own.psnr_y - bicubic.psnr_y > gain


@pytest.mark.ci
@needs_shared
@pytest.mark.parametrize(("asset", "least"), [(embedded_teacher, 2.9), (embedded_student, 2.3)])
def test_their_gain_on_set5_is_what_the_card_says(asset: Callable[[], Path], least: float) -> None:
    path = asset()
    scores = evaluate([path], data=benchmarks() / "Set5").models
    gain = scores[path.stem]["Set5"].psnr_y - scores["bicubic"]["Set5"].psnr_y
    assert gain >= least
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| Set5 |"))
    assert float(row.split("|")[4]) == pytest.approx(gain, abs=0.005)


def test_the_student_names_its_teacher_by_hash() -> None:
    header = load_checkpoint(embedded_student()).header
    assert header["srkd.source_sha256"] == load_teacher(embedded_teacher()).origin.sha256


@pytest.mark.parametrize("asset", [embedded_teacher, embedded_student])
def test_cards_state_bytes_and_parameters(asset: Callable[[], Path]) -> None:
    card = asset().with_suffix(".md").read_text(encoding="utf-8")
    assert f"{asset().stat().st_size:,} bytes" in card
    assert f"{load_checkpoint(asset()).network.params:,} parameters" in card
