"""The teacher cache gives what the teacher gives, runs it once, and is found again only by what it was made from."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from compressor.checkpoints.save import save_network
from compressor.data.batches import Batch, Batches, View
from compressor.data.build import build_store
from compressor.data.cache_folder import CacheFolder
from compressor.data.output_file import HEADER
from compressor.data.store import ImageStore
from compressor.data.teacher_cache import TeacherCache, difference, image_key, teacher_key
from compressor.errors import SrkdError, UsageError
from compressor.imagesets import ImagePair
from compressor.networks.base import Network
from compressor.networks.compact import CompactSpec
from compressor.networks.edsr import EDSRSpec
from compressor.networks.registry import build
from compressor.resize import imresize
from compressor.teacher import Teacher, load_teacher
from compressor.training.loop import train
from compressor.training.method import PlainMethod
from compressor.training.stage import Stage
from compressor.training.state import State
from compressor.training.step import Cast, Runner, Step
from recipes.loading import load_preset
from recipes.logits import Logits
from srkd.cli import run as srkd_in_process
from srkd.compression import compress, resume
from tests.foreign_models import save_onnx, twin
from tests.test_training import Recorder

SCALE, PATCH = 2, 8
SETTINGS = ("schedule.batch=2", f"schedule.lr_patch={PATCH}", "schedule.validate_every=3", "schedule.rate=1e-3")


def noise(h: int, w: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def images(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> tuple[ImagePair, ...]:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        Image.fromarray(noise(50 + 6 * seed, 70 - 2 * seed, seed)).save(folder / f"{seed}.png")
    return tuple(ImagePair(str(seed), folder / f"{seed}.png", None) for seed in seeds)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return build_store(images(tmp_path / "photos"), scale=SCALE, lr_patch=PATCH)


def edsr(seed: int = 0, width: int = 6) -> Network:
    return build(EDSRSpec(scale=SCALE, width=width, depth=1), seed=seed)


def symmetric() -> Network:
    """The average of EDSR over the eight symmetries commutes with each of them."""

    class Symmetric(type(edsr())):  # type: ignore[misc]
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            views = [lr, lr.flip(-1), lr.flip(-2), lr.flip(-1, -2)]
            outs = [super(Symmetric, self).forward(v) for v in [*views, *(v.transpose(-1, -2) for v in views)]]
            outs[4:] = [out.transpose(-1, -2) for out in outs[4:]]
            flips = [(), (-1,), (-2,), (-1, -2)]
            return torch.stack([out.flip(flips[k % 4]) for k, out in enumerate(outs)]).mean(0)

    network = edsr()
    network.__class__ = Symmetric
    return network


def counting(teacher: Teacher) -> list[tuple[int, ...]]:
    """The shapes of everything the teacher is fed from now on."""
    fed: list[tuple[int, ...]] = []
    assert teacher.network is not None
    teacher.network.register_forward_pre_hook(lambda _, inputs: fed.append(tuple(inputs[0].shape)))
    return fed


def served(
    teacher: Teacher, store: ImageStore, folder: Path, views: Sequence[View] = ("whole",), batch: int = 8
) -> Batches:
    cache = TeacherCache.plan(teacher, store, views, folder=CacheFolder(folder), lr_patch=PATCH)
    plain = Batches.over(store, batch=batch, lr_patch=PATCH, seed=5)
    return plain.labelled(cache.filled(teacher))


def upright(batches: Batches) -> Batches:
    """The same patches without symmetries."""

    @dataclass(frozen=True)
    class Upright(type(batches.sampler)):  # type: ignore[misc]
        def draw(self, step, samples):
            drawn = super().draw(step, samples)
            still = torch.zeros_like(drawn.hflip)
            return replace(drawn, hflip=still, vflip=still, transpose=still)

    return replace(batches, sampler=Upright(**vars(batches.sampler)))


def inner(images: torch.Tensor, radius: int) -> torch.Tensor:
    return images[..., radius * SCALE : -radius * SCALE, radius * SCALE : -radius * SCALE]


@pytest.mark.parametrize("spec", [EDSRSpec(scale=SCALE, width=4, depth=1), CompactSpec(scale=SCALE, width=4, depth=1)])
def test_cached_crops_are_direct_outputs_away_from_patch_borders(spec, store, tmp_path):
    teacher = Teacher(build(spec, seed=1))
    radius = teacher.descriptor.receptive_radius
    assert radius is not None
    big = replace(upright(served(teacher, store, tmp_path / "cache")), samples=range(16))
    big = replace(big, sampler=replace(big.sampler, lr_patch=2 * radius + 3))
    batch = big.at(0)
    known = batch.labels["whole"]
    assert known.lr is batch.lr
    torch.testing.assert_close(inner(known.sr, radius), inner(teacher(batch.lr), radius), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(known.sr, teacher(batch.lr), atol=1e-3), "a patch border must show somewhere"


def test_of_a_symmetric_teacher_the_symmetries_are_exact_too(store, tmp_path):
    radius = 5
    sampled = served(Teacher(symmetric()), store, tmp_path / "a")
    lopsided = served(Teacher(edsr()), store, tmp_path / "b")
    gaps = []
    for batches, teacher in ((sampled, Teacher(symmetric())), (lopsided, Teacher(edsr()))):
        batches = replace(batches, sampler=replace(batches.sampler, lr_patch=2 * radius + 3))
        batch = batches.at(3)
        gaps.append(float((inner(batch.labels["whole"].sr, radius) - inner(teacher(batch.lr), radius)).abs().max()))
    assert gaps[0] < 2e-3 < 10 * gaps[0] < gaps[1]


def test_values_are_unclamped_and_the_figure_says_how_far_they_are(store, tmp_path):
    loud = edsr()
    with torch.no_grad():
        for parameter in loud.parameters():
            parameter.mul_(1.7)
    teacher = Teacher(loud)
    batches = served(teacher, store, tmp_path)
    batch = batches.at(0)
    sr = batch.labels["whole"].sr
    assert float(sr.min()) < -0.01 and float(sr.max()) > 1.01
    few = replace(batches, samples=range(4)).at(0)
    error = (few.labels["whole"].sr - teacher(few.lr)).square().mean(dim=(1, 2, 3)).double()
    assert difference(teacher, batches)["whole"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-3)


def test_the_teacher_runs_once_an_image_and_never_again(store, tmp_path):
    teacher = Teacher(edsr())
    fed = counting(teacher)
    served(teacher, store, tmp_path)
    assert len(fed) == len(store)
    again = served(teacher, store, tmp_path)
    assert len(fed) == len(store)
    assert torch.isfinite(again.at(0).labels["whole"].sr).all()


def test_more_images_need_only_what_is_new(store, tmp_path):
    teacher = Teacher(edsr())
    before = served(teacher, store, tmp_path / "cache").at(1).labels["whole"].sr
    fed = counting(teacher)
    larger = build_store(images(tmp_path / "photos", (3, 0, 1, 2)), scale=SCALE, lr_patch=PATCH)
    first = served(teacher, larger, tmp_path / "cache")
    assert fed == [(1, *larger.lr.image(0).shape)]
    assert torch.equal(
        first.labels["whole"].outputs.image(1),
        served(teacher, store, tmp_path / "new").labels["whole"].outputs.image(0),
    )
    assert torch.equal(served(teacher, store, tmp_path / "cache").at(1).labels["whole"].sr, before)


def test_packed_outputs_give_the_same_patches_and_hold_nothing_else(store, tmp_path):
    teacher = Teacher(edsr())
    larger = build_store(images(tmp_path / "photos", (3, 0, 1, 2)), scale=SCALE, lr_patch=PATCH)
    served(teacher, larger, tmp_path / "cache", ("whole", "zoom-out"))
    mapped = served(teacher, store, tmp_path / "cache", ("whole", "zoom-out"))
    moved = replace(mapped, labels={view: one.to(torch.device("cpu")) for view, one in mapped.labels.items()})
    for view in ("whole", "zoom-out"):
        assert torch.equal(mapped.at(2).labels[view].sr, moved.at(2).labels[view].sr)
    plane = moved.labels["whole"].outputs
    assert (
        plane.flat.numel()
        == int((3 * plane.heights * plane.widths).sum())
        < mapped.labels["whole"].outputs.flat.numel()
    )


def test_a_fill_that_dies_continues_where_it_was(store, tmp_path):
    class Dying(Teacher):
        lives = 2

        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            self.lives -= 1
            if self.lives < 0:
                raise KeyboardInterrupt
            return super().forward(lr)

    with pytest.raises(KeyboardInterrupt):
        served(Dying(edsr()), store, tmp_path / "cache")
    teacher = Teacher(edsr())
    fed = counting(teacher)
    continued = served(teacher, store, tmp_path / "cache")
    assert len(fed) == 1
    straight = served(teacher, store, tmp_path / "other")
    assert torch.equal(continued.at(0).labels["whole"].sr, straight.at(0).labels["whole"].sr)


def test_runs_that_want_the_same_outputs_at_once_share_the_work(store, tmp_path):
    teachers = [Teacher(edsr()) for _ in range(3)]
    fed = [counting(teacher) for teacher in teachers]
    with ThreadPoolExecutor(3) as pool:
        batches = list(pool.map(lambda teacher: served(teacher, store, tmp_path), teachers))
    assert sum(map(len, fed)) == len(store)
    first, *others = (one.at(0).labels["whole"].sr for one in batches)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "torn line", "no line", "nonsense"])
def test_damage_is_made_good(damage, store, tmp_path):
    teacher = Teacher(edsr())
    wanted = served(teacher, store, tmp_path / "cache").at(0).labels["whole"].sr
    (data,), (index,) = (list((tmp_path / "cache").rglob(f"*.{kind}")) for kind in ("fp16", "jsonl"))
    values, lines = bytearray(data.read_bytes()), index.read_bytes()
    if damage == "flipped":
        values[len(HEADER) + 1] ^= 64
        data.write_bytes(values)
    elif damage == "short":
        data.write_bytes(values[:-7])
    elif damage == "gone":
        data.unlink()
    else:
        broken = {
            "torn line": lines[:-9],
            "no line": lines[: lines.rindex(b"{")],
            "nonsense": b'{"key": 3}\n[]\n\xff\n',
        }
        index.write_bytes(broken[damage])
    fed = counting(teacher)
    assert torch.equal(served(teacher, store, tmp_path / "cache").at(0).labels["whole"].sr, wanted)
    made_anew = 3 if damage in ("gone", "nonsense") else 1
    assert len(fed) == made_anew
    served(teacher, store, tmp_path / "cache")
    assert len(fed) == made_anew


def test_it_keeps_to_the_limit_and_is_not_removed_while_in_use(store, tmp_path):
    teacher, path = Teacher(edsr()), tmp_path / "cache"
    cache = TeacherCache.plan(teacher, store, ["whole"], folder=CacheFolder(path, 10_000), lr_patch=PATCH)
    fed = counting(teacher)
    with pytest.raises(SrkdError, match=r"--teacher-cache needs .* may hold .*: raise --cache-size"):
        cache.filled(teacher)
    assert fed == []
    batches = served(teacher, store, path)
    assert not CacheFolder(path, 10_000).make_room(9_999)
    wanted = batches.at(0).labels["whole"].sr
    del batches
    gc.collect()
    assert CacheFolder(path, 10_000).make_room(9_999)
    assert torch.equal(served(teacher, store, path).at(0).labels["whole"].sr, wanted) and len(fed) == 6


def test_the_key_is_teacher_image_view_and_precision(store, tmp_path):
    def files(teacher: Teacher, view: View = "whole", **options: object) -> str:
        cache = TeacherCache.plan(teacher, store, [view], folder=CacheFolder(tmp_path), lr_patch=PATCH, **options)
        return json.dumps(cache.facts()["views"][view]["entry"])

    one = files(Teacher(edsr()))
    assert one == files(Teacher(edsr()))
    nudged = edsr()
    with torch.no_grad():
        next(nudged.parameters()).view(-1)[0] += 1e-6
    others = {
        files(Teacher(nudged)),
        files(Teacher(edsr()), "zoom-out"),
        files(Teacher(edsr()), precision="bf16"),
        one,
    }
    assert len(others) == 4
    image = store.lr.image(0)
    touched = image.clone()
    touched[2, -1, -1] ^= 1
    reshaped = image.reshape(3, image.shape[2], image.shape[1])
    assert len({image_key(image), image_key(touched), image_key(reshaped)}) == 3


def test_foreign_files_differ_by_their_bytes_and_their_range_and_are_served(store, tmp_path):
    path, same_weights = tmp_path / "1.onnx", tmp_path / "2.onnx"
    one = load_teacher(save_onnx(twin(SCALE, 1), path))
    other = load_teacher(save_onnx(twin(SCALE, 1), same_weights, batch=2))
    loud = load_teacher(path, arch_options={"img_range": 255})
    assert one.fingerprint() == other.fingerprint()
    assert len({teacher_key(teacher) for teacher in (one, other, loud)}) == 3
    batch = upright(served(one, store, tmp_path)).at(0)
    radius = 1
    torch.testing.assert_close(
        inner(batch.labels["whole"].sr, radius), inner(one(batch.lr), radius), atol=1e-3, rtol=1e-3
    )


def test_bf16_outputs_are_those_of_bf16(store, tmp_path):
    teacher = Teacher(edsr())
    exact, coarse = (
        TeacherCache.plan(teacher, store, ["whole"], folder=CacheFolder(tmp_path), lr_patch=PATCH, precision=precision)
        .filled(teacher)["whole"]
        .outputs.image(0)
        .float()
        for precision in ("fp32", "bf16")
    )
    gap = float((exact - coarse).abs().max())
    assert 1e-4 < gap < 0.05


@pytest.mark.parametrize("value, told", [(1e6, "1e+06"), (float("nan"), "nan"), (float("-inf"), "inf")])
def test_what_half_precision_cannot_hold_names_the_image(value, told, store, tmp_path):
    class Loud(Teacher):
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            sr = super().forward(lr)
            if lr.shape[-2:] == store.lr.image(1).shape[-2:]:
                sr[0, 0, 0, 0] = value
            return sr

    with pytest.raises(SrkdError, match="image 1: ") as caught:
        served(Loud(edsr()), store, tmp_path)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@dataclass(frozen=True)
class Upcycled(PlainMethod):
    """A method that wants the teacher's output for the batch shrunk once more."""

    name: str = "upcycled"
    needs_teacher: bool = True
    needs_network: bool = False
    teacher_views: tuple[View, ...] = ("zoom-out",)

    @property
    def weights(self) -> dict[str, float]:
        return {"zoom_out": 1.0}

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        return nn.ModuleDict()

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        shrunk = step.zoomed_out()
        return {"zoom_out": F.l1_loss(step.student(shrunk).sr, step.teacher(shrunk).sr)}


