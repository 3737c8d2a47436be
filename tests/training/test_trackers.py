"""Trackers of a run: TensorBoard's files, and Weights & Biases with a double of wandb or the real one."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

import srkd
from compressor.base.errors import MissingExtra, SrkdError, UsageError
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.checkpoints.load import load_checkpoint
from compressor.training.run_folder import RunFolder
from compressor.training.trackers import WANDB_FILE
from compressor.training.validation import enlarge, middle_of
from srkd.cli.main import run
from tests.support.run_files import read_metrics
from tests.support.small_runs import SMALL


class WandbRun:
    """The interface of a wandb run that srkd uses."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.rows, self.exit_code = settings, [], None
        self.offline, self.url = False, f"https://wandb.test/{settings['id']}"
        self.step_metric: str | None = None
        self.broken = False

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert name == "*"
        self.step_metric = step_metric

    def log(self, row: dict[str, float]) -> None:
        if self.broken:
            raise RuntimeError("first line\nthe service is gone")
        self.rows.append(row)

    def finish(self, *, exit_code: int) -> None:
        assert self.exit_code is None
        self.exit_code = exit_code


@pytest.fixture
def wandb_runs(monkeypatch: pytest.MonkeyPatch) -> list[WandbRun]:
    """Install a double of wandb, and return the list of started runs."""
    runs: list[WandbRun] = []

    def init(**settings: Any) -> WandbRun:
        runs.append(WandbRun(**settings))
        return runs[-1]

    module = ModuleType("wandb")
    module.init, module.Settings, module.Image = init, SimpleNamespace, lambda image: image  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return runs


def read_events(folder: Path) -> list[Any]:
    """The records of the only event file: length and its checksum (12 bytes), the event, its checksum (4)."""
    (path,) = folder.glob("events.out.tfevents.*")
    content, events = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


def test_a_run_sends_its_numbers_and_no_path(
    wandb_runs: list[WandbRun], teacher: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = f"--teacher {teacher} --data {photos} --out {folder} --steps 3 --init inherit --track tensorboard,wandb"
    assert run(["compress", *words.split(), "--track-images", "1", *(f"--set={text}" for text in SMALL)]) == 0
    (wandb_run,) = wandb_runs
    rows = read_metrics(folder)
    *numbers, pictures = wandb_run.rows
    assert [row["step"] for row in numbers] == [row["step"] for row in rows]
    assert numbers[0]["train/loss"] == rows[0]["loss"] and wandb_run.step_metric == "step"
    assert numbers[-1]["validation/student_psnr_y"] == rows[-1]["student_psnr_y"]
    name = "embedded photos/astronaut"
    assert pictures.keys() == {"step", *(f"{name}/{title}" for title in ("student", "bicubic", "teacher", "original"))}
    # TensorBoard's file holds the same pictures, and the last one is the student's.
    shown = [value for event in read_events(folder) for value in event.summary.value if value.HasField("image")]
    assert {value.tag for value in shown} == pictures.keys() - {"step"}
    (student,) = [value.image.encoded_image_string for value in shown if value.tag == f"{name}/student"]
    astronaut = prepare_data(DataChoice(), scale=2, lr_patch=8).validation[0].images[0].lr
    expected = middle_of(enlarge(load_checkpoint(folder).network, astronaut, 2))[0].permute(1, 2, 0).numpy()
    difference = np.abs(np.asarray(Image.open(io.BytesIO(student))).astype(int) - expected.astype(int))
    assert difference.max() <= 1 and np.asarray(pictures[f"{name}/student"]).shape == expected.shape
    assert wandb_run.exit_code == 0 and wandb_run.settings["project"] == "srkd" and wandb_run.settings["name"] == "run"
    config = wandb_run.settings["config"]
    assert config["recipe"] == "logits" and str(tmp_path) not in json.dumps(config)
    settings = wandb_run.settings["settings"]
    assert (settings.console, settings.disable_git, settings.disable_code) == ("off", True, True)
    lines = capsys.readouterr().out.splitlines()
    for line in (f"curves: srkd plot {folder}", f"or: tensorboard --logdir {folder}", f"or: {wandb_run.url}"):
        assert line in lines[-6:]


def test_a_resumed_run_goes_on_with_its_curves(
    wandb_runs: list[WandbRun], teacher: Path, photos: Path, tmp_path: Path
) -> None:
    def stop(title: str, done: int, total: int) -> None:
        if title == "training" and done == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        srkd.compress(teacher, data=photos, steps=3, out=folder, settings=SMALL, track=("wandb",), progress=stop)
    srkd.resume(folder)
    first, second = wandb_runs
    assert not any("/student" in key and "psnr" not in key and "ssim" not in key for row in second.rows for key in row)
    assert first.settings["id"] == second.settings["id"] == json.loads((folder / WANDB_FILE).read_text())["id"]
    assert (first.exit_code, second.exit_code) == (1, 0) and second.settings["resume"] == "allow"
    assert not list(folder.glob("events.*"))


def test_a_service_that_ends_does_not_end_the_run(wandb_runs: list[WandbRun], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", trackers=("wandb",))
    with folder.tracking():
        folder.write_facts({"recipe": "logits", "teacher": {"path": "/secret"}})
        wandb_runs[0].broken = True
        for step in (1, 2):
            folder.metrics("train", step, {"loss": 0.5})
    assert len(read_metrics(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "log.txt").read_text() == (
        "step 1: Weights & Biases takes no more numbers: the service is gone\n"
    )


def test_what_cannot_begin_is_one_line_before_anything_else(
    wandb_runs: list[WandbRun], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**settings: Any) -> WandbRun:
        raise RuntimeError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(SrkdError, match=r"--track wandb: .*: No API key"):
        RunFolder(tmp_path / "run", trackers=("wandb",)).write_facts({})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"pip install 'srkd\[wandb\]'"):
        srkd.compress(data=tmp_path / "nowhere", out=tmp_path / "other", track="wandb")
    with pytest.raises(UsageError, match=r"--track.*'board'"):
        srkd.compress(out=tmp_path / "other", track=["board"])  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


@pytest.mark.extras
def test_wandb_itself_takes_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for resumed in (False, True):
        folder = RunFolder(tmp_path / "run", resumed=resumed, trackers=("wandb",))
        with folder.tracking():
            folder.write_facts({"recipe": "logits"})
            folder.metrics("train", 1, {"loss": 0.5})
    assert json.loads((tmp_path / "run" / WANDB_FILE).read_text())["url"] is None
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) >= 1
    assert not (tmp_path / "run" / "log.txt").exists()


@pytest.mark.extras
def test_tensorboard_itself_reads_a_run(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = RunFolder(tmp_path / "run")
    for step in (1, 2):
        folder.metrics("train", step, {"loss": step / 2})
    events = accumulators.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 1.0)]
