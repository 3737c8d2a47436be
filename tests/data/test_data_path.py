"""benchmarks.data_path compares equal work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.data_path import PATCH, SCALE, main, write_whole
from benchmarks.evidence import FOLDER_VARIABLE, Result
from benchmarks.field_practice import PngPatches
from compressor.data.batches import Batches
from compressor.data.decode import decode_all
from compressor.images.sets import find_sets


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (240, 260, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def test_both_ways_give_the_same_kind_of_batch(photo, tmp_path):
    folder = write_whole([photo / "a.png"], tmp_path / "whole")
    pairs = find_sets(folder / "HR", scale=SCALE, lr=folder / "LR")[0].pairs
    batch = Batches.for_store(
        decode_all(pairs, scale=SCALE).select(lr_patch=PATCH), batch=2, lr_patch=PATCH, seed=0
    ).at(0)
    lr, hr = PngPatches(folder, scale=SCALE, lr_patch=PATCH, length=2)[0]
    assert (lr.shape, hr.shape) == (batch.lr.shape[1:], batch.hr.shape[1:])
    assert lr.dtype == batch.lr.dtype and 0.9 < float(hr.max()) <= 1 and 0.9 < float(batch.hr.max()) <= 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_benchmark_saves_three_rows_and_how_they_compare(photo, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["data_path", "--data", str(photo), "--rounds", "1", "--batches", "1"])
    assert main() == 0
    table = Result.read(tmp_path / "data_path.json").tables[""]
    assert "1 turns" in table.caption and "thread(s)" in table.caption
    assert [row["way"] for row in table.rows] == ["srkd", "2 workers, PNG, whole", "2 workers, PNG, 480x480"]
    ratios = [row["srkd"] for row in table.rows]
    assert ratios[0] is None and min(ratios[1:]) > 1
    assert all(row["rate"] == pytest.approx(1e3 / row["ms"]) for row in table.rows)