def test_zoomed_out_without_a_cache_is_the_batch_shrunk_and_the_teacher_runs():
    lr = torch.rand(2, 3, PATCH, PATCH)
    student, teacher = Runner(edsr(), trains=True), Runner(edsr(1), trains=False)
    step = Step(0, 0, Batch(lr, lr), Cast([student], teacher))
    assert step.zoomed_out() is step.zoomed_out()
    assert torch.equal(step.zoomed_out(), imresize(lr, 1 / SCALE))
    Upcycled().terms(step)
    assert teacher.forwards == 1 and student.forwards == 1


def test_zoomed_out_patches_lie_where_the_batch_lies(tmp_path):
    """LR images of constant cells, as large as the scale and blurred by nothing: shrinking gives the cells again."""
    scale, patch = 3, 12
    cells = noise(30, 34, 7)
    Image.fromarray(cells.repeat(9, 0).repeat(9, 1)).save(tmp_path / "hr.png")
    Image.fromarray(cells.repeat(3, 0).repeat(3, 1)).save(tmp_path / "lr.png")
    store = build_store([ImagePair("a", tmp_path / "hr.png", tmp_path / "lr.png")], scale=scale, lr_patch=patch)
    teacher = Teacher(build(EDSRSpec(scale=scale, width=4, depth=1), seed=0))
    cache = TeacherCache.plan(teacher, store, ["zoom-out"], folder=CacheFolder(tmp_path / "cache"), lr_patch=patch)
    batches = Batches.over(store, batch=32, lr_patch=patch, seed=0).labelled(cache.filled(teacher))
    drawn = batches.sampler.draw(0, range(2000))
    assert not (drawn.tops % scale).any() and not (drawn.lefts % scale).any()
    assert int(drawn.tops.max()) == 90 - patch and int(drawn.lefts.max()) == 102 - patch
    batch = batches.at(0)
    known = batch.labels["zoom-out"]
    assert known.lr.shape[-1] == patch // scale and known.sr.shape[-1] == patch
    own = imresize(batch.lr, 1 / scale)
    assert torch.allclose(known.lr[..., 2:-2, 2:-2], own[..., 2:-2, 2:-2], atol=1e-3)
    assert not torch.allclose(known.lr, own, atol=1e-3), "borders differ: the image goes on where the patch ends"


