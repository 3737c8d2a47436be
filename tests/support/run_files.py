"""Contents of run.json for tests that read it and train nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srkd.options.compress import CompressOptions
from srkd.record.run_file import read_run_file

RUN: dict[str, Any] = {
    "schema": "srkd.compress/3",
    "srkd_version": "0.1.0",
    "machine": {"cpu": "a processor", "torch_threads": 1},
    "options": CompressOptions().to_json(),
    "recipe": "logits",
    "preset": {"title": "Logits KD", "source": "a test", "methods": [{"name": "logits"}]},
    "seed": 10,
    "device": "cpu",
    "execution_mode": {"precision": "fp32", "layout": "channels_last"},
    "threads": 1,
    "processes": 1,
    "goal": "original",
    "student": {"arch": "edsr", "scale": 2, "width": 4, "depth": 2},
    "quantisation": None,
    "start": {"init": "random", "select": "leading", "init_from": None},
    "teacher": None,
    "phi": None,
    "teacher_cache": None,
    "label_margin": None,
    "degradation": None,
    "data": {"origin": "photos", "labels": "HR", "used": 3, "digest": "0123", "skipped": {}, "validation": ["a", "b"]},
}
"""A run that has begun."""

RESULT: dict[str, Any] = {
    "run": "runs/small",
    "student_path": "runs/small/student.safetensors",
    "recipe": "logits",
    "steps": 3,
    "seconds": 1.5,
    "protocol": "psnr@y",
    "images_used": 3,
    "images_skipped": {},
    "student": {
        "psnr_y": 30.5,
        "cost": {"params": 2147, "macs": 158072832, "macs_plus": 158072832, "lr_size": [256, 256]},
    },
    "teacher": None,
    "bicubic": {"psnr_y": 28.0, "cost": None},
    "scale": 2,
}
"""The entry `result` of such a run."""


def save_run_file(folder: Path, **entries: Any) -> Path:
    """Write run.json of a run that has begun, with other entries; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**RUN, **entries}), encoding="utf-8")
    return folder


def teacher_entry(path: Path, sha256: str, **options: Any) -> dict[str, Any]:
    return {"path": str(path), "sha256": sha256, "kind": "srkd", "options": options}


def read_json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def change_run_file(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let `change` change the contents of a run.json."""
    contents = read_json(folder)
    change(contents)
    (folder / "run.json").write_text(json.dumps(contents), encoding="utf-8")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_whole(folder: Path, steps: int) -> None:
    """Assert that a run of so many steps has left all its files."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {"run.json", "metrics.jsonl", "log.txt", "comparison.png", "student.safetensors"}
    assert f"checkpoints/state-{steps:08}.pt" in names


def assert_read_as_written(folder: Path) -> None:
    """Assert that reading every run.json in a folder, and writing it again, changes no byte."""
    files = sorted(folder.rglob("run.json"))
    assert files
    for file in files:
        contents = read_run_file(file.parent).to_json()
        assert json.dumps(contents, indent=1) + "\n" == file.read_text(encoding="utf-8"), file
