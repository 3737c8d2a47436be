"""Degradations in batches, fits, validation, evaluate, exports and run folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compressor.base.errors import UsageError
from compressor.data.batches import Batches, draw_calibration_patches, gather
from compressor.data.prepare import DataChoice, ValidationFolder, prepare_data
from compressor.data.store import ImageStore
from compressor.degradation.chain import Degradation, read_degradation
from compressor.degradation.like import MOST_BLUR, PictureMeasured, _as_line, measure_like, measure_picture
from compressor.images.files import Picture, read_rgb_u8, write_picture
from compressor.images.resize import mod_crop
from compressor.images.sets import embedded_photos
from compressor.models.networks.registry import build
from compressor.models.students.students import parse_student
from export.int8.calibration import calibration_patches
from srkd.cli.main import run
from tests.support.shared import needs_shared, shared
from tests.support.small_runs import save_photos

STEPS = "blur=0..1,noise=2..8,jpeg=40..80"
DEGRADATION = read_degradation(STEPS)
SCRATCH = ["compress", "--student", "compact:width=8,depth=1,scale=2", "--recipe", "scratch", "--steps", "2"]
SCRATCH += ["--batch", "2", "--lr-patch", "12", "--data", "photos", "--cache-size", "0"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that a test runs in, with photos."""
    save_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)


def store_of(folder: Path, kind: str = "data", **choices: Any) -> ImageStore:
    """Return the store of photos, or of the same files as LR images."""
    choice = DataChoice(**{kind: save_photos(folder)}, cache_size=0, degradation=DEGRADATION, **choices)
    return prepare_data(choice, scale=2, lr_patch=12).train


def test_every_process_and_every_start_has_the_same_degraded_patches(tmp_path: Path) -> None:
    store = store_of(tmp_path / "photos")
    whole = Batches.for_store(store, batch=6, lr_patch=12, seed=4)
    parts = [whole.for_samples(samples) for samples in (range(2), range(2, 6))]
    for step in (0, 3):
        assert torch.equal(torch.cat([part.at(step).lr for part in parts]), whole.at(step).lr)
    again = Batches.for_store(store, batch=6, lr_patch=12, seed=4)  # as after a kill: nothing was drawn before
    assert torch.equal(again.at(3).lr, whole.at(3).lr)
    assert not torch.equal(whole.at(3).lr, whole.at(4).lr)
    assert not torch.equal(Batches.for_store(store, batch=6, lr_patch=12, seed=5).at(3).lr, whole.at(3).lr)


@pytest.mark.parametrize("kind", ["data", "lr_only"])
def test_patches_are_those_of_the_originals_and_labels_stay_clean(kind: str, tmp_path: Path) -> None:
    """LR images without originals are degraded again."""
    store = store_of(tmp_path / "photos", kind)
    clean = Batches.for_store(replace(store, degraded=None), batch=6, lr_patch=12, seed=4).at(0)
    batch = Batches.for_store(store, batch=6, lr_patch=12, seed=4).at(0)
    assert batch.hr is None if kind == "lr_only" else torch.equal(batch.hr, clean.hr)
    assert batch.lr.shape == clean.lr.shape
    difference = (batch.lr - clean.lr).abs().mean()
    assert 0.005 < float(difference) < 0.1  # noisy, but of the same places
    assert torch.equal((batch.lr * 255).round() / 255, batch.lr)


def test_a_teacher_that_sees_more_sees_the_same_degraded_pixels() -> None:
    store = prepare_data(DataChoice(degradation=DEGRADATION), scale=2, lr_patch=12).train
    wider = replace(Batches.for_store(store, batch=4, lr_patch=12, seed=4), teacher_side=28).at(0)
    assert wider.wider.lr.shape[-1] == 28
    assert torch.equal(wider.wider.crop(wider.wider.lr), wider.lr)


def test_a_fit_is_made_on_degraded_patches_chosen_by_the_clean_ones(tmp_path: Path) -> None:
    store = store_of(tmp_path / "photos")
    clean = draw_calibration_patches(replace(store, degraded=None), seed=3, count=6, side=12)
    degraded = draw_calibration_patches(store, seed=3, count=6, side=12)
    assert 0.005 < float((clean - degraded).abs().mean()) < 0.1
    assert torch.equal(degraded, draw_calibration_patches(store, seed=3, count=6, side=12))


