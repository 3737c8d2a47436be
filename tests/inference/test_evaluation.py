"""Evaluation of models: the table, its protocol, related protocols, and the bicubic rows of published tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import srkd
from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.images.files import Picture, read_rgb_u8, write_picture
from compressor.images.metrics import luma, psnr, ssim, to_u8
from compressor.images.protocol import Protocol
from compressor.images.resize import downscale_u8, imresize, mod_crop, upscale_bicubic
from compressor.images.sets import find_sets
from compressor.inference import tiling
from compressor.inference.evaluate import EvaluationSettings, evaluate
from compressor.inference.evaluation import EvaluationInterrupted
from compressor.inference.super_resolve import rgb_to_ycbcr, super_resolve, ycbcr_to_rgb
from compressor.models.networks.base import Descriptor
from srkd.api.evaluate import by_goal
from tests.support.fakes import Fake, convolutions, nearest, nearest_model
from tests.support.shared import ROOT, benchmarks, needs_shared

AT_X2 = EvaluationSettings(2)


def smooth(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return a picture with some structure, (3,H,W) in [0,1]."""
    small = torch.rand(1, 3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(seed))
    return upscale_bicubic(small, 8)[0, :, :height, :width].clamp(0, 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sets: one with LR images stored for scale 2 (they are not MATLAB's), one of HR images, one of them grey."""
    for index, size in enumerate([(41, 50), (44, 46)]):
        write_picture(Picture(smooth(*size, seed=index)), tmp_path / "stored" / "HR" / f"{index}.png")
        hr_u8 = read_rgb_u8(tmp_path / "stored" / "HR" / f"{index}.png")[:, : size[0] // 2 * 2, : size[1] // 2 * 2]
        lr = downscale_u8(hr_u8, 2).float() / 255
        write_picture(Picture(lr * 0.9), tmp_path / "stored" / "LRbicX2" / f"{index}x2.png")
    write_picture(Picture(smooth(40, 40, 5)), tmp_path / "plain" / "colour.png")
    write_picture(Picture(smooth(40, 40, 6)[:1].expand(3, -1, -1), grey=True), tmp_path / "plain" / "grey.png")
    return tmp_path


def test_the_table(data: Path) -> None:
    sets = find_sets(data, scale=2)
    calls: list[tuple[str, int, int]] = []
    models = [nearest_model(2), nearest_model(2), nearest_model(2, "bicubic")]
    evaluation = evaluate(models, sets, AT_X2, Context(progress=lambda *now: calls.append(now)))
    assert list(evaluation.models) == ["bicubic", "nearest", "nearest#2", "bicubic#2"]
    assert list(evaluation.models["nearest"]) == ["plain", "stored"]
    assert str(evaluation.protocol) == "psnr@y,border=2,bicubic=matlab,grey=rgb"
    plain = evaluation.models["bicubic"]["plain"]
    assert plain.lr == "made"
    assert evaluation.models["bicubic"]["stored"].lr == "stored"
    hr = read_rgb_u8(data / "plain" / "colour.png")
    sr = to_u8(upscale_bicubic(downscale_u8(hr, 2).float() / 255, 2))
    planes = luma(sr[None] / 255), luma(hr[None] / 255)
    assert plain.images["colour"].psnr_y == pytest.approx(psnr(*planes, border=2).item())
    assert plain.images["colour"].ssim_y == pytest.approx(ssim(*planes, border=2).item())
    assert plain.psnr_y == pytest.approx((plain.images["colour"].psnr_y + plain.images["grey"].psnr_y) / 2)
    assert plain.psnr_y > evaluation.models["nearest"]["plain"].psnr_y
    # The stored LR images are darker: they were used.
    assert evaluation.models["bicubic"]["stored"].psnr_y < 30 < plain.psnr_y
    assert (calls[0], calls[-1]) == (("scored", 0, 4), ("scored", 4, 4))
    # Printed are the means: a folder of a hundred images would fill the screen.
    head, first, second, *_ = str(evaluation).splitlines()
    assert head.startswith("x2, psnr@y,border=2,") and second.startswith("nearest, plain ")
    assert first.startswith(f"bicubic, plain {plain.psnr_y:.3f} dB {plain.ssim_y:.4f}, stored ")


def test_an_interrupted_evaluation_has_the_finished_sets(data: Path) -> None:
    def model_that_ends_after(images: int) -> Fake:
        def run(lr: torch.Tensor) -> torch.Tensor:
            if len(fake.inputs) > images:
                raise KeyboardInterrupt
            return nearest(2)(lr)

        fake = Fake(run, Descriptor(scale=2, receptive_radius=0), "fake")
        return fake

    sets = find_sets(data, scale=2)
    whole = evaluate([nearest_model(2, "fake")], sets, AT_X2)
    with pytest.raises(EvaluationInterrupted, match="before stored") as caught:
        evaluate([model_that_ends_after(3)], sets, AT_X2)
    partial = caught.value.evaluation
    assert caught.value.unfinished == ("stored",)
    assert [(label, *sets) for label, sets in partial.models.items()] == [("bicubic", "plain"), ("fake", "plain")]
    assert partial.models["fake"]["plain"] == whole.models["fake"]["plain"]
    with pytest.raises(KeyboardInterrupt) as first:
        evaluate([model_that_ends_after(1)], sets, AT_X2)
    assert type(first.value) is KeyboardInterrupt


def test_json_has_no_infinity(data: Path) -> None:
    perfect = read_rgb_u8(data / "plain" / "colour.png")[None] / 255
    oracle = Fake(lambda lr: perfect, Descriptor(scale=2), "oracle")
    (data / "plain" / "grey.png").unlink()
    evaluation = evaluate([oracle], find_sets(data / "plain", scale=2), AT_X2)
    assert math.isinf(evaluation.models["oracle"]["plain"].psnr_y)
    stored = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert stored["models"]["oracle"]["sets"]["plain"] == {
        "psnr_y": None, "ssim_y": pytest.approx(1), "lr": "made",
        "images": {"colour": {"psnr_y": None, "ssim_y": pytest.approx(1)}},
    }  # fmt: skip


def test_a_flat_image_decides_no_mean_and_no_goal(data: Path) -> None:
    """Bicubic gives it exactly, inf dB: it counts as 120 in the mean, and not when teacher and bicubic are compared."""
    write_picture(Picture(torch.zeros(3, 24, 24)), data / "plain" / "flat.png")
    perfect = {path: read_rgb_u8(path)[None] / 255 for path in (data / "plain").iterdir()}
    sizes = {tuple(image.shape[-2:]): image for image in perfect.values()}

    def nearly(lr: torch.Tensor) -> torch.Tensor:
        image = sizes[lr.shape[-2] * 2, lr.shape[-1] * 2]
        return image + 1 / 255 * (torch.arange(image.shape[-1]) % 8 == 0)

    (data / "plain" / "grey.png").unlink()
    teacher = Fake(nearly, Descriptor(scale=2), "teacher")
    evaluation = evaluate([teacher], find_sets(data / "plain", scale=2), AT_X2, teacher=teacher)
    bicubic = evaluation.models["bicubic"]["plain"]
    assert math.isinf(bicubic.images["flat"].psnr_y)
    assert bicubic.psnr_y == pytest.approx((bicubic.images["colour"].psnr_y + 120) / 2)
    assert evaluation.models["teacher"]["plain"].psnr_y < bicubic.psnr_y
    assert by_goal(evaluation, "auto").references[0] == "original"


def test_raw_grey_is_that_of_all_channels(data: Path) -> None:
    """A file keeps 0.299 R + 0.587 G + 0.114 B of an image that is to be grey."""
    (data / "plain" / "colour.png").unlink()
    tints = torch.tensor([0.05, -0.03, 0.1])[:, None, None]
    tinted = Fake(lambda lr: (nearest(2)(lr) + tints).clamp(0, 1), Descriptor(scale=2), "tinted")
    settings = EvaluationSettings(2, Protocol(grey="raw"))
    (scores,) = evaluate([tinted], find_sets(data / "plain", scale=2), settings).models["tinted"].values()
    hr = read_rgb_u8(data / "plain" / "grey.png").double()
    image = to_u8(tinted.run(downscale_u8(hr.byte(), 2)[None] / 255))[0].double()
    grey = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    mse = float((grey - hr[0])[2:-2, 2:-2].square().mean())
    assert scores.psnr_y == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-6)


def test_the_self_ensemble_and_tiles_are_passed_on(data: Path) -> None:
    model = Fake(convolutions(2), Descriptor(scale=2, receptive_radius=3))
    sets = find_sets(data / "plain", scale=2)
    plain = evaluate([model], sets, AT_X2)
    tiled = evaluate([model], sets, EvaluationSettings(2, tile=8))
    assert tiled.models["fake"]["plain"].psnr_y == pytest.approx(plain.models["fake"]["plain"].psnr_y, abs=1e-3)
    assert (1, 3, 13, 13) in model.inputs
    model.inputs.clear()
    ensemble = evaluate([model], sets, EvaluationSettings(2, self_ensemble=True))
    assert len(model.inputs) == 16
    assert ensemble.models["fake"]["plain"].psnr_y != plain.models["fake"]["plain"].psnr_y
    assert ensemble.models["bicubic"] == plain.models["bicubic"]


def test_each_part_of_the_protocol_changes_the_score(data: Path) -> None:
    def scores(protocol: Protocol, metric: str = "psnr") -> dict[str, float]:
        settings = EvaluationSettings(2, protocol, metrics=(metric,))
        result = evaluate([nearest_model(2)], find_sets(data / "plain", scale=2), settings)
        (key,) = (row.key for row in result.rows)
        return {stem: score[key] for stem, score in result.models["nearest"]["plain"].images.items()}

    usual, raw = scores(Protocol()), scores(Protocol(grey="raw"))
    others = scores(Protocol(border=0)), scores(Protocol(lr_border="clamp", border=0)), scores(Protocol(), "psnr_rgb")
    assert len({each["colour"] for each in (usual, *others)}) == 4
    assert raw["colour"] == usual["colour"]
    # Y maps 0..255 to 16..235.
    assert usual["grey"] - raw["grey"] == pytest.approx(20 * math.log10(255 / 219), abs=1e-6)
    assert others[-1]["grey"] == pytest.approx(raw["grey"], abs=1e-6)


def test_luminance_networks_get_y_and_colours_follow() -> None:
    rgb = smooth(12, 10)[None]
    ycbcr = rgb_to_ycbcr(rgb)
    assert ycbcr[:, 0].min() >= 16 / 255 - 1e-6
    assert torch.allclose(rgb_to_ycbcr(torch.ones(1, 3, 1, 1)).flatten() * 255, torch.tensor([235.0, 128.0, 128.0]))
    assert torch.allclose(ycbcr_to_rgb(ycbcr), rgb, atol=1e-6)
    model = Fake(nearest(2), Descriptor(scale=2, channels=1, receptive_radius=0))
    sr = super_resolve(model, rgb).sr
    assert model.inputs == [(1, 1, 12, 10)]
    assert torch.allclose(rgb_to_ycbcr(sr)[:, :1], nearest(2)(ycbcr[:, :1]), atol=1e-5)
    assert torch.allclose(rgb_to_ycbcr(sr)[:, 1:], upscale_bicubic(ycbcr[:, 1:], 2), atol=1e-5)
    grey = smooth(8, 8)[None, :1].expand(-1, 3, -1, -1)
    assert (super_resolve(model, grey).sr - nearest(2)(grey)).abs().max() < 1e-5


def test_unbounded_networks_are_not_cut_unasked(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "AUTO_MEMORY_BYTES", 1)
    sets = find_sets(data / "plain", scale=2)
    model = Fake(nearest(2), Descriptor(scale=2, receptive_radius=None))
    evaluate([model], sets, AT_X2)
    assert set(model.inputs) == {(1, 3, 20, 20)}

    def hungry(lr: torch.Tensor) -> torch.Tensor:
        if lr.shape[-1] > 90:
            raise MemoryError
        return nearest(2)(lr)

    write_picture(Picture(torch.zeros(3, 40, 200)), data / "plain" / "long.png")
    sets = find_sets(data / "plain", scale=2)
    with pytest.raises(SrkdError, match=r"fake .*plain/long\.png.*--tile"):
        evaluate([Fake(hungry, Descriptor(scale=2, receptive_radius=None))], sets, AT_X2)


def test_mistakes_are_told_in_one_line(data: Path) -> None:
    sets = find_sets(data / "plain", scale=2)
    with pytest.raises(UsageError, match=r"nearest enlarges 3 .*x2"):
        evaluate([nearest_model(3)], sets, AT_X2)
    with pytest.raises(UsageError, match="no image sets"):
        evaluate([], (), AT_X2)
    with pytest.raises(UsageError, match=r"\(plain, plain\): rename"):
        evaluate([], (*sets, *sets), AT_X2)
    with pytest.raises(SrkdError, match=r"fake .*\(torch, fp32\)"):
        evaluate([Fake(lambda lr: nearest(2)(lr) / 0 * 0, Descriptor(scale=2))], sets, AT_X2)
    for options, words in (
        ({"data": data / "stored", "lr_border": "clamp"}, "--lr-border clamp: all LR images are stored"),
        ({"data": data / "plain", "lr_border": "clamp", "degrade": "noise"}, "--lr-border clamp: --degrade makes LR"),
    ):
        with pytest.raises(UsageError, match=words):
            srkd.evaluate(scale=2, **options)  # type: ignore[arg-type]
    write_picture(Picture(torch.zeros(3, 14, 99)), data / "plain" / "thin.png")
    with pytest.raises(SrkdError, match=r"thin\.png: SSIM needs 11x11 .* 94x10 "):
        evaluate([], find_sets(data / "plain", scale=2), AT_X2)
    write_picture(Picture(torch.zeros(3, 20, 22)), data / "stored" / "LRbicX2" / "0x2.png")
    with pytest.raises(SrkdError, match=r"0x2\.png has 22x20 .*25x20"):
        evaluate([], find_sets(data / "stored", scale=2), AT_X2)


@pytest.mark.ci
@needs_shared
@pytest.mark.parametrize(
    ("name", "scale", "psnr", "ssim"),
    [
        ("Set5", 2, 33.682, 0.9305),
        ("Set5", 3, 30.405, 0.8690),
        ("Set5", 4, 28.431, 0.8113),
        ("Set14", 3, 27.634, 0.7760),
        ("Set14", 4, 26.092, 0.7050),
    ],
)
def test_bicubic_by_our_protocol(name: str, scale: int, psnr: float, ssim: float) -> None:
    """Figures of our own from other copies of the sets; docs/results/settled.json has the remaining rows."""
    result = evaluate([], find_sets(benchmarks() / name, scale=scale), EvaluationSettings(scale))
    set_score = result.models["bicubic"][name]
    assert set_score.lr == "stored" and set_score.psnr_y == pytest.approx(psnr, abs=0.005)
    assert set_score.ssim_y == pytest.approx(ssim, abs=0.0003)


@pytest.mark.ci
@needs_shared
@pytest.mark.parametrize(
    ("scale", "published", "unrounded"),
    [(2, (33.66, 0.9299), (33.687, 0.9306)), (4, (28.42, 0.8104), (28.432, 0.8113))],
)
def test_published_bicubic_is_of_y_alone(scale: int, published: object, unrounded: object) -> None:
    """RCAN, Figs/psnr_bi_1 and psnr_bi_2: Y of 8 bits resized alone. RGB LR images without rounding give other rows."""
    alone, rgb = list[tuple[float, float]](), list[tuple[float, float]]()
    for pair in find_sets(benchmarks() / "Set5", scale=scale)[0].pairs:
        hr = mod_crop(read_rgb_u8(pair.hr), scale)[None] / 255
        y = luma(hr).round()
        enlarged = upscale_bicubic(imresize(y, 1 / scale), scale).round().clamp(0, 255)
        alone.append((psnr(enlarged, y, border=scale).item(), ssim(enlarged, y, border=scale).item()))
        sr = to_u8(upscale_bicubic(imresize(hr, 1 / scale), scale)) / 255
        planes = luma(sr), luma(hr)
        rgb.append((psnr(*planes, border=scale).item(), ssim(*planes, border=scale).item()))
    page = (ROOT / "docs" / "use" / "reproduce.md").read_text(encoding="utf-8")
    for rows, expected, digits in ((alone, published, 2), (rgb, unrounded, 3)):
        db, similarity = (sum(column) / 5 for column in zip(*rows, strict=True))
        assert (round(db, digits), round(similarity, 4)) == expected
        assert f"{db:.3f} / {similarity:.4f}" in page
