"""Evaluation to a teacher's images, beside the originals or without any, and of films; the table of metrics."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import Tensor

import srkd
from compressor.base.errors import SrkdError, UsageError
from compressor.degradation.jpeg import jpeg
from compressor.images.files import Picture, read_rgb_u8, write_picture
from compressor.images.metrics import ImageTooSmall, luma, psnr, ssim, to_u8
from compressor.images.resize import downscale_u8, upscale_bicubic
from compressor.images.sets import LrImage, LrSet, embedded_photos, find_lr_images, find_sets
from compressor.inference import packaged_metrics
from compressor.inference.evaluate import EvaluationSettings, evaluate
from compressor.inference.metric_table import LOOKS, METRICS
from compressor.models.networks.base import Descriptor
from srkd.api.evaluate import worse_than_lanczos
from tests.support.fakes import Fake, nearest, nearest_model

MEASURED = EvaluationSettings(2, metrics=("psnr", "ssim", "sharpness", "spectrum", "high"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    noise = torch.rand(2, 3, 30, 32, generator=torch.Generator().manual_seed(1))
    for index, picture in enumerate(upscale_bicubic(noise, 4).clamp(0, 1)):
        write_picture(Picture(picture), tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def test_both_references_are_scored_side_by_side(photos: Path) -> None:
    sets, teacher, other = find_sets(photos, scale=2), nearest_model(2, "teacher"), nearest_model(2, "other")
    result = evaluate([teacher, other], sets, MEASURED, teacher=teacher)
    assert (result.references, result.teacher) == (("original", "teacher"), "teacher")
    bicubic, equal = result.models["bicubic"]["photos"], result.models["other"]["photos"]
    # The teacher's images are what nearest makes of the same LR images.
    hr = read_rgb_u8(photos / "0.png")
    lr = downscale_u8(hr, 2).float()[None] / 255
    ours, theirs = (to_u8(sr) / 255 for sr in (upscale_bicubic(lr, 2), nearest_model(2).run(lr)))
    first = bicubic.images["0"]
    assert first.psnr_y_teacher == pytest.approx(psnr(luma(ours), luma(theirs), border=2).item())
    assert first.ssim_y_teacher == pytest.approx(ssim(luma(ours), luma(theirs), border=2).item())
    assert first.psnr_y == pytest.approx(psnr(luma(ours), luma(hr[None] / 255), border=2).item())
    assert bicubic["sharpness_teacher"] < 1 and bicubic["high_frequencies_teacher"] < 0
    assert math.isinf(equal.psnr_y_teacher) and not math.isinf(equal.psnr_y)
    assert [equal[f"{key}_teacher"] for key in ("sharpness", "spectrum", "high_frequencies")] == [1, 0, 0]
    assert list(result.models)[:2] == ["bicubic", "lanczos"] and list(result.networks) == ["teacher", "other"]
    # A teacher changes no figure to the originals.
    alone = evaluate([other], sets, MEASURED).models["other"]["photos"]
    assert {key: equal[key] for key in alone.figures} == alone.figures
    text = str(result).splitlines()
    assert len(text) == 9 and text[1].endswith(", to the original") and text[-1].endswith(", to the teacher teacher")
    assert "sharpness 1.000, to" not in text[-1] and "spectrum 0.000 dB" in text[-1]


def test_lr_images_alone_are_scored_to_the_teacher(photos: Path) -> None:
    lr, teacher = LrSet("frames", find_lr_images(photos)), nearest_model(2, "teacher")
    result = evaluate([teacher], [lr], MEASURED, teacher=teacher)
    score = result.models["bicubic"]["frames"]
    assert result.references == ("teacher",) and all(key.endswith("_teacher") for key in score.figures)
    with pytest.raises(SrkdError, match="psnr_y was not measured"):
        _ = score.psnr_y
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["references"] == ["teacher"] and stored["metrics"]["sharpness"] == {"unit": "", "best": "1"}
    assert stored["models"]["teacher"]["sets"]["frames"]["psnr_y_teacher"] is None
    with pytest.raises(UsageError, match="--against"):
        evaluate([teacher], [lr], MEASURED)


@pytest.mark.parametrize("name", METRICS)
def test_an_image_has_the_best_figure_to_itself(name: str) -> None:
    """Every row holds for an image with texture and for a flat one; noise is worse."""
    row = METRICS[name]
    if (missing := row.missing_requirement()) is not None:
        pytest.skip(missing)
    measure = row.load()
    images, noise = 255 * torch.rand(2, 1, 3, 120, 120, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    own, other = (measure(image, images, border=0).item() for image in (images, images + noise))
    if row.best in ("0", "1"):
        best = float(row.best)
        assert own == pytest.approx(best, abs=1e-6) and abs(other - best) > 0.01
    else:
        assert own > other if row.best == "highest" else own < other
    flat = torch.full_like(images, 99)
    assert measure(flat, flat, border=0).item() == pytest.approx(own, abs=1e-6)


def test_images_too_small_for_a_metric_are_refused_before_the_work(photos: Path) -> None:
    write_picture(Picture(torch.zeros(3, 66, 90)), photos / "small.png")
    model = nearest_model(2)
    with pytest.raises(UsageError, match=r"small\.png: the spectrum needs 64x64 pixels, the image has 86x62"):
        evaluate([model], find_sets(photos, scale=2), MEASURED)
    assert not model.inputs


def test_a_student_behind_lanczos_by_most_measures_is_told(photos: Path) -> None:
    """Bicubic itself is softer than Lanczos; the teacher, and a student that is its equal, are not worse."""
    sets, teacher = find_sets(photos, scale=2), nearest_model(2, "teacher")
    blurred = Fake(blurred_enlargement, Descriptor(scale=2, receptive_radius=0), "blurred")
    settings = EvaluationSettings(2, metrics=("psnr", *LOOKS))
    result = evaluate([teacher, nearest_model(2, "equal"), blurred], sets, settings, teacher=teacher)
    (line,) = worse_than_lanczos(result)
    assert line.startswith("warning: blurred is worse than lanczos to the teacher on photos (PSNR-Y ")
    assert "sharpness" in line and "spectrum" in line
    alone = evaluate([blurred], sets, EvaluationSettings(2))
    assert worse_than_lanczos(alone) == [] and alone.lanczos is None


def blurred_enlargement(lr: torch.Tensor) -> torch.Tensor:
    large = torch.nn.functional.pad(upscale_bicubic(lr, 2), (4, 4, 4, 4), mode="reflect")
    return torch.nn.functional.avg_pool2d(large, 9, 1)


# Flicker.


FLICKER = EvaluationSettings(2, metrics=("psnr", "flicker"))
TEACHER = nearest_model(2, "teacher")


def model(label: str, gain: float) -> Fake:
    """A model that makes the noise of its input (around 0.5) so many times as strong."""
    return Fake(lambda lr: 0.5 + gain * (nearest(2)(lr) - 0.5), Descriptor(scale=2, receptive_radius=0), label)


def noise(seed: int, *, levels: float = 3.0, mean: float = 0.5) -> Tensor:
    field = torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(seed))
    return (mean + field * levels / 255).clamp(0, 1)


@pytest.fixture
def film(tmp_path: Path) -> LrSet:
    """Three grey frames under grain, with those that follow: still, equal, and after a cut."""
    pictures = [(noise(1), noise(2)), (noise(3), noise(3)), (noise(4), noise(5, mean=0.8))]
    images = []
    for number, (frame, following) in enumerate(pictures):
        paths = tmp_path / f"{number}.png", tmp_path / f"{number}-following.png"
        for path, picture in zip(paths, (frame, following), strict=True):
            write_picture(Picture(picture), path)
        images.append(LrImage(str(number), *paths))
    return LrSet("film", tuple(images))


def test_a_student_over_its_teacher(film: LrSet) -> None:
    models = [TEACHER, model("equal", 1), model("twice", 2), model("constant", 0)]
    result = evaluate(models, [film], FLICKER, teacher=TEACHER)
    ratios = {label: sets["film"]["flicker_teacher"] for label, sets in result.models.items()}
    assert (ratios["teacher"], ratios["equal"], ratios["constant"]) == (1, 1, 0)
    assert ratios["twice"] == pytest.approx(2, rel=0.02)
    still = result.still["film"]
    assert (still.pairs, still.still_pairs) == (3, 1) and 0.2 < still.share <= 1 / 3
    # By hand: repeated pixels change as the input does, in Y.
    first, second = (read_rgb_u8(path).double() for path in (film.sources[0].lr, film.sources[0].following or Path()))
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64) / 255
    change = torch.einsum("c,chw->hw", weights, second - first).abs()[1:-1, 1:-1].mean()
    assert result.models["teacher"]["film"]["flicker"] == pytest.approx(change.item(), rel=0.05)


def test_where_nothing_stands_still_there_is_no_figure(film: LrSet) -> None:
    result = evaluate([TEACHER], [replace(film, sources=film.sources[1:])], FLICKER, teacher=TEACHER)
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    score = stored["models"]["teacher"]["sets"]["film"]
    assert score["flicker"] is None and score["flicker_teacher"] is None
    assert stored["still"]["film"]["still_pairs"] == 0
    assert "nothing stands still in 2 pairs of frames" in result.still["film"].line()
    assert "flicker -" in str(result)


def test_without_a_teacher_there_are_grey_levels(film: LrSet, tmp_path: Path) -> None:
    """The other figures are those of the frames alone; photos have no next frame."""
    teacher, half = evaluate([TEACHER, model("half", 0.5)], [film], FLICKER, teacher=TEACHER).networks.values()
    assert half["film"]["flicker"] == pytest.approx(teacher["film"]["flicker"] / 2, rel=0.05)
    plain = evaluate([TEACHER], [film], replace(FLICKER, metrics=("psnr",)), teacher=TEACHER)
    figures = plain.models["teacher"]["film"].figures
    assert figures.items() <= teacher["film"].figures.items() and "flicker" not in figures and not plain.still
    write_picture(Picture(noise(1)), tmp_path / "photos" / "one.png")
    with pytest.raises(UsageError):
        evaluate([TEACHER], find_sets(tmp_path / "photos", scale=2), FLICKER)


# Metrics that packages compute.


STAND_IN = """
def create_metric(name, device):
    def measure(ours, theirs):
        assert 0 <= ours.min() and ours.max() <= 1 and ours.shape[1] == 3
        return (ours - theirs).abs().mean((1, 2, 3))[:, None] * {"lpips": 1, "dists": 2}[name]
    return measure
