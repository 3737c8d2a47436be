"""Flicker in `srkd evaluate`: of films, over the teacher's, and where nothing stands still."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compressor.base.errors import UsageError
from compressor.images.files import Picture, read_rgb_u8, write_picture
from compressor.images.sets import LrImage, LrSet, find_sets
from compressor.inference.evaluate import EvaluationSettings, evaluate
from compressor.models.networks.base import Descriptor
from tests.support.fakes import Fake, nearest, nearest_model

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
    moving = replace(film, sources=film.sources[1:])
    result = evaluate([TEACHER], [moving], FLICKER, teacher=TEACHER)
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
