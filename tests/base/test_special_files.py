"""Pipes and devices instead of files: one line, at once, for every reader."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from compressor.base.errors import SrkdError
from compressor.base.files import read_text
from compressor.images.files import read_picture
from compressor.inference.open import open_model
from compressor.teachers.teacher import load_teacher
from compressor.training.run_files import read_metrics
from compressor.training.state import DamagedState, read_state_file
from export.plan.emit import read_measured
from recipes.config.reading import load_preset
from srkd.record.run_file import read_run_file

pytestmark = pytest.mark.timeout(20)
"""A read that waits for the other end of a pipe waits for ever."""


READERS = [
    ("model.pt", load_teacher),
    ("model.onnx", load_teacher),
    ("model.onnx", open_model),
    ("model.safetensors", open_model),
    ("my.yaml", lambda path: load_preset(str(path))),
    ("photo.png", read_picture),
    ("run.json", lambda path: read_run_file(path.parent)),
    ("metrics.jsonl", lambda path: list(read_metrics(path.parent))),
    ("state.pt", read_state_file),
    ("measured.json", lambda path: read_measured(path, None, "")),
]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_they_are_refused(kind: str, tmp_path: Path) -> None:
    for name, read in READERS:
        path = tmp_path / name
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises((SrkdError, DamagedState), match=rf"{name} is a pipe or a device"):
            read(path)
        path.unlink()


def test_text_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 101)
    assert len(read_text(tmp_path / "long", 101)) == 101
    with pytest.raises(SrkdError, match=r"long has over 100 bytes"):
        read_text(tmp_path / "long", 100)


def test_a_row_of_metrics_without_end_is_read_in_parts(tmp_path: Path) -> None:
    row = b'{"step": 1}\n'
    with open(tmp_path / "metrics.jsonl", "wb") as file:
        file.write(row)
        file.seek(2 * 10**8)
        file.write(b"\n" + row)
    tracemalloc.start()
    assert [row["step"] for _, row in read_metrics(tmp_path)] == [1, 1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 10**7


def test_rows_of_metrics_that_are_none_are_passed_over(tmp_path: Path) -> None:
    rows = [b'{"step": 1, "kind": "train"}', b"\xff\xfe junk", b"[1]", b'{"step": ' + b"9" * 5000 + b"}", b'{"step": 2']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*rows, b"[" * 100_000, b'{"step": 3}']) + b"\n")
    assert [row["step"] for _, row in read_metrics(tmp_path)] == [1, 3]