"""


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if row.needs])
def test_a_missing_package_is_named_with_the_command_that_keeps_torch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package,) = METRICS[name].needs
    monkeypatch.setitem(sys.modules, package, None)
    wanted = package if package == "pyiqa" else "'srkd[metrics]'"
    command = f"pip install {wanted} torch=={metadata.version('torch')}"
    with pytest.raises(SrkdError) as raised:
        srkd.evaluate(scale=2, metrics=f"psnr,{name}")
    assert str(raised.value) == f"--metrics {name}: {package} is not installed: {command}"


def test_pyiqa_gets_both_images_without_their_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyiqa.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    packaged_metrics._metric.cache_clear()
    scores = srkd.evaluate(scale=4, metrics="lpips,dists").without_network["embedded"]
    assert scores["lpips"] > 0 and scores["dists"] == pytest.approx(2 * scores["lpips"])
    ours, theirs = torch.full((2, 3, 40, 50), 51.0), torch.zeros(2, 3, 40, 50)
    theirs[0, :, 3:-3, 3:-3] = 51
    assert packaged_metrics.lpips(ours, theirs, border=3).tolist() == pytest.approx([0, 0.2])
    with pytest.raises(ImageTooSmall, match="40x30"):
        packaged_metrics.dists(ours, theirs, border=5)
    packaged_metrics._metric.cache_clear()


def photo_and_blurred(side: int) -> tuple[Tensor, Tensor]:
    """A photo of odd width and the same under a mean of so many pixels a side, which no machine rounds otherwise."""
    photo = read_rgb_u8(embedded_photos("val")["chelsea"])[None].double()
    padded = torch.nn.functional.pad(photo, (side // 2,) * 4, mode="reflect")
    return photo, torch.nn.functional.avg_pool2d(padded, side, 1).add(0.5).floor()


@pytest.mark.extras
@pytest.mark.parametrize(("side", "authors"), [(3, 64.49884348), (5, 39.42525536), (9, -5.91425067)])
def test_ssimulacra2_is_that_of_its_authors(
    side: int, authors: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of their C++ program (cloudinary/ssimulacra2, 2.1), whose blur is in float32. The package's one call
    differs by its blur alone, and by up to 3.6 here."""
    package = pytest.importorskip("ssimulacra2.ssimulacra2")
    photo, blurred = photo_and_blurred(side)
    ours = packaged_metrics.ssimulacra2(blurred, photo).item()
    assert ours == pytest.approx(authors, abs=0.05)
    paths = [tmp_path / "photo.png", tmp_path / "blurred.png"]
    for path, image in zip(paths, (photo, blurred), strict=True):
        write_picture(Picture(image[0].float() / 255), path)
    assert package.compute_ssimulacra2(*paths) < authors - 0.3
    monkeypatch.setattr(package, "blur_image", packaged_metrics._blurred)
    assert package.compute_ssimulacra2(*paths) == pytest.approx(ours, abs=1e-9)