def test_zoomed_out_targets_are_the_teachers_for_the_very_input(store, tmp_path):
    teacher = Teacher(build(CompactSpec(scale=SCALE, width=4, depth=1), seed=1))
    batches = upright(served(teacher, store, tmp_path, ("zoom-out", "whole")))
    wide = 2 * (2 * teacher.descriptor.receptive_radius + 2)
    batch = replace(batches, sampler=replace(batches.sampler, lr_patch=wide)).at(0)
    known, radius = batch.labels["zoom-out"], teacher.descriptor.receptive_radius
    torch.testing.assert_close(inner(known.sr, radius), inner(teacher(known.lr), radius), atol=1e-3, rtol=1e-3)
    assert set(batch.labels) == {"whole", "zoom-out"}


def test_patches_that_cannot_be_shrunk_are_refused(store, tmp_path):
    with pytest.raises(UsageError, match=r"schedule.lr_patch=9.*multiple of 2.*schedule.lr_patch=8"):
        TeacherCache.plan(Teacher(edsr()), store, ["zoom-out"], folder=CacheFolder(tmp_path), lr_patch=9)
    TeacherCache.plan(Teacher(edsr()), store, ["whole"], folder=CacheFolder(tmp_path), lr_patch=9)


def stage(*methods: object, steps: int = 3) -> Stage:
    return load_preset("scratch", [f"schedule.steps={steps}"]).stage(methods)  # type: ignore[arg-type]