def test_images_that_are_degraded_once_have_one_draw_for_all_patches(tmp_path: Path) -> None:
    anew, once = (store_of(tmp_path / str(kept) / "photos", degrades_once=kept) for kept in (False, True))
    assert torch.equal(once.clean_lr.flat, anew.lr.flat)
    for index, name in enumerate(once.names):
        assert torch.equal(once.lr.image(index), DEGRADATION.of_image(once.hr.image(index), 2, name))
    assert once.digest() != anew.digest()
    batches = Batches.for_store(once, batch=6, lr_patch=12, seed=4)
    draw = batches.sampler.draw(3, range(6))
    assert torch.equal(batches.at(3).lr, gather(once.lr, draw, 12, 1).float() / 255)
    textured = [Batches.for_store(store, batch=6, lr_patch=12, seed=4, candidates=3) for store in (anew, once)]
    expected = gather(anew.lr, textured[0].sampler.draw(3, range(6)), 12, 1).float() / 255
    assert all(torch.equal(of.undegraded().at(3).lr, expected) for of in textured)


@pytest.mark.ci
def test_a_teachers_images_of_degraded_photos_are_kept(
    desk: None, capsys: pytest.CaptureFixture[str], teacher: Path
) -> None:
    line = ["compress", "--teacher", str(teacher), "--recipe", "logits", "--width", "0.5", "--init", "inherit"]
    line += ["--steps", "4", "--batch", "2", "--lr-patch", "12", "--data", "photos", "--degrade", STEPS]
    assert run([*line, "--teacher-cache", "--out", "run"]) == 0
    assert "each of the 3 images is degraded once" in capsys.readouterr().out
    facts = json.loads(Path("run/run.json").read_text())
    assert facts["teacher_cache"]["bytes"] > 0 and facts["degradation"]["name"] == STEPS
    student = Path("run/student.safetensors").read_bytes()
    assert run([*line, "--teacher-cache", "--out", "again"]) == 0
    assert Path("again/student.safetensors").read_bytes() == student


def test_validation_has_a_degraded_set_before_each_clean_one(tmp_path: Path) -> None:
    save_photos(tmp_path / "photos")
    choice = DataChoice(val=(ValidationFolder(tmp_path / "photos", "mine"),), cache_size=0, degradation=DEGRADATION)
    sets = prepare_data(choice, scale=2, lr_patch=12).validation
    assert [each.name for each in sets] == [f"mine ({STEPS})", "mine"]
    for degraded, clean in zip(sets[0].images, sets[1].images, strict=True):
        assert degraded.lr.shape == clean.lr.shape and not torch.equal(degraded.lr, clean.lr)
        assert torch.equal(degraded.hr, clean.hr)  # type: ignore[arg-type]
        # By its name alone, also in another set.
        assert torch.equal(degraded.lr[0], DEGRADATION.of_image(clean.hr[0], 2, clean.name))  # type: ignore[index]


