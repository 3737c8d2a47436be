"""Training with a teacher cache: downscaled inputs, steps without the teacher, resumed runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from compressor.base.cache_folder import CacheFolder
from compressor.base.errors import UsageError
from compressor.data.batches import Batch, Batches, View
from compressor.data.decode import decode_all
from compressor.data.store import ImageStore
from compressor.data.teacher_cache import TeacherCache
from compressor.images.resize import imresize
from compressor.images.sets import ImagePair
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training.loop import Trainer
from compressor.training.method import PlainMethod, teacher_views
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Runner, Step, StepNetworks
from recipes.config.reading import load_preset
from recipes.methods.logits import Logits
from srkd import compress, resume
from srkd.cli.main import run as srkd_in_process
from tests.support.data_cache_cases import noise
from tests.support.teacher_cache_cases import (
    PATCH,
    SCALE,
    SETTINGS,
    cached_batches,
    counting,
    edsr,
    images,
    inner,
    upright,
)
from tests.support.training import Recorder


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return decode_all(images(tmp_path / "photos"), scale=SCALE).select(lr_patch=PATCH)


@dataclass(frozen=True)
class Upcycled(PlainMethod):
    """A method that uses the teacher's output for the batch downscaled once more."""

    name: str = "upcycled"
    teacher_views: tuple[View, ...] = ("zoom-out",)

    @property
    def weights(self) -> dict[str, float]:
        return {"zoom_out": 1.0}

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        shrunk = step.zoom_out()
        return {"zoom_out": F.l1_loss(step.student(shrunk).sr, step.teacher(shrunk).sr)}


def test_zoomed_out_without_a_cache_is_the_batch_shrunk_and_the_teacher_runs():
    lr = torch.rand(2, 3, PATCH, PATCH)
    student, teacher = Runner(edsr(), trains=True), Runner(edsr(1), trains=False)
    step = Step(0, 0, Batch(lr, lr), StepNetworks([student], teacher))
    assert step.zoom_out() is step.zoom_out()
    assert torch.equal(step.zoom_out(), imresize(lr, 1 / SCALE))
    Upcycled().terms(step)
    assert teacher.forwards == 1 and student.forwards == 1


def test_zoomed_out_patches_lie_where_the_batch_lies(tmp_path):
    """With LR images of constant cells of the scale's size, downscaling gives the cells."""
    scale, patch = 3, 12
    cells = noise(30, 34, 7)
    Image.fromarray(cells.repeat(9, 0).repeat(9, 1)).save(tmp_path / "hr.png")
    Image.fromarray(cells.repeat(3, 0).repeat(3, 1)).save(tmp_path / "lr.png")
    store = decode_all([ImagePair("a", tmp_path / "hr.png", tmp_path / "lr.png")], scale=scale).select(lr_patch=patch)
    teacher = Teacher(build(EDSRSpec(scale=scale, width=4, depth=1), seed=0))
    cache = TeacherCache.plan(teacher, store, ["zoom-out"], folder=CacheFolder(tmp_path / "cache"), lr_patch=patch)
    batches = Batches.for_store(store, batch=32, lr_patch=patch, seed=0).with_labels(cache.fill(teacher))
    draw = batches.sampler.draw(0, range(2000))
    assert not (draw.tops % scale).any() and not (draw.lefts % scale).any()
    assert int(draw.tops.max()) == 90 - patch and int(draw.lefts.max()) == 102 - patch
    batch = batches.at(0)
    cached = batch.labels["zoom-out"]
    assert cached.lr.shape[-1] == patch // scale and cached.sr.shape[-1] == patch
    direct = imresize(batch.lr, 1 / scale)
    assert torch.allclose(cached.lr[..., 2:-2, 2:-2], direct[..., 2:-2, 2:-2], atol=1e-3)
    assert not torch.allclose(cached.lr, direct, atol=1e-3), "borders differ: the image goes on where the patch ends"


def test_zoomed_out_targets_are_the_teachers_for_the_very_input(store, tmp_path):
    teacher = Teacher(build(CompactSpec(scale=SCALE, width=4, depth=1), seed=1))
    batches = upright(cached_batches(teacher, store, tmp_path, ("zoom-out", "whole")))
    wide = 2 * (2 * teacher.descriptor.receptive_radius + 2)
    batch = replace(batches, sampler=replace(batches.sampler, lr_patch=wide)).at(0)
    cached, radius = batch.labels["zoom-out"], teacher.descriptor.receptive_radius
    torch.testing.assert_close(inner(cached.sr, radius), inner(teacher(cached.lr), radius), atol=1e-3, rtol=1e-3)
    assert set(batch.labels) == {"whole", "zoom-out"}


