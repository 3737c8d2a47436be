"""Runs whose student is solved for before the first step."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import srkd
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.data.batches import Sampler, draw_calibration_patches, gather
from compressor.data.prepare import DataChoice, prepare_data
from compressor.models.checkpoints.save import save_network
from compressor.models.fitting.fit import fit
from compressor.models.fitting.patches import CANDIDATES, texture_of
from compressor.models.networks.base import Network
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from srkd.options.compress import CompressOptions
from srkd.options.models import spec_of
from srkd.runs.decide import decide
from tests.support.run_files import read_json
from tests.support.small_runs import SMALL


def compress(ground: Path, out: Path, **options: object) -> list[str]:
    lines: list[str] = []
    keywords = {"data": ground / "photos", "recipe": "fit", "steps": 2, "settings": SMALL, **options}
    teacher = keywords.pop("teacher", ground / "teacher.safetensors")
    srkd.compress(teacher, out=out, announce=lines.append, **keywords)  # type: ignore[arg-type]
    return lines


@pytest.mark.ci
def test_a_run_says_what_the_fitted_student_scores_and_repeats_to_the_byte(ground: Path, tmp_path: Path) -> None:
    lines = compress(ground, tmp_path / "one")
    compress(ground, tmp_path / "other", cache_size=0)
    (line,) = [line for line in lines if "solved for in" in line]
    pattern = r"the student has ([\d.]+) dB to the teacher before the first step \(slice ([\d.]+), bicubic [\d.]+\)"
    fitted, sliced = map(float, re.search(pattern, line).groups())  # type: ignore[union-attr]
    assert fitted != sliced and "on 64 patches of 20x20" in line
    assert read_json(tmp_path / "one")["start"]["init"] == "fit"
    one, other = ((tmp_path / name / "student.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


@pytest.mark.ci
def test_a_student_with_branches_is_solved_trained_and_exported_without_them(ground: Path, tmp_path: Path) -> None:
    lines = compress(ground, tmp_path / "run", student="plain:width=8,depth=1,branches=True")
    assert any("solved for in" in line for line in lines)
    student = srkd.load(tmp_path / "run").require_network("a spec")
    assert student.spec.to_dict()["branches"]
    (file,) = srkd.export(tmp_path / "run", formats="onnx").files
    assert file.verdict == "passed" and file.path is not None
    assert srkd.cost(file.path) == srkd.cost(student) == srkd.cost(student.deployed())
    assert not spec_of(file.path).to_dict()["branches"]


@pytest.mark.ci
def test_runs_of_a_plan_with_one_start_solve_for_it_once(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[int] = []

    def counted(*args: Any, **options: Any) -> Network:
        solved.append(len(solved))
        return fit(*args, **options)

    monkeypatch.setattr("srkd.runs.opened.fit", counted)
    compress(ground, tmp_path / "sweep", sweep=("rate=1e-9,2e-9",), seeds=2)
    assert len(solved) == 2  # once a seed
    compress(ground, tmp_path / "alone", rate=1e-9)
    runs = tmp_path / "alone", tmp_path / "sweep" / "rate-1e-9-seed10"
    alone, in_plan = (load_file(run / "student.safetensors") for run in runs)
    assert all(torch.equal(alone[name], in_plan[name]) for name in alone)


def difference(ground: Path, run: Path) -> torch.Tensor:
    """Return the difference between a student's and the teacher's images."""
    store = prepare_data(DataChoice(ground / "photos", cache_size=0), scale=2, lr_patch=8).train
    lr = draw_calibration_patches(store, seed=99, count=4, side=16)
    with torch.no_grad():
        return srkd.load(run)(lr) - srkd.load(ground / "teacher.safetensors")(lr)


def test_what_cannot_start_from_a_fit_is_refused_before_anything_is_written(ground: Path, tmp_path: Path) -> None:
    for options, words in (
        ({"recipe": "csd"}, "csd trains the student on slices of the teacher's own weights"),
        ({"select": "l1"}, "--select l1"),
        ({"student": "carn:width=8,scale=4"}, "scale 4: the network enlarges x2"),
    ):
        with pytest.raises(UsageError, match=words):
            compress(ground, tmp_path / "run", init="fit", **options)
    assert list(tmp_path.iterdir()) == []


def test_patches_are_the_most_textured_of_those_drawn(ground: Path) -> None:
    store = prepare_data(DataChoice(ground / "photos", cache_size=0), scale=2, lr_patch=8).train
    patches = draw_calibration_patches(store, seed=3, count=5, side=8)
    again = draw_calibration_patches(store, seed=3, count=5, side=8)
    others = draw_calibration_patches(store, seed=4, count=5, side=8)
    assert patches.shape == (5, 3, 8, 8) and torch.equal(patches, again) and not torch.equal(patches, others)
    assert float(patches.min()) >= 0 and float(patches.max()) <= 1
    sampler = Sampler.for_store(store, lr_patch=8, seed=3)
    for step, patch in enumerate(patches):
        drawn = gather(store.lr, sampler.draw(step, range(CANDIDATES)), 8, 1)
        assert texture_of(255 * patch[None]) == pytest.approx(float(texture_of(drawn).max()), rel=1e-4)
    small = draw_calibration_patches(store, seed=3, count=1, side=10_000)
    assert small.shape[-1] == min(int(store.lr.heights.min()), int(store.lr.widths.min()))


@pytest.mark.ci
def test_csd_trains_its_student_inside_the_turned_teacher(ground: Path, tmp_path: Path) -> None:
    """After one step at a rate of almost zero the student is the leading slice of an equal teacher."""
    for select in ("principal", "leading"):
        settings = (*SMALL, "schedule.ema=0", "phi=teacher")
        compress(ground, tmp_path / select, recipe="csd", select=select, steps=1, rate=1e-9, settings=settings)
    assert float(difference(ground, tmp_path / "principal" / "teacher_joint.safetensors").abs().max()) < 1e-4
    turned, leading = (difference(ground, tmp_path / select) for select in ("principal", "leading"))
    assert float(turned.square().mean()) < 0.5 * float(leading.square().mean())


@pytest.mark.parametrize(
    ("options", "init", "select"),
    [
        ({"recipe": "logits"}, "fit", "leading"),
        ({"recipe": "logits", "student": "edsr:width=4"}, "fit", "leading"),
        ({"recipe": "logits", "student": "compact:width=4,depth=1,scale=2"}, "fit", "leading"),
        ({"recipe": "logits", "student": "carn:width=8,scale=2"}, "fit", "leading"),
        ({"recipe": "logits", "student": "carn:width=8,scale=2", "init": "random"}, "random", "leading"),
        ({"recipe": "logits", "select": "l1"}, "inherit", "l1"),
        ({"recipe": "logits", "init": "inherit"}, "inherit", "leading"),
        ({"recipe": "csd-lite", "settings": (*SMALL, "phi=teacher")}, "fit", "leading"),
        ({"recipe": "csd-lite", "init": "inherit", "settings": (*SMALL, "phi=teacher")}, "inherit", "principal"),
        ({"recipe": "csd", "settings": (*SMALL, "phi=teacher")}, "inherit", "principal"),
        ({"recipe": "csd-paper", "settings": (*SMALL, "phi=teacher")}, "inherit", "leading"),
        ({"recipe": "scratch"}, "random", "leading"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_where_a_student_starts(ground: Path, options: dict[str, object], init: str, select: str) -> None:
    words = {"teacher": ground / "teacher.safetensors", "settings": SMALL, **options}
    start = decide(CompressOptions.of(**words), Context()).start
    assert (start.init, start.select) == (init, select)


def test_solved_students_of_another_kind_or_with_gates_are_trained_by_soap(ground: Path) -> None:
    options = {"recipe": "logits", "student": "compact:width=12,depth=2", "teacher": ground / "teacher.safetensors"}

    def pace_of(**more: object) -> tuple[str, float]:
        schedule = decide(CompressOptions.of(**{**options, **more}), Context()).preset.schedule
        return schedule.optimiser, schedule.rate_of(is_fitted=True)

    name, rate = pace_of(student=None)
    assert name == "adam" and pace_of(init="random") == (name, rate)
    assert pace_of() == ("soap", rate)
    assert pace_of(settings=("schedule.optimiser=adam",)) == ("adam", rate), "the user's optimiser is kept"
    assert pace_of(settings=("schedule.rate=3e-4",)) == ("soap", 3e-4), "the user's rate is kept"
    optimiser, slower = pace_of(student="span:width=4,depth=1,scale=2")
    assert optimiser == "soap" and slower < rate / 8, "its outputs gate themselves"
    assert pace_of(student="carn:width=4,scale=2") == (optimiser, slower), "its stream has an offset"
    assert pace_of(student="carn:width=4,scale=2", init="random") == (name, rate)


@pytest.mark.ci
def test_weights_of_a_file_stand_in_the_place_of_a_fit(ground: Path, tmp_path: Path) -> None:
    compress(ground, tmp_path / "first", steps=1)
    compress(ground, tmp_path / "second", recipe="logits", steps=1, init_from=tmp_path / "first")
    assert read_json(tmp_path / "second")["start"]["init"] == "inherit"
    with pytest.raises(UsageError, match=r"--init-from .*first gives the student its weights: leave out --init fit"):
        compress(ground, tmp_path / "third", init="fit", init_from=tmp_path / "first")


@pytest.mark.ci
def test_a_stream_that_cannot_be_turned_is_cut_as_it_is(ground: Path, tmp_path: Path) -> None:
    save_network(build(RCANSpec(scale=2, width=8, groups=1, depth=2, hidden=2), seed=3), tmp_path / "rcan.safetensors")
    options = {"teacher": tmp_path / "rcan.safetensors", "recipe": "csd", "settings": (*SMALL, "phi=teacher")}
    options |= {"steps": 1}
    lines = compress(ground, tmp_path / "run", **options)
    assert "select: the leading channels, as the stream of a rcan cannot be turned" in lines
    assert read_json(tmp_path / "run")["start"]["select"] == "leading"
    with pytest.raises(UsageError, match=r"--select principal .*rcan.* take --select l1"):
        compress(ground, tmp_path / "refused", **options, select="principal")
    compress(ground, tmp_path / "strongest", **options, select="l1")


@pytest.mark.ci
def test_the_report_keeps_where_the_student_started(ground: Path, tmp_path: Path) -> None:
    """A run that was stopped and continued keeps it, too."""

    def stop(title: str, done: int, total: int) -> None:
        if title == "training" and done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    options = {"data": ground / "photos", "recipe": "logits", "steps": 4, "settings": SMALL}
    whole = srkd.compress(ground / "teacher.safetensors", out=tmp_path / "whole", **options)  # type: ignore[arg-type]
    assert whole.untrained is not None and whole.untrained.student != whole.untrained.slice
    with pytest.raises(SrkdError, match="interrupted"):
        srkd.compress(ground / "teacher.safetensors", out=tmp_path / "run", progress=stop, **options)  # type: ignore[arg-type]
    assert srkd.resume(tmp_path / "run").untrained == whole.untrained
    plain = {**options, "recipe": "inherit", "steps": 1}
    trained = srkd.compress(ground / "teacher.safetensors", out=tmp_path / "plain", **plain)  # type: ignore[arg-type]
    assert trained.untrained is None
