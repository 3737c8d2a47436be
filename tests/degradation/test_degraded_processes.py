"""A degraded run is the same run after a stop, and with its batch shared by two processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compressor.base.context import Progress, no_progress
from compressor.base.interrupts import Interrupted
from srkd import compress, resume
from tests.support.run_files import read_json
from tests.support.small_runs import save_photos, save_teacher
from tests.support.torchrun import run_torchrun

STEPS = "blur=0..1,noise=2..8,jpeg=40..80"
SETTINGS = ("schedule.batch=4", "schedule.lr_patch=8", "schedule.validate_every=3")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("degraded")
    save_photos(folder / "photos")
    save_teacher(folder / "teacher.safetensors")
    train(folder, folder / "whole")
    return folder


def train(inputs: Path, out: Path, progress: Progress = no_progress) -> None:
    options = {"data": inputs / "photos", "steps": 6, "degrade": STEPS, "settings": SETTINGS, "init": "inherit"}
    compress(inputs / "teacher.safetensors", out=out, progress=progress, **options)


def test_a_stop_in_the_middle_changes_no_byte(inputs: Path, tmp_path: Path) -> None:
    def preempted(title: str, done: int, total: int) -> None:
        if title == "training" and done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="saved at step 4 of 6"):
        train(inputs, run, preempted)
    resume(run)
    for name in ("student.safetensors", "metrics.jsonl"):
        assert (run / name).read_bytes() == (inputs / "whole" / name).read_bytes()


@pytest.mark.ci
def test_two_processes_train_the_same_student(inputs: Path, tmp_path: Path) -> None:
    words = ["compress", "--teacher", str(inputs / "teacher.safetensors"), "--data", str(inputs / "photos")]
    words += ["--steps", "6", "--degrade", STEPS, "--init", "inherit", "--out", str(tmp_path / "two")]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    run_torchrun("-m", "srkd", *words)
    one, two = (load_file(folder / "student.safetensors") for folder in (inputs / "whole", tmp_path / "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4)
    results = [read_json(folder)["result"]["student"]["psnr_y"] for folder in (inputs / "whole", tmp_path / "two")]
    assert results[0] == pytest.approx(results[1], abs=1e-3)


@pytest.mark.ci
def test_of_two_processes_one_measures_what_images_suffer(inputs: Path, tmp_path: Path) -> None:
    program, measured = tmp_path / "counts.py", tmp_path / "measured"
    program.write_text(
        "from compressor.degradation import like\n"
        "from srkd.cli.main import main\n"
        "def counted(folder, option, context):\n"
        f"    open({str(measured)!r}, 'a').write('once ')\n"
        f"    return {STEPS!r}, 3\n"
        "like.measure_like = counted\n"
        "main()\n"
    )
    words = ["--teacher", str(inputs / "teacher.safetensors"), "--data", str(inputs / "photos"), "--steps", "1"]
    words += ["--degrade", f"like:{inputs / 'photos'}", "--init", "inherit", "--out", str(tmp_path / "two")]
    run_torchrun(str(program), "compress", *words, *(f"--set={setting}" for setting in SETTINGS))
    assert measured.read_text() == "once "
    assert read_json(tmp_path / "two")["options"]["degrade"] == STEPS
