"""The embedded teacher: small enough to ship, and as much better than bicubic as its card states."""

from __future__ import annotations

import pytest

from compressor.assets import embedded_teacher
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.checkpoints.load import load_checkpoint
from compressor.training.validation import Validation
from srkd import evaluate
from tests.support.shared import benchmarks, needs_shared


def test_it_is_small_and_its_card_states_bytes_and_parameters() -> None:
    path = embedded_teacher()
    assert path.stat().st_size <= 4_000_000
    network = load_checkpoint(path).network
    assert (network.spec.arch, network.spec.scale, network.spec.width, network.spec.depth) == ("edsr", 4, 48, 16)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{path.stat().st_size:,} bytes" in card and f"{network.params:,} parameters" in card


@pytest.mark.ci
def test_it_beats_bicubic_on_photographs_it_never_saw() -> None:
    validation = Validation(prepare_data(DataChoice(), scale=4, lr_patch=16).validation, 4, "original")
    own, bicubic = validation.score(load_checkpoint(embedded_teacher()).network), validation.reference.bicubic
    assert own.psnr_y is not None and bicubic.psnr_y is not None and own.psnr_y - bicubic.psnr_y > 1.2


@pytest.mark.ci
@needs_shared
def test_its_gain_on_set5_is_what_the_card_says() -> None:
    path = embedded_teacher()
    scores = evaluate([path], data=benchmarks() / "Set5").models
    gain = scores[path.stem]["Set5"].psnr_y - scores["bicubic"]["Set5"].psnr_y
    assert gain >= 2.9
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| Set5 |"))
    assert float(row.split("|")[4]) == pytest.approx(gain, abs=0.005)
