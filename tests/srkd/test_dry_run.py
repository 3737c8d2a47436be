"""`--dry-run`: it decides what the run would, takes real steps of each stage, and writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import srkd
from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost
from compressor.models.networks.edsr import EDSRSpec
from srkd.cli.main import run
from srkd.options.compress import CompressOptions
from srkd.record.run_file import read_run_file
from srkd.runs.dry_run import DryRun, dry_run
from tests.support.foreign_models import save_torchscript, twin
from tests.support.small_runs import save_photos

SMALL = ("schedule.batch=2", "schedule.lr_patch=8", "schedule.validate_every=50")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of photos that have room for the patches of every recipe."""
    return save_photos(tmp_path / "photos", times=5)


@pytest.fixture
def tried(teacher: Path, photos: Path) -> Callable[..., DryRun]:
    def tried(**options: object) -> DryRun:
        words = {"teacher": teacher, "data": photos, "settings": SMALL, "init": "inherit", **options}
        return dry_run(CompressOptions.of(**words), Context())

    return tried


def test_its_spec_is_that_of_the_run(tried: Callable[..., DryRun], teacher: Path, photos: Path, tmp_path: Path) -> None:
    words = {"width": 0.5, "steps": 2, "recipe": "logits", "goal": "original"}
    report = tried(**words)
    srkd.compress(teacher, data=photos, settings=SMALL, init="inherit", out=tmp_path / "run", **words)
    assert report.spec == read_run_file(tmp_path / "run").spec


def test_a_step_costs_what_its_passes_cost(tried: Callable[..., DryRun]) -> None:
    """Forward and backward of the student, but for the gradient of the image; beside it the teacher's forward."""
    student = 2 * cost(EDSRSpec(scale=2, width=4, depth=4), (8, 8)).macs
    (alone,) = tried(recipe="scratch", student="edsr:width=4,depth=4,scale=2", init="random", steps=120).stages
    assert 2.5 * student < alone.macs < 3.1 * student and alone.steps == 120 and alone.ms > 0
    report = tried(recipe="logits", student="edsr:width=4,depth=4,scale=2", init="random", label_margin=0)
    assert report.teacher is not None and report.teacher.params is not None
    assert report.stages[0].macs > alone.macs


def test_each_stage_takes_its_own_step(tried: Callable[..., DryRun]) -> None:
    report = tried(recipe="perceptual", goal="teacher", steps=4000, settings=SMALL)
    main, faithful, textured = report.stages
    assert main.steps + faithful.steps + textured.steps == 4000
    assert textured.macs > 1.5 * faithful.macs == 1.5 * main.macs, "a discriminator takes three passes"
    steps = sum(stage.steps * stage.ms / 1e3 for stage in report.stages)
    assert report.seconds > steps and report.peak_memory_mb > 50


def test_a_foreign_teacher_shows_outputs_alone(tmp_path: Path, photos: Path) -> None:
    file = save_torchscript(twin(), tmp_path / "model.pt")
    words = {"student": "edsr:width=4,depth=1", "init": "random", "settings": SMALL, "trust_code": True}
    report = dry_run(CompressOptions.of(teacher=file, data=photos, **words), Context())
    assert report.teacher is not None and report.teacher.macs is None
    assert "unknown MACs" in dict(report.rows())["teacher"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A clock by which a forward pass of the student takes a second, one of the teacher ten, and nothing else any."""
    clock = SimpleNamespace(now=0.0)
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: clock.now)
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: advance(module))

    def advance(module: nn.Module) -> None:
        if isinstance(module, Network):
            clock.now += 10.0 if module.params > 5_000 else 1.0

    yield clock
    hook.remove()


@pytest.mark.parametrize(("recipe", "cached"), [("logits", False), ("logits", True), ("perceptual", False)])
def test_a_run_of_some_minutes_ends_within_a_tenth_of_them(
    clock: SimpleNamespace, teacher: Path, photos: Path, tmp_path: Path, recipe: str, cached: bool
) -> None:
    words = {"student": "edsr:width=4,depth=1,scale=2", "init": "random", "goal": "teacher", "minutes": 30}
    words |= {"settings": SMALL, "teacher_cache": cached}
    lines: list[str] = []
    report = srkd.compress(teacher, recipe=recipe, data=photos, announce=lines.append, out=tmp_path / "run", **words)
    assert clock.now == pytest.approx(1800, rel=0.1), lines
    spec = read_run_file(tmp_path / "run").spec
    assert spec.options.training.steps == report.steps and spec.options.training.minutes is None
    assert any(line.startswith(f"--minutes 30: {report.steps:,} steps of ") for line in lines)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"minutes": 1, "steps": 2}, "--minutes 1 chooses the steps: leave out --steps 2"),
        ({"minutes": 1, "seeds": 2}, "--minutes is for one run"),
        ({"minutes": 0.01}, "--minutes: 0 s are left before the first step, and a step takes about"),
    ],
)
def test_minutes_that_cannot_be(
    clock: SimpleNamespace, teacher: Path, photos: Path, tmp_path: Path, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(SrkdError) as error:
        srkd.compress(teacher, data=photos, settings=SMALL, init="inherit", out=tmp_path / "run", **options)
    assert str(error.value).startswith(line) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"lr_patch": 500, "settings": ()}, "schedule.lr_patch=500: the largest LR image has 100x120 pixels"),
        ({"recipe": "csd", "init": None, "teacher_cache": True, "settings": ("phi=teacher",)}, "--teacher-cache keeps"),
        ({"recipe": "scratch", "label_margin": 4}, "--label-margin 4: recipe scratch does not run a frozen teacher"),
        ({"baselines": ("init-from",)}, "--baselines init-from: there is no --init-from"),
        ({"jobs": 2}, "--jobs 2: there is one run"),
        ({"track_images": 9}, "--track-images 9: there are 2 validation images"),
        ({"device": "cuda:7"}, "device 'cuda:7': torch sees 0 of its kind"),
    ],
)
def test_mistakes_stop_it_with_the_line_of_the_run(
    teacher: Path, photos: Path, tmp_path: Path, options: dict[str, object], line: str
) -> None:
    words = {"teacher": teacher, "data": photos, "init": "inherit", "settings": SMALL, **options}
    for start in (
        lambda: dry_run(CompressOptions.of(**words), Context()),
        lambda: srkd.compress(out=tmp_path / "run", **words),
    ):
        with pytest.raises(SrkdError) as error:
            start()
        assert str(error.value).startswith(line)


def test_on_the_command_line_it_writes_nothing(
    teacher: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in tmp_path.rglob("*"))
    arguments = ["compress", "--teacher", str(teacher), "--data", str(photos), "--init", "inherit", "--steps", "9"]
    arguments += [f"--set={setting}" for setting in SMALL]
    assert run([*arguments, "--dry-run"]) == 0
    output = capfd.readouterr().out
    for word in ("edsr: ", "stage distil", "9 steps", "GMAC each", "peak", "photos: 3 for training"):
        assert word in output
    assert run([*arguments, "--then", "pams", "--dry-run", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["schema"] == "srkd.compress/1" and result["spec"]["recipe"] == "logits" and result["runs"] == 2
    assert run([*arguments, "--resume", "x", "--dry-run"]) == 2
    assert run(arguments) == 2 and "--out" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