def test_patches_that_cannot_be_shrunk_are_refused(store, tmp_path):
    with pytest.raises(UsageError, match=r"lr_patch=9.*--lr-patch 8"):
        TeacherCache.plan(Teacher(edsr()), store, ["zoom-out"], folder=CacheFolder(tmp_path), lr_patch=9)
    TeacherCache.plan(Teacher(edsr()), store, ["whole"], folder=CacheFolder(tmp_path), lr_patch=9)


def stage(*methods: object, steps: int = 3) -> Stage:
    return load_preset("scratch", [f"schedule.steps={steps}"]).stage(methods)  # type: ignore[arg-type]


@pytest.mark.parametrize("methods", [(Logits(),), (Upcycled(),), (Logits(), Upcycled())])
def test_training_with_a_cache_never_runs_the_teacher(methods, store, tmp_path):
    teacher = Teacher(edsr(1))
    views = teacher_views(methods)
    batches = cached_batches(teacher, store, tmp_path, views, batch=2)
    fed = counting(teacher)
    only, recorder = stage(*methods), Recorder()
    Trainer([only], State.fresh(edsr(2), teacher.network, only), batches, teacher.network, recorder, seed=0).run()
    assert fed == [] and len(recorder.losses) == 3
    assert all(value > 0 for value in recorder.losses[0].values())


def test_a_term_that_wants_features_makes_the_teacher_run(store, tmp_path):
    teacher = Teacher(edsr(1))
    batch = cached_batches(teacher, store, tmp_path).at(0)
    frozen = Runner(teacher.network, trains=False)
    step = Step(0, 0, batch, StepNetworks([Runner(edsr(2), trains=True)], frozen))
    assert torch.equal(step.teacher().sr, batch.labels["whole"].sr) and frozen.forwards == 0
    featured = step.teacher(taps=("body_end",))
    assert frozen.forwards == 1 and featured.features["body_end"].shape[1] == 6
    torch.testing.assert_close(featured.sr, teacher(batch.lr))
    step.teacher(torch.rand(1, 3, 5, 5))
    assert frozen.forwards == 2


@pytest.fixture
def options(tmp_path, monkeypatch) -> dict[str, object]:
    """Return options with a teacher's file, photos, and a cache folder of the test."""
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "cache"))
    save_network(edsr(3, width=8), tmp_path / "teacher.safetensors", metadata={})
    images(tmp_path / "photos")
    return {"teacher": tmp_path / "teacher.safetensors", "data": tmp_path / "photos", "settings": SETTINGS}


@pytest.mark.ci
def test_a_run_records_its_cache_and_resumes_to_the_same_bytes(options, tmp_path):
    straight = compress(**options, steps=6, teacher_cache=True, out=tmp_path / "straight")
    facts = json.loads((tmp_path / "straight/run.json").read_text())
    record = facts["teacher_cache"]
    assert facts["options"]["teacher_cache"] is True and record["precision"] == "fp32"
    whole = record["views"]["whole"]
    assert (tmp_path / "cache" / whole["entry"] / "outputs.fp16").stat().st_size == whole["bytes"]
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        compress(**options, steps=6, teacher_cache=True, out=stopped, announce=stop_at("step 3/6"))
    shutil.rmtree(tmp_path / "cache")
    again = resume(stopped)
    assert again.student_path.read_bytes() == straight.student_path.read_bytes()
    without = compress(**options, steps=6, out=tmp_path / "without")
    assert without.student_path.read_bytes() != straight.student_path.read_bytes()
    assert json.loads((tmp_path / "without/run.json").read_text())["teacher_cache"] is None


def test_without_hr_images_the_cache_gives_the_labels_of_every_recipe(options, tmp_path, monkeypatch):
    fed = []
    forward = Runner.__call__
    monkeypatch.setattr(Runner, "__call__", lambda runner, *inputs: fed.append(runner) or forward(runner, *inputs))
    report = compress(
        options["teacher"],
        lr_only=options["data"],
        recipe="scratch",
        steps=2,
        teacher_cache=True,
        out=tmp_path / "run",
        settings=SETTINGS,
    )
    assert report.images_used == 3
    # Those of the memory estimate ran only on shapes.
    teachers = [runner for runner in fed if not runner.trains and runner.model.device.type != "meta"]
    assert len(teachers) == 2 and all(runner.forwards == 0 for runner in teachers)


def stop_at(beginning: str):
    """Return a note receiver that interrupts the run at a line."""

    def announce(line: str) -> None:
        if line.startswith(beginning):
            raise KeyboardInterrupt

    return announce


@pytest.mark.parametrize(
    "recipe, reason",
    [("logits-paper", "repeats a published run"), ("scratch", "has no teacher"), ("inherit", "needs other things")],
)
def test_recipes_without_use_for_a_cache_refuse_it(recipe, reason, options, tmp_path, capfd):
    words = ["--teacher", options["teacher"], "--data", options["data"], "--recipe", recipe, "--out", tmp_path / "run"]
    assert srkd_in_process(["compress", *map(str, words), "--teacher-cache"]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert reason in message and "--teacher-cache" in message
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()