@pytest.mark.parametrize("methods", [(Logits(),), (Upcycled(),), (Logits(), Upcycled())])
def test_training_with_a_cache_never_runs_the_teacher(methods, store, tmp_path):
    teacher = Teacher(edsr(1))
    views = tuple(view for method in methods for view in method.teacher_views)
    batches = served(teacher, store, tmp_path, views, batch=2)
    fed = counting(teacher)
    one, recorder = stage(*methods), Recorder()
    train(one, State.fresh(edsr(2), teacher.network, one), batches, teacher.network, recorder, seed=0)
    assert fed == [] and len(recorder.losses) == 3
    assert all(value > 0 for value in recorder.losses[0].values())


def test_a_term_that_wants_features_makes_the_teacher_run(store, tmp_path):
    teacher = Teacher(edsr(1))
    batch = served(teacher, store, tmp_path).at(0)
    frozen = Runner(teacher.network, trains=False)
    step = Step(0, 0, batch, Cast([Runner(edsr(2), trains=True)], frozen))
    assert torch.equal(step.teacher().sr, batch.labels["whole"].sr) and frozen.forwards == 0
    featured = step.teacher(taps=("body_end",))
    assert frozen.forwards == 1 and featured.features["body_end"].shape[1] == 6
    torch.testing.assert_close(featured.sr, teacher(batch.lr))
    step.teacher(torch.rand(1, 3, 5, 5))
    assert frozen.forwards == 2


