"""LPIPS and DISTS: the official figures on random weights, large images in pieces, and the files that they need."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import srkd
from compressor.base.errors import SrkdError
from compressor.images.files import Picture, write_picture
from compressor.images.metrics import ImageTooSmall
from compressor.inference import learned_metrics
from compressor.inference.learned_metrics import dists_of, in_pieces, lpips_of, squeezenet, vgg16
from compressor.inference.metric_table import METRICS
from compressor.models.checkpoints.published import hub_file
from compressor.models.networks.registry import build
from tests.support.networks import tiny


def filled(network: nn.Sequential, seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in network.parameters():
            gain = (2 / values[0].numel()) ** 0.5 if values.ndim > 1 else 0.05
            values.copy_(gain * torch.randn(values.shape, generator=generator))
    return network.requires_grad_(False)


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    ours = torch.rand(2, 3, 70, 53, generator=generator)
    return ours, (ours + 0.1 * torch.randn(ours.shape, generator=generator)).clamp(0, 1)


def test_the_official_figures() -> None:
    """torchmetrics 1.9.0, which has the authors' code, with torchvision 0.29.1 and these weights, gave the figures."""
    generator, (ours, theirs) = torch.Generator().manual_seed(3), images()
    heads = tuple(torch.rand(1, count, 1, 1, generator=generator) for count in (64, 128, 256, 384, 384, 512, 512))
    alpha, beta = (torch.rand(1, 1475, 1, 1, generator=generator) for _ in range(2))
    features, deep = filled(squeezenet(), 1), filled(vgg16(), 2)
    assert lpips_of(features, heads, ours, theirs).tolist() == pytest.approx([0.124865, 0.137399], rel=1e-4)
    assert dists_of(deep, alpha, beta, ours, theirs).tolist() == pytest.approx([0.0136600, 0.0131834], rel=1e-4)
    flat = torch.full_like(ours, 0.3)
    for pair in ((ours, ours), (flat, flat)):
        assert lpips_of(features, heads, *pair).tolist() == [0, 0]
        assert dists_of(deep, alpha, beta, *pair).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_large_images_are_measured_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over pieces weighted by area is that of the whole, for a measure that is a mean."""
    sizes: list[int] = []

    def brightness(ours: Tensor, theirs: Tensor) -> Tensor:
        sizes.append(ours.shape[-2] * ours.shape[-1])
        return (ours - theirs).mean((-3, -2, -1)).double()

    ours, theirs = (255 * image for image in images())
    with pytest.raises(ImageTooSmall, match="16x16"):
        in_pieces(brightness, ours, theirs, 20)
    whole = in_pieces(brightness, ours, theirs, 2)
    monkeypatch.setattr(learned_metrics, "MOST_PIXELS", 500)
    pieces = in_pieces(brightness, ours, theirs, 2)
    assert sizes[0] == sum(sizes[1:]) == 66 * 49 and max(sizes[1:]) <= 500
    assert torch.allclose(whole, pieces, atol=1e-7)


def test_a_missing_file_is_one_line_with_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SrkdError, match=r"--metrics lpips: .*squeezenet1_1-b8a52dc0\.pth .*4\.7 MB.*https://"):
        srkd.evaluate(scale=2, metrics="psnr,lpips")
    assert not any(tmp_path.rglob("*"))


@pytest.mark.extras
def test_lpips_with_the_weights_of_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics", exc_type=ImportError)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    state = {f"features.{name}": value for name, value in filled(squeezenet(), 1).state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()[:8]
    row = dataclasses.replace(learned_metrics.SQUEEZENET, file=f"squeezenet1_1-{digest}.pth")
    monkeypatch.setattr(learned_metrics, "SQUEEZENET", row)
    hub_file(row.file).parent.mkdir(parents=True)
    hub_file(row.file).write_bytes(b"damaged")
    with pytest.raises(SrkdError, match=rf"^{tmp_path}/torch/\S*{digest}\.pth: "):
        srkd.evaluate(scale=2, metrics="lpips")
    (tmp_path / "weights.pth").rename(hub_file(row.file))
    learned_metrics._lpips_weights.cache_clear()
    assert METRICS["lpips"].missing_requirement() is None
    for index, picture in enumerate(images()[0]):
        write_picture(Picture(picture), tmp_path / "photos" / f"{index}.png")
    teacher = build(tiny("edsr", 2), seed=1)
    result = srkd.evaluate(teacher, against=teacher, data=tmp_path / "photos", metrics="lpips")
    own, bicubic = (result.models[name]["photos"] for name in ("edsr", "bicubic"))
    assert own["lpips_squeeze_teacher"] == 0 < bicubic["lpips_squeeze_teacher"]
    assert own["lpips_squeeze"] > 0
    # The official figures with these heads.
    measured = METRICS["lpips"].load()(*(255 * image for image in images()), border=0)
    assert measured.tolist() == pytest.approx([0.0212381, 0.0226428], rel=1e-4)
    learned_metrics._lpips_weights.cache_clear()
