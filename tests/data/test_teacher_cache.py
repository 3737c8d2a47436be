"""The teacher cache equals the teacher, runs it once, and is keyed by everything its outputs depend on."""

from __future__ import annotations

import gc
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor.base.cache_folder import CacheFolder
from compressor.base.errors import SrkdError
from compressor.data.batches import Batch
from compressor.data.decode import decode_all
from compressor.data.placement import pack
from compressor.data.store import ImageStore
from compressor.data.teacher_cache import TeacherCache, image_key, teacher_key
from compressor.images.resize import imresize
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher, load_teacher
from compressor.training.loop import Trainer
from compressor.training.state import State
from compressor.training.step import Runner, Step, StepNetworks
from recipes.config.reading import load_preset
from recipes.methods.logits import Logits
from srkd import compress, resume
from srkd.cli.main import run as srkd_in_process
from tests.support.deaths import death_after
from tests.support.foreign_models import save_onnx, twin
from tests.support.run_files import read_json
from tests.support.teacher_cache_cases import (
    PATCH,
    SCALE,
    SETTINGS,
    cached_batches,
    counting,
    edsr,
    images,
    inner,
    symmetric,
    upright,
)
from tests.support.training import Recorder


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return decode_all(images(tmp_path / "photos"), scale=SCALE).select(lr_patch=PATCH)