@pytest.fixture
def given(tmp_path, monkeypatch) -> dict[str, object]:
    """A teacher's file, photos, and a cache folder of the test's own."""
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "cache"))
    save_network(edsr(3, width=8), tmp_path / "teacher.safetensors", metadata={})
    images(tmp_path / "photos")
    return {"teacher": tmp_path / "teacher.safetensors", "data": tmp_path / "photos", "settings": SETTINGS}


def test_a_run_records_its_cache_and_resumes_to_the_same_bytes(given, tmp_path):
    lines: list[str] = []
    straight = compress(**given, steps=6, teacher_cache=True, out=tmp_path / "straight", announce=lines.append)
    facts = json.loads((tmp_path / "straight/run.json").read_text())
    kept = facts["teacher_cache"]
    assert facts["request"]["teacher_cache"] is True and kept["precision"] == "fp32"
    whole = kept["views"]["whole"]
    assert (tmp_path / "cache" / whole["entry"] / "outputs.fp16").stat().st_size == whole["bytes"] + len(HEADER)
    assert any("PSNR between cached and direct targets on 4 patches: whole" in line for line in lines)
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        compress(**given, steps=6, teacher_cache=True, out=stopped, announce=stop_at("step 3/6"))
    shutil.rmtree(tmp_path / "cache")
    again = resume(stopped)
    assert again.student_path.read_bytes() == straight.student_path.read_bytes()
    without = compress(**given, steps=6, out=tmp_path / "without")
    assert without.student_path.read_bytes() != straight.student_path.read_bytes()
    assert json.loads((tmp_path / "without/run.json").read_text())["teacher_cache"] is None