@pytest.mark.extras
@pytest.mark.parametrize(("side", "figure"), [(3, 0.0356584), (5, 0.0665685), (9, 0.1146357)])
def test_flip_is_that_of_nvidias_package(side: int, figure: float) -> None:
    package = pytest.importorskip("flip_evaluator")
    photo, blurred = photo_and_blurred(side)
    arrays = [(image[0] / 255).permute(1, 2, 0).float().numpy() for image in (photo, blurred)]
    _, mean, parameters = package.evaluate(*arrays, "LDR")
    ours = packaged_metrics.flip(blurred, photo).item()
    assert ours == pytest.approx(mean, rel=1e-4) and ours == pytest.approx(figure, abs=1e-6)
    assert parameters["ppd"] == pytest.approx(67, abs=0.1)


@pytest.mark.extras
@pytest.mark.parametrize("name", ["ssimulacra2", "flip"])
def test_a_lower_jpeg_quality_is_worse(name: str) -> None:
    row = METRICS[name]
    pytest.importorskip(row.needs[0])
    photo, _ = photo_and_blurred(3)
    images = [photo, *(255 * jpeg(photo[0] / 255, quality)[None] for quality in (95, 75, 40, 10))]
    errors = [row.error(row.load()(image, photo, border=4).item()) for image in images]
    assert errors == sorted(set(errors)) and errors[0] == {"ssimulacra2": -100, "flip": 0}[name]


