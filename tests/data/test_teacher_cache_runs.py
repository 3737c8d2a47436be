"""Training with a teacher cache: downscaled inputs, steps without the teacher, resumed runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from compressor.data.batches import Batch
from compressor.data.decode import decode_all
from compressor.data.store import ImageStore
from compressor.images.resize import imresize
from compressor.models.checkpoints.save import save_network
from compressor.teachers.teacher import Teacher
from compressor.training.loop import Trainer
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Runner, Step, StepNetworks
from recipes.config.reading import load_preset
from recipes.methods.logits import Logits
from srkd import compress, resume
from srkd.cli.main import run as srkd_in_process
from tests.support.teacher_cache_cases import (
    PATCH,
    SCALE,
    SETTINGS,
    cached_batches,
    counting,
    edsr,
    images,
)
from tests.support.training import Recorder


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return decode_all(images(tmp_path / "photos"), scale=SCALE).select(lr_patch=PATCH)


def test_zoomed_out_without_a_cache_is_the_batch_shrunk_and_the_teacher_runs():
    lr = torch.rand(2, 3, PATCH, PATCH)
    student, teacher = Runner(edsr(), trains=True), Runner(edsr(1), trains=False)
    step = Step(0, 0, Batch(lr, lr), StepNetworks([student], teacher))
    assert step.zoom_out() is step.zoom_out()
    assert torch.equal(step.zoom_out(), imresize(lr, 1 / SCALE))


def stage(*methods: object, steps: int = 3) -> Stage:
    return load_preset("scratch", [f"schedule.steps={steps}"]).stage(methods)  # type: ignore[arg-type]


def test_training_with_a_cache_never_runs_the_teacher(store, tmp_path):
    teacher = Teacher(edsr(1))
    batches = cached_batches(teacher, store, tmp_path, batch=2)
    fed = counting(teacher)
    only, recorder = stage(Logits()), Recorder()
    Trainer([only], State.fresh(edsr(2), teacher.network, only), batches, teacher.network, recorder, seed=0).run()
    assert fed == [] and len(recorder.losses) == 3
    assert all(value > 0 for value in recorder.losses[0].values())


def test_a_term_that_wants_features_makes_the_teacher_run(store, tmp_path):
    teacher = Teacher(edsr(1))
    batch = cached_batches(teacher, store, tmp_path).at(0)
    frozen = Runner(teacher.network, trains=False)
    step = Step(0, 0, batch, StepNetworks([Runner(edsr(2), trains=True)], frozen))
    assert torch.equal(step.teacher().sr, batch.labels) and frozen.forwards == 0
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
    assert (tmp_path / "cache" / record["entry"] / "outputs.fp16").stat().st_size == record["bytes"]
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
    [("logits-paper", "keeps to its sources"), ("scratch", "has no teacher"), ("inherit", "needs other things")],
)
def test_recipes_without_use_for_a_cache_refuse_it(recipe, reason, options, tmp_path, capfd):
    words = ["--teacher", options["teacher"], "--data", options["data"], "--recipe", recipe, "--out", tmp_path / "run"]
    assert srkd_in_process(["compress", *map(str, words), "--teacher-cache"]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert reason in message and "--teacher-cache" in message
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()