@pytest.mark.ci
def test_a_run_scores_as_evaluate_does_and_says_what_its_images_suffered(
    desk: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*SCRATCH, "--val", "photos", "--degrade", STEPS, "--out", "run"]) == 0
    facts = json.loads(Path("run/run.json").read_text())
    assert facts["options"]["degrade"] == STEPS
    assert [next(iter(step)) for step in facts["degradation"]["steps"]] == ["blur", "shrink", "noise", "jpeg"]
    capsys.readouterr()
    assert run(["evaluate", "run", "--data", "photos", "--degrade", STEPS, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["protocol"].endswith(f"degraded={STEPS}")
    measured = facts["result"]["student"]["sets"][f"photos ({STEPS})"]["psnr_y"]
    assert scores["models"]["run"]["sets"]["photos"]["psnr_y"] == pytest.approx(measured, abs=1e-3)
    # The file of the student says it, too, and so do its card and its report.
    assert facts["result"]["protocol"] == scores["protocol"]
    assert run(["inspect", "run", "--json"]) == 0
    assert STEPS in capsys.readouterr().out
    assert run(["export", "run", "--onnx"]) == 0
    card = Path("run/student.md").read_text()
    assert f"trained on degraded images: {STEPS}" in card and f"degraded={STEPS}" in card
    assert run(["report", "run", "--out", "report.html"]) == 0
    assert f"degraded: {STEPS}" in Path("report.html").read_text()


def test_a_changed_file_of_steps_ends_a_continued_run(desk: None) -> None:
    Path("mine.yaml").write_text("steps:\n- noise: {sigma: 4}\n")
    assert run([*SCRATCH, "--degrade", "mine.yaml", "--out", "run"]) == 0
    facts = json.loads(Path("run/run.json").read_text())
    del facts["result"]
    Path("run/run.json").write_text(json.dumps(facts))
    Path("mine.yaml").write_text("steps:\n- noise: {sigma: 5}\n")
    assert run(["compress", "--resume", "run"]) == 1


def test_every_second_patch_of_int8s_calibration_is_degraded() -> None:
    descriptor = build(parse_student("compact:width=8,depth=1", scale=2), seed=0).descriptor
    clean = calibration_patches(descriptor)
    degraded = calibration_patches(descriptor, None, DEGRADATION)
    assert degraded.source.endswith(f"every second one degraded by {STEPS}, flat colours")
    assert 0.3 < float((clean.patches != degraded.patches).flatten(1).any(1).float().mean()) < 0.6
    assert Degradation.of_header({}) is None
    assert Degradation.of_header({"srkd.degradation": "{"}) is None
    assert Degradation.of_header({"srkd.degradation": json.dumps(DEGRADATION.to_json())}) == read_degradation(STEPS)


@pytest.mark.ci
@needs_shared
@pytest.mark.parametrize(
    ("how", "noise", "blur", "quality"),
    [
        ("noise=6", (5, 7), (0, 0.35), None),
        ("jpeg=50", (0, 2), (0, 0.5), 50),
        ("jpeg=80", (0, 2.5), (0, 0.5), 80),
        ("blur=1", (0, 1.5), (0.6, 1.4), None),
    ],
)
def test_what_a_folder_suffers_is_measured(
    how: str, noise: tuple[float, float], blur: tuple[float, float], quality: int | None, tmp_path: Path
) -> None:
    degradation = read_degradation(how)
    photos = sorted((shared() / "data" / "train" / "BSDS400").iterdir())[:12]
    for path in photos:
        lr_u8 = degradation.of_image(mod_crop(read_rgb_u8(path), 2), 2, path.stem)
        write_picture(Picture(lr_u8.float() / 255), tmp_path / f"{path.stem}.png")
    measured = [measure_picture(path) for path in sorted(tmp_path.iterdir())]
    middle = sorted(measured, key=lambda picture: picture.noise)[6]  # type: ignore[union-attr]
    assert noise[0] <= middle.noise <= noise[1]
    blurs = sorted(picture.blur for picture in measured if picture is not None)
    assert blur[0] <= blurs[6] <= blur[1]
    assert [picture.quality for picture in measured if picture is not None].count(quality) >= 10
    text, _ = measure_like(tmp_path, "--degrade like:")
    assert read_degradation(text) is not None
    assert (quality is not None) == ("jpeg=" in text)


def test_a_jpeg_file_tells_its_own_quality(tmp_path: Path) -> None:
    photo = next(iter(embedded_photos("val").values()))
    for qualities, words in (((30, 60, 90), "jpeg=30..90"), ((100, 100, 100), "jpeg=100"), ((5, 100), "jpeg=5..100")):
        folder = tmp_path / words
        folder.mkdir()
        for number, quality in enumerate(qualities):
            Image.open(photo).convert("RGB").save(folder / f"{number}.jpg", quality=quality)
        text, pictures = measure_like(folder, "--degrade like:")
        assert words in text.split(",") and read_degradation(text) is not None and pictures == len(qualities)


@given(st.lists(st.builds(PictureMeasured, st.floats(0, 255), st.floats(0, MOST_BLUR), st.floats(1, 100)), min_size=1))
def test_whatever_is_measured_reads_back(measured: list[PictureMeasured]) -> None:
    degradation = read_degradation(_as_line(measured))
    steps = {} if degradation is None else {step.name: step for step in degradation.steps}
    for name, figure in (("blur", "blur"), ("noise", "noise"), ("jpeg", "quality")):
        read = getattr(steps[name], str(steps[name].short)) if name in steps else (0, 0)
        values = sorted(getattr(picture, figure) for picture in measured)
        tenth = len(values) // 10
        assert read == pytest.approx((values[tenth], values[-1 - tenth]), abs=0.0051)


def test_pictures_that_cannot_be_measured_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        measure_like(tmp_path / "none", "--degrade like:")
    write_picture(Picture(torch.zeros(3, 20, 20)), tmp_path / "small.png")
    with pytest.raises(UsageError, match="48 pixels a side"):
        measure_like(tmp_path, "--degrade like:")


def test_srkd_data_tells_and_shows(desk: None, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["data", "photos", "--scale", "2", "--lr-patch", "12"]
    assert run([*line, "--degrade", "jpeg=30", "--show", "look", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == len(list(Path("photos").iterdir()))
    assert report["degradation"]["name"] == "jpeg=30"
    picture = read_rgb_u8(Path(report["sheet"]))
    assert run([*line, "--show", "clean"]) == 0
    assert picture.shape[1] == 2 * read_rgb_u8(Path("clean/patches.png")).shape[1]
    assert "look: clean/patches.png" in capsys.readouterr().out
    folder = next(iter(embedded_photos("val").values())).parent
    assert run([*line, "--degrade", f"like:{folder}"]) == 0
    assert "2 pictures of" in capsys.readouterr().out
