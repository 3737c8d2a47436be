"""Evaluation to a teacher's images, beside the originals or without any, and the table of metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.images.files import Picture, read_rgb_u8, write_picture
from compressor.images.metrics import psnr_y, ssim_y, to_u8
from compressor.images.resize import downscale_u8, upscale_bicubic
from compressor.images.sets import LrSet, find_lr_images, find_sets
from compressor.inference.evaluate import EvaluationSettings, evaluate
from compressor.inference.metric_table import METRICS
from compressor.models.networks.base import Descriptor
from srkd.api.evaluate import worse_than_lanczos
from tests.support.fakes import Fake, nearest_model

LOOKS = EvaluationSettings(2, metrics=("psnr", "ssim", "sharpness", "spectrum", "high"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    noise = torch.rand(2, 3, 24, 30, generator=torch.Generator().manual_seed(1))
    for index, picture in enumerate(upscale_bicubic(noise, 4).clamp(0, 1)):
        write_picture(Picture(picture), tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def test_both_references_are_scored_side_by_side(photos: Path) -> None:
    sets, teacher, other = find_sets(photos, scale=2), nearest_model(2, "teacher"), nearest_model(2, "other")
    result = evaluate([teacher, other], sets, LOOKS, teacher=teacher)
    assert (result.references, result.teacher) == (("original", "teacher"), "teacher")
    bicubic, equal = result.models["bicubic"]["photos"], result.models["other"]["photos"]
    # The teacher's images are what nearest makes of the same LR images.
    hr = read_rgb_u8(photos / "0.png")
    lr = downscale_u8(hr, 2).float()[None] / 255
    ours, theirs = (to_u8(sr) / 255 for sr in (upscale_bicubic(lr, 2), nearest_model(2).run(lr)))
    first = bicubic.images["0"]
    assert first.psnr_y_teacher == pytest.approx(psnr_y(ours, theirs, border=2).item())
    assert first.ssim_y_teacher == pytest.approx(ssim_y(ours, theirs, border=2).item())
    assert first.psnr_y == pytest.approx(psnr_y(ours, hr[None] / 255, border=2).item())
    assert bicubic["sharpness_teacher"] < 1 and bicubic["high_frequencies_teacher"] < 0
    assert math.isinf(equal.psnr_y_teacher) and not math.isinf(equal.psnr_y)
    assert [equal[f"{key}_teacher"] for key in ("sharpness", "spectrum", "high_frequencies")] == [1, 0, 0]
    assert list(result.models)[:2] == ["bicubic", "lanczos"] and list(result.networks) == ["teacher", "other"]
    # A teacher changes no figure to the originals.
    alone = evaluate([other], sets, LOOKS).models["other"]["photos"]
    assert {key: equal[key] for key in alone.figures} == alone.figures
    text = str(result).splitlines()
    assert len(text) == 9 and text[1].endswith(", to the original") and text[-1].endswith(", to the teacher teacher")
    assert "sharpness 1.000, to" not in text[-1] and "spectrum 0.000 dB" in text[-1]


def test_lr_images_alone_are_scored_to_the_teacher(photos: Path) -> None:
    lr, teacher = LrSet("frames", find_lr_images(photos)), nearest_model(2, "teacher")
    result = evaluate([teacher], [lr], LOOKS, teacher=teacher)
    score = result.models["bicubic"]["frames"]
    assert result.references == ("teacher",) and all(key.endswith("_teacher") for key in score.figures)
    with pytest.raises(SrkdError, match="psnr_y was not measured"):
        _ = score.psnr_y
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["references"] == ["teacher"] and stored["metrics"]["sharpness"] == {"unit": "", "best": "1"}
    assert stored["models"]["teacher"]["sets"]["frames"]["psnr_y_teacher"] is None
    with pytest.raises(UsageError, match="--against"):
        evaluate([teacher], [lr], LOOKS)


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if not row.needs])
def test_an_image_has_the_best_figure_to_itself(name: str) -> None:
    """Every row holds for an image with texture and for a flat one; a blur is worse."""
    row = METRICS[name]
    measure = row.load()
    images = 255 * torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    own, other = (measure(image, images, border=0).item() for image in (images, blurred))
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
        evaluate([model], find_sets(photos, scale=2), LOOKS)
    assert not model.inputs


def test_a_student_behind_lanczos_by_most_measures_is_told(photos: Path) -> None:
    """Bicubic itself is softer than Lanczos; the teacher, and a student that is its equal, are not worse."""
    sets, teacher = find_sets(photos, scale=2), nearest_model(2, "teacher")
    blurred = Fake(blurred_enlargement, Descriptor(scale=2, receptive_radius=0), "blurred")
    settings = EvaluationSettings(2, metrics=("psnr", "sharpness", "spectrum", "gradient"))
    result = evaluate([teacher, nearest_model(2, "equal"), blurred], sets, settings, teacher=teacher)
    (line,) = worse_than_lanczos(result)
    assert line.startswith("warning: blurred is worse than lanczos to the teacher on photos (PSNR-Y ")
    assert "sharpness" in line and "spectrum" in line
    alone = evaluate([blurred], sets, EvaluationSettings(2))
    assert worse_than_lanczos(alone) == [] and alone.lanczos is None


def blurred_enlargement(lr: torch.Tensor) -> torch.Tensor:
    large = torch.nn.functional.pad(upscale_bicubic(lr, 2), (4, 4, 4, 4), mode="reflect")
    return torch.nn.functional.avg_pool2d(large, 9, 1)
