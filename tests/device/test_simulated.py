"""What srkd does on a simulated accelerator, and what crosses to and from it: `make test-device`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import srkd
from benchmarks.gpu_evidence import main as gather_evidence
from compressor.base.context import QUIET
from compressor.base.errors import SrkdError
from compressor.training.loop import Events
from compressor.training.losses import Losses
from compressor.training.state import State
from srkd.runs.opened import take_steps
from srkd.runs.run import TrainingRun
from tests.support.commands import srkd as command
from tests.support.small_runs import SET_SMALL, SMALL

DEVICE = os.environ.get("SRKD_TEST_DEVICE", "cpu")
pytestmark = pytest.mark.skipif(not DEVICE.startswith("sim"), reason="make test-device runs them")

CROSSINGS = {"dukd": (3, 1), "dckd": (3, 1), "calm": (2, 1), "pams": (1, 2), "pact": (1, 2), "srkd-best": (2, 2)}
"""Copies of a step to the device and to the host, of recipes that draw or measure something besides the batch."""
RECIPES = (
    *("calm", "clsd", "csd", "csd-lite", "dckd", "ds", "dukd", "facd", "fakd", "fit", "hkdsr", "inherit", "lfd"),
    *("logits", "pact", "pams", "perceptual", "scratch", "srkd-best"),
)
SOLVED_AS_FIT = ("calm", "clsd", "csd-lite", "dckd", "ds", "dukd", "facd", "fakd", "hkdsr", "lfd", "logits")
OF_PHI = ("csd", "csd-lite", "clsd", "dckd")


def counts() -> Any:
    import simulated

    return simulated.counts


def settings_of(recipe: str) -> tuple[str, ...]:
    return SMALL + ((f"{recipe}.phi=teacher",) if recipe in OF_PHI else ())


def test_tensors_do_not_mix_and_copies_are_counted() -> None:
    counts().clear()
    there = torch.arange(6.0).to(DEVICE).view(2, 3)
    view = there[:, 1:]
    view.mul_(2)  # changes the tensor that it is a view of
    assert there.cpu().tolist() == [[0, 2, 4], [3, 8, 10]] and (counts()["to_device"], counts()["to_host"]) == (1, 1)
    for mixed in (lambda: there + torch.ones(2, 3), lambda: torch.cat([there, torch.ones(2, 3)])):
        with pytest.raises(RuntimeError, match=r"same device|all tensors on sim"):
            mixed()
    with pytest.raises(TypeError, match="sim"):
        there.numpy()


class Crossings(Events):
    """What each step copies."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []

    def after_step(self, done: int, state: State) -> None:
        seen = counts()
        self.steps.append((seen["to_device"], seen["to_host"], seen["waits"]))
        seen.clear()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_copies_its_batch_and_its_numbers_alone(
    recipe: str, tmp_path: Path, teacher: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossings, train = Crossings(), TrainingRun.train

    def counted(self: TrainingRun) -> Any:
        take_steps(self.run, 4, crossings, QUIET)
        return train(self)

    monkeypatch.setattr(TrainingRun, "train", counted)
    words: dict[str, Any] = {"settings": settings_of(recipe), "data": photos, "device": DEVICE, "out": tmp_path / "run"}
    init = "random" if recipe in SOLVED_AS_FIT else None
    report = srkd.compress(teacher, recipe=recipe, init=init, width=0.5, steps=6, **words)
    assert report.student.psnr_y > 5
    expected = CROSSINGS.get(recipe, (1, 1))
    assert crossings.steps[3] == (*expected, 0)
    for to_device, to_host, waits in crossings.steps[3::4]:  # of each stage
        assert to_device <= expected[0] and to_host <= expected[1] and not waits
    assert all(to_host <= expected[1] + 1 for _, to_host, _ in crossings.steps[1::4]), "of calibrated weights"


def test_the_numbers_of_a_logged_step_are_copied_together() -> None:
    losses = Losses({name: torch.ones((), device=DEVICE) for name in "abc"}, dict.fromkeys("abc", 1.0))
    counts().clear()
    assert losses.numbers()["loss"] == 3 and (counts()["to_device"], counts()["to_host"]) == (0, 1)


@pytest.mark.parametrize(("first", "second"), [(DEVICE, "cpu"), ("cpu", DEVICE)])
def test_a_run_goes_on_on_another_device(first: str, second: str, tmp_path: Path, teacher: Path, photos: Path) -> None:
    words: dict[str, Any] = {"recipe": "logits", "width": 0.5, "settings": SMALL, "data": photos, "steps": 6}
    whole = srkd.compress(teacher, device="cpu", out=tmp_path / "whole", **words)

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(SrkdError, match="interrupted"):
        srkd.compress(teacher, device=first, out=tmp_path / "run", progress=stop, **words)
    facts = tmp_path / "run" / "run.json"
    facts.write_text(facts.read_text().replace(f'"device": "{first}"', f'"device": "{second}"'))
    report = srkd.resume(tmp_path / "run")
    assert report.student.psnr_y == pytest.approx(whole.student.psnr_y, abs=0.01)


def test_what_a_student_gives_there_is_what_it_gives_on_a_cpu(tmp_path: Path, teacher: Path, photos: Path) -> None:
    words: dict[str, Any] = {"data": photos, "degrade": "jpeg=60..90,blur=0..1", "teacher_cache": True, "seeds": 2}
    srkd.compress(teacher, width=0.5, steps=2, settings=SMALL, device=DEVICE, jobs=2, out=tmp_path / "runs", **words)
    student = next(tmp_path.glob("runs/*/student.safetensors"))
    scores, pictures = [], []
    for device in (DEVICE, "cpu"):
        scored = srkd.evaluate(student, data=photos, device=device, degrade="noise=0..10", threads=1)
        scores.append([score["psnr_y"] for name in scored.numbers for score in scored.models[name].values()])
        out = tmp_path / f"{device}.png"
        srkd.upscale(student, photos / "0.png", out=out, device=device)
        pictures.append(np.asarray(Image.open(out), dtype=int))
    assert scores[0] == pytest.approx(scores[1], abs=0.01) and abs(pictures[0] - pictures[1]).max() <= 1
    profile = srkd.profile(student, teacher=teacher, device=DEVICE, lr_size="16x16", seconds=0.1, quality=False)
    assert any(row.device.startswith("sim") for row in profile.rows)


def test_command_lines_work_there(tmp_path: Path, teacher: Path, photos: Path) -> None:
    words = ("compress", "--teacher", teacher, "--recipe", "scratch", "--width", 0.5, "--steps", 2, *SET_SMALL)
    begun = command(*words, "--data", photos, "--device", DEVICE, "--out", tmp_path / "run")
    assert begun.code == 0, begun.err
    other = command(*words, "--data", photos, "--device", "sim:3", "--out", tmp_path / "other")
    assert other.code == 2 and "'sim:3': torch sees 1 of its kind" in other.err


@pytest.mark.parametrize("part", ["training-dukd", "perceptual"])
def test_parts_of_a_gpus_evidence_work_there(part: str, tmp_path: Path) -> None:
    assert gather_evidence(["--tiny", "--device", DEVICE, "--out", str(tmp_path), "--only", part]) == 0