def test_without_hr_images_the_cache_gives_the_labels_of_every_recipe(given, tmp_path, monkeypatch):
    fed = []
    forward = Runner.__call__
    monkeypatch.setattr(Runner, "__call__", lambda runner, *asked: fed.append(runner) or forward(runner, *asked))
    report = compress(
        given["teacher"],
        lr_only=given["data"],
        recipe="scratch",
        steps=2,
        teacher_cache=True,
        out=tmp_path / "run",
        settings=SETTINGS,
    )
    assert report.images_used == 3
    teachers = [runner for runner in fed if not runner.trains]
    assert len(teachers) == 2 and all(runner.forwards == 0 for runner in teachers)


def stop_at(beginning: str):
    """An ear that dies at a line."""

    def announce(line: str) -> None:
        if line.startswith(beginning):
            raise KeyboardInterrupt

    return announce


@pytest.mark.parametrize(
    "recipe, told",
    [("logits-paper", "repeats a published run"), ("scratch", "has no teacher"), ("inherit", "wants other things")],
)
def test_recipes_without_use_for_a_cache_refuse_it(recipe, told, given, tmp_path, capfd):
    words = ["--teacher", given["teacher"], "--data", given["data"], "--recipe", recipe, "--out", tmp_path / "run"]
    assert srkd_in_process(["compress", *map(str, words), "--teacher-cache"]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert told in message and "--teacher-cache" in message
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()