@pytest.mark.parametrize("spec", [EDSRSpec(scale=SCALE, width=4, depth=1), CompactSpec(scale=SCALE, width=4, depth=1)])
def test_cached_crops_are_direct_outputs_away_from_patch_borders(spec, store, tmp_path):
    teacher = Teacher(build(spec, seed=1))
    radius = teacher.descriptor.receptive_radius
    big = replace(upright(cached_batches(teacher, store, tmp_path / "cache")), samples=range(16))
    big = replace(big, sampler=replace(big.sampler, lr_patch=2 * radius + 3))
    batch = big.at(0)
    torch.testing.assert_close(inner(batch.labels, radius), inner(teacher(batch.lr), radius), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(batch.labels, teacher(batch.lr), atol=1e-3), "a patch border must show somewhere"


def test_of_a_symmetric_teacher_the_symmetries_are_exact_too(store, tmp_path):
    radius = 5
    sampled = cached_batches(Teacher(symmetric()), store, tmp_path / "a")
    lopsided = cached_batches(Teacher(edsr()), store, tmp_path / "b")
    gaps = []
    for batches, teacher in ((sampled, Teacher(symmetric())), (lopsided, Teacher(edsr()))):
        batches = replace(batches, sampler=replace(batches.sampler, lr_patch=2 * radius + 3))
        batch = batches.at(3)
        gaps.append(float((inner(batch.labels, radius) - inner(teacher(batch.lr), radius)).abs().max()))
    assert gaps[0] < 2e-3 < 10 * gaps[0] < gaps[1]


def test_values_are_unclamped(store, tmp_path):
    loud = edsr()
    with torch.no_grad():
        for parameter in loud.parameters():
            parameter.mul_(1.7)
    sr = cached_batches(Teacher(loud), store, tmp_path).at(0).labels
    assert float(sr.min()) < -0.01 and float(sr.max()) > 1.01


def test_the_teacher_runs_once_an_image_and_never_again(store, tmp_path):
    teacher = Teacher(edsr())
    fed = counting(teacher)
    cached_batches(teacher, store, tmp_path)
    assert len(fed) == len(store)
    again = cached_batches(teacher, store, tmp_path)
    assert len(fed) == len(store)
    assert torch.isfinite(again.at(0).labels).all()


def test_more_images_need_only_what_is_new(store, tmp_path):
    teacher = Teacher(edsr())
    before = cached_batches(teacher, store, tmp_path / "cache").at(1).labels
    fed = counting(teacher)
    larger = decode_all(images(tmp_path / "photos", (3, 0, 1, 2)), scale=SCALE).select(lr_patch=PATCH)
    first = cached_batches(teacher, larger, tmp_path / "cache")
    assert fed == [(1, *larger.lr.image(0).shape)]
    assert torch.equal(first.labels.image(1), cached_batches(teacher, store, tmp_path / "new").labels.image(0))
    assert torch.equal(cached_batches(teacher, store, tmp_path / "cache").at(1).labels, before)


def test_packed_outputs_give_the_same_patches_and_hold_nothing_else(store, tmp_path):
    teacher = Teacher(edsr())
    larger = decode_all(images(tmp_path / "photos", (3, 0, 1, 2)), scale=SCALE).select(lr_patch=PATCH)
    cached_batches(teacher, larger, tmp_path / "cache")
    mapped = cached_batches(teacher, store, tmp_path / "cache")
    plane = pack(mapped.labels, torch.device("cpu"))
    assert torch.equal(mapped.at(2).labels, replace(mapped, labels=plane).at(2).labels)
    assert plane.flat.numel() == int((3 * plane.heights * plane.widths).sum()) < mapped.labels.flat.numel()


def test_a_fill_that_dies_continues_where_it_was(store, tmp_path):
    class Dying(Teacher):
        lives = 2

        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            self.lives -= 1
            if self.lives < 0:
                raise KeyboardInterrupt
            return super().forward(lr)

    with pytest.raises(KeyboardInterrupt):
        cached_batches(Dying(edsr()), store, tmp_path / "cache")
    teacher = Teacher(edsr())
    fed = counting(teacher)
    continued = cached_batches(teacher, store, tmp_path / "cache")
    assert len(fed) == 1
    straight = cached_batches(teacher, store, tmp_path / "other")
    assert torch.equal(continued.at(0).labels, straight.at(0).labels)


def test_runs_that_want_the_same_outputs_at_once_share_the_work(store, tmp_path):
    teachers = [Teacher(edsr()) for _ in range(3)]
    fed = [counting(teacher) for teacher in teachers]
    with ThreadPoolExecutor(3) as pool:
        batches = list(pool.map(lambda teacher: cached_batches(teacher, store, tmp_path), teachers))
    assert sum(map(len, fed)) == len(store)
    first, *others = (of_run.at(0).labels for of_run in batches)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("damage", ["short", "gone", "torn line", "no line", "nonsense", "elsewhere"])
def test_damage_is_made_good(damage, store, tmp_path):
    teacher = Teacher(edsr())
    expected = cached_batches(teacher, store, tmp_path / "cache").at(0).labels
    (data,), (index,) = (list((tmp_path / "cache").rglob(f"*.{kind}")) for kind in ("fp16", "jsonl"))
    values, lines = data.read_bytes(), index.read_bytes()
    if damage == "short":
        data.write_bytes(values[:-7])
    elif damage == "gone":
        data.unlink()
    else:
        broken = {
            "torn line": lines[:-9],
            "no line": lines[: lines.rindex(b"[")],
            "nonsense": b'{"key": 3}\n[]\n\xff\n5\n[["a"], 0]\n',
            "elsewhere": lines[: lines.rindex(b",")] + b', -2]\n[0, "x"]',
        }
        index.write_bytes(broken[damage])
    fed = counting(teacher)
    assert torch.equal(cached_batches(teacher, store, tmp_path / "cache").at(0).labels, expected)
    made_anew = 3 if damage in ("gone", "nonsense") else 1
    assert len(fed) == made_anew
    cached_batches(teacher, store, tmp_path / "cache")
    assert len(fed) == made_anew


def test_it_keeps_to_the_limit_and_is_not_removed_while_in_use(store, tmp_path):
    teacher, path = Teacher(edsr()), tmp_path / "cache"
    cache = TeacherCache.plan(teacher, store, folder=CacheFolder(path, 10_000))
    fed = counting(teacher)
    with pytest.raises(SrkdError, match="raise --cache-size"):
        cache.fill(teacher)
    assert fed == []
    batches = cached_batches(teacher, store, path)
    assert not CacheFolder(path, 10_000).free_space(9_999)
    expected = batches.at(0).labels
    del batches
    gc.collect()
    assert CacheFolder(path, 10_000).free_space(9_999)
    assert torch.equal(cached_batches(teacher, store, path).at(0).labels, expected) and len(fed) == 6


def test_the_key_is_teacher_image_view_and_precision(store, tmp_path):
    def files(teacher: Teacher, **options: object) -> str:
        cache = TeacherCache.plan(teacher, store, folder=CacheFolder(tmp_path), **options)
        return str(cache.facts()["entry"])

    plain = files(Teacher(edsr()))
    assert plain == files(Teacher(edsr()))
    nudged = edsr()
    with torch.no_grad():
        next(nudged.parameters()).view(-1)[0] += 1e-6
    assert len({plain, files(Teacher(nudged)), files(Teacher(edsr()), precision="bf16")}) == 3
    image = store.lr.image(0)
    copy = image.clone()
    copy[2, -1, -1] ^= 1
    reshaped = image.reshape(3, image.shape[2], image.shape[1])
    assert len({image_key(image), image_key(copy), image_key(reshaped)}) == 3


@pytest.mark.ci
def test_foreign_files_differ_by_their_bytes_and_their_range_and_are_served(store, tmp_path):
    path, same_weights = tmp_path / "1.onnx", tmp_path / "2.onnx"
    first = load_teacher(save_onnx(twin(SCALE, 1), path))
    other = load_teacher(save_onnx(twin(SCALE, 1), same_weights, batch=2))
    loud = load_teacher(path, arch_options={"img_range": 255})
    assert first.fingerprint() == other.fingerprint()
    assert len({teacher_key(teacher) for teacher in (first, other, loud)}) == 3
    batch = upright(cached_batches(first, store, tmp_path)).at(0)
    radius = 1
    torch.testing.assert_close(inner(batch.labels, radius), inner(first(batch.lr), radius), atol=1e-3, rtol=1e-3)


def test_bf16_outputs_are_those_of_bf16(store, tmp_path):
    teacher = Teacher(edsr())
    exact, coarse = (
        TeacherCache.plan(teacher, store, folder=CacheFolder(tmp_path), precision=precision)
        .fill(teacher)
        .image(0)
        .float()
        for precision in ("fp32", "bf16")
    )
    assert 1e-4 < float((exact - coarse).abs().max()) < 0.05


@pytest.mark.parametrize("value, notes", [(1e6, "1e+06"), (float("nan"), "nan"), (float("-inf"), "inf")])
def test_what_half_precision_cannot_hold_names_the_image(value, notes, store, tmp_path):
    class Loud(Teacher):
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            sr = super().forward(lr)
            if lr.shape[-2:] == store.lr.image(1).shape[-2:]:
                sr[0, 0, 0, 0] = value
            return sr

    with pytest.raises(SrkdError, match=r"image 1.*(1e\+06|inf|nan).*65504.*--teacher-cache") as caught:
        cached_batches(Loud(edsr()), store, tmp_path)
    assert notes in str(caught.value) and "\n" not in str(caught.value)


def test_zoomed_out_without_a_cache_is_the_batch_shrunk_and_the_teacher_runs():
    lr = torch.rand(2, 3, PATCH, PATCH)
    student, teacher = Runner(edsr(), trains=True), Runner(edsr(1), trains=False)
    step = Step(0, 0, Batch(lr, lr), StepNetworks([student], teacher))
    assert step.zoom_out() is step.zoom_out()
    assert torch.equal(step.zoom_out(), imresize(lr, 1 / SCALE))


def test_training_with_a_cache_never_runs_the_teacher(store, tmp_path):
    teacher = Teacher(edsr(1))
    batches = cached_batches(teacher, store, tmp_path, batch=2)
    fed = counting(teacher)
    only, recorder = load_preset("scratch", ["schedule.steps=3"]).stage([Logits()]), Recorder()
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
    assert torch.equal(featured.sr, batch.labels)
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
    facts = read_json(tmp_path / "straight")
    record = facts["teacher_cache"]
    assert facts["options"]["teacher_cache"] is True and record["precision"] == "fp32"
    assert (tmp_path / "cache" / record["entry"] / "outputs.fp16").stat().st_size == record["bytes"]
    stopped = tmp_path / "stopped"
    with death_after(1):
        compress(**options, steps=6, teacher_cache=True, out=stopped)
    shutil.rmtree(tmp_path / "cache")
    assert resume(stopped).student_path.read_bytes() == straight.student_path.read_bytes()
    without = compress(**options, steps=6, out=tmp_path / "without")
    assert without.student_path.read_bytes() != straight.student_path.read_bytes()
    assert read_json(tmp_path / "without")["teacher_cache"] is None


def test_without_hr_images_the_cache_gives_the_labels_of_every_recipe(options, tmp_path, monkeypatch):
    fed = []
    forward = Runner.__call__
    monkeypatch.setattr(Runner, "__call__", lambda runner, *inputs: fed.append(runner) or forward(runner, *inputs))
    words = {"teacher": options["teacher"], "lr_only": options["data"], "settings": SETTINGS}
    report = compress(recipe="scratch", steps=2, teacher_cache=True, out=tmp_path / "run", **words)
    assert report.images_used == 3
    teachers = [runner for runner in fed if not runner.trains]
    assert len(teachers) == 2 and all(runner.forwards == 0 for runner in teachers)


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
