"""Runs whose student is solved for before the first step."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.errors import UsageError
from compressor.data.calibration import draw_calibration_patches
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.fitting.patches import CANDIDATES
from tests.support.small_runs import SMALL, save_photos, save_teacher
from tests.support.torchrun import run_torchrun


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    save_teacher(folder / "teacher.safetensors")
    save_photos(folder / "photos")
    return folder


def compress(ground: Path, out: Path, **options: object) -> list[str]:
    lines: list[str] = []
    given = {"data": ground / "photos", "recipe": "fit", "steps": 2, "settings": SMALL, **options}
    teacher = given.pop("teacher", ground / "teacher.safetensors")
    srkd.compress(teacher, out=out, announce=lines.append, **given)  # type: ignore[arg-type]
    return lines


def test_a_run_says_what_the_fitted_student_scores_and_repeats_to_the_byte(ground: Path, tmp_path: Path) -> None:
    lines = compress(ground, tmp_path / "one")
    compress(ground, tmp_path / "other")
    (line,) = [line for line in lines if "solved for in" in line]
    pattern = r"the student has ([\d.]+) dB before the first step \(slice ([\d.]+), bicubic [\d.]+, teacher [\d.]+\)"
    fitted, sliced = map(float, re.search(pattern, line).groups())  # type: ignore[union-attr]
    assert fitted != sliced and "on 96 patches of 20x20" in line
    facts = json.loads((tmp_path / "one" / "run.json").read_text())
    assert facts["start"]["init"] == "fit"
    one, other = ((tmp_path / name / "student.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_two_processes_start_from_the_fit_of_one(ground: Path, tmp_path: Path) -> None:
    teacher, photos = str(ground / "teacher.safetensors"), str(ground / "photos")
    options = ["--recipe", "fit", "--steps", "2", *(word for one in SMALL for word in ("--set", one))]
    run = ["compress", "--teacher", teacher, "--data", photos, *options, "--out", str(tmp_path / "two")]
    code, out, err = run_torchrun("-m", "srkd", *run)
    assert code == 0, err
    (line,) = (line for line in compress(ground, tmp_path / "one") if "solved for in" in line)
    (same,) = (line for line in out.splitlines() if "solved for in" in line)
    figures = [[float(number) for number in re.findall(r"\d+\.\d{3}", text)] for text in (line, same)]
    assert len(figures[0]) == 4 and figures[0] == pytest.approx(figures[1], abs=0.02)


def test_the_start_is_the_fit_and_not_the_slice(ground: Path, tmp_path: Path) -> None:
    """After one step at a rate of nearly nothing."""
    for init in ("fit", "inherit"):
        settings = (*SMALL, "schedule.ema=0")
        compress(ground, tmp_path / init, recipe="logits", init=init, steps=1, rate=1e-9, settings=settings)
    students = [srkd.load(tmp_path / init) for init in ("fit", "inherit")]
    teacher = srkd.load(ground / "teacher.safetensors")
    store = prepare_data(DataChoice(ground / "photos", cache_size=0), scale=2, lr_patch=8).train
    lr = draw_calibration_patches(store, seed=99, count=4, side=16)
    with torch.no_grad():
        errors = [float((student(lr) - teacher(lr)).square().mean()) for student in students]
    assert errors[0] < 0.5 * errors[1]


def test_what_cannot_start_from_a_fit_is_refused_before_anything_is_written(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="csd trains the student on slices of the teacher's own weights"):
        compress(ground, tmp_path / "a", recipe="csd", init="fit")
    with pytest.raises(UsageError, match="--select l1 chooses what is inherited"):
        compress(ground, tmp_path / "b", init="fit", select="l1")
    with pytest.raises(UsageError, match="a compact cannot inherit from a edsr"):
        compress(ground, tmp_path / "c", init="fit", student="compact:width=4,depth=1,scale=2")
    assert list(tmp_path.iterdir()) == []


def test_patches_are_the_most_textured_of_those_drawn(ground: Path) -> None:
    store = prepare_data(DataChoice(ground / "photos", cache_size=0), scale=2, lr_patch=8).train
    patches = draw_calibration_patches(store, seed=3, count=5, side=8)
    again = draw_calibration_patches(store, seed=3, count=5, side=8)
    others = draw_calibration_patches(store, seed=4, count=5, side=8)
    assert patches.shape == (5, 3, 8, 8) and torch.equal(patches, again) and not torch.equal(patches, others)
    assert float(patches.min()) >= 0 and float(patches.max()) <= 1 and CANDIDATES == 4
    small = draw_calibration_patches(store, seed=3, count=1, side=10_000)
    assert small.shape[-1] == min(int(store.lr.heights.min()), int(store.lr.widths.min()))


def test_csd_trains_its_student_inside_the_turned_teacher(ground: Path, tmp_path: Path) -> None:
    """After one step at a rate of nearly nothing the student is the leading slice of an equal teacher."""
    for select in ("principal", "leading"):
        settings = (*SMALL, "schedule.ema=0", "phi=teacher")
        compress(ground, tmp_path / select, recipe="csd", select=select, steps=1, rate=1e-9, settings=settings)
    teacher = srkd.load(ground / "teacher.safetensors")
    joint = srkd.load(tmp_path / "principal" / "teacher_joint.safetensors")
    store = prepare_data(DataChoice(ground / "photos", cache_size=0), scale=2, lr_patch=8).train
    lr = draw_calibration_patches(store, seed=99, count=4, side=16)
    with torch.no_grad():
        assert float((joint(lr) - teacher(lr)).abs().max()) < 1e-4
        errors = {
            select: float((srkd.load(tmp_path / select)(lr) - teacher(lr)).square().mean())
            for select in ("principal", "leading")
        }
    assert errors["principal"] < 0.5 * errors["leading"]
    with pytest.raises(UsageError, match=r"csd trains.*--select principal puts the strongest first"):
        compress(ground, tmp_path / "l1", recipe="csd", select="l1")