@pytest.mark.extras
def test_a_package_measures_to_the_original_and_to_the_teacher(photos: Path) -> None:
    for package in ("ssimulacra2", "flip_evaluator"):
        pytest.importorskip(package)
    teacher, settings = nearest_model(2, "teacher"), EvaluationSettings(2, metrics=("ssimulacra2", "flip"))
    models = [teacher, nearest_model(2, "equal")]
    result = evaluate(models, find_sets(photos, scale=2), settings, teacher=teacher)
    figures = {label: scores["photos"].figures for label, scores in result.models.items()}
    assert [figures["equal"][key] for key in ("ssimulacra2_teacher", "flip_teacher")] == [100, 0]
    assert figures["bicubic"]["ssimulacra2_teacher"] < 100 and figures["bicubic"]["flip_teacher"] > 0
    assert figures["equal"]["ssimulacra2"] < 100 and figures["equal"]["flip"] > 0
    assert "SSIMULACRA2 100.00 FLIP 0.0000, to the teacher teacher" in str(result)
    write_picture(Picture(torch.zeros(3, 116, 130)), photos / "small.png")
    with pytest.raises(UsageError, match=r"small\.png: SSIMULACRA2 needs 113x113 pixels, the image has 126x112"):
        evaluate(models, find_sets(photos, scale=2), settings)
