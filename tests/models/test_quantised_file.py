"""Facts in 8-bit files, written by srkd or by others."""

from __future__ import annotations

import json

from compressor.models.quantisation.description import Quantisation
from compressor.models.quantisation.file_facts import QuantisedFile, read_quantised_file, read_training

OURS = {
    "bits": 8,
    "calibration": "32 patches of photos",
    "drop_db": 0.0322,
    "flavour": "cpu",
    "float_layers": [],
    "in_float": "sums",
    "photos": 2,
    "precision": "int8",
    "psnr_to_source_db": 48.1,
    "solved_weights": False,
    "weight_bits": 7,
}


def keys(value: object) -> dict[str, str]:
    return {"srkd.quant": value if isinstance(value, str) else json.dumps(value)}


def test_a_file_of_ours_says_everything() -> None:
    file = read_quantised_file(keys(OURS))
    assert file == QuantisedFile(
        flavour="cpu",
        calibration="32 patches of photos",
        weight_bits=7,
        in_float="sums",
        drop_db=0.0322,
        psnr_to_source_db=48.1,
        photos=2,
    )
    assert file.line() == "int8 for cpu, -0.032 dB of Y-PSNR on 2 photos, calibrated on 32 patches of photos"
    learnt = read_quantised_file(keys({"flavour": "cpu", "method": "pams", "calibration": "learnt in training"}))
    assert learnt is not None and learnt.line() == "int8 for cpu, learnt in training by pams"


def test_anything_else_is_no_int8_file() -> None:
    for value in ("", "not JSON", "[" * 100_000, "[1]", {}, {"flavour": 3}, {"flavour": "a\nb"}, {"flavour": None}):
        assert read_quantised_file(keys(value)) is None
    assert read_quantised_file({}) is None


def test_a_loss_that_is_no_number_is_unknown() -> None:
    for drop in ("much", True, [], None, float("nan"), float("inf"), 10**400):
        file = read_quantised_file(keys({"flavour": "cpu", "drop_db": drop, "photos": "two", "calibration": 1}))
        assert file == QuantisedFile(flavour="cpu")


def test_a_float_file_of_a_network_trained_quantised_says_how_it_was_trained() -> None:
    quantisation = Quantisation("pact", 4, "all")
    assert read_training(keys(quantisation.to_json())) == quantisation
    assert read_quantised_file(keys(quantisation.to_json())) is None
    assert read_training(keys(OURS)) is None
    assert read_training({}) is None
