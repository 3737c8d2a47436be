"""PSNR and SSIM: computed by hand, by brute force, and compared with published figures of published images."""

from __future__ import annotations

import math

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import finite_or_none, luma, psnr, psnr_y, ssim, ssim_y, to_u8
from compressor.images.protocol import Protocol
from compressor.images.resize import mod_crop
from compressor.images.sets import find_sets
from tests.support.shared import benchmarks, needs_shared, shared


def random_u8(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).double()


def ssim_brute_force(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return SSIM by Wang's formula window by window, with the Gaussian as a 2-D table."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    gaussian = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    gaussian /= gaussian.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
            mp, mq = (gaussian * p).sum(), (gaussian * q).sum()
            vp, vq = (gaussian * (p - mp) ** 2).sum(), (gaussian * (q - mq) ** 2).sum()
            cov = (gaussian * (p - mp) * (q - mq)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(torch.stack(values).mean())


def test_y_of_known_colours() -> None:
    colours = torch.eye(3)[..., None]  # red, green, blue as three columns of one row
    assert luma(colours.permute(0, 2, 1)).flatten().tolist() == pytest.approx([81.481, 144.553, 40.966], abs=1e-4)
    assert luma(torch.ones(3, 1, 1)).item() == pytest.approx(235)
    assert luma(torch.zeros(3, 1, 1)).item() == 16


def test_psnr_by_hand() -> None:
    reference = torch.zeros(2, 1, 8, 8)
    image = torch.stack([torch.full((1, 8, 8), 5.0), torch.zeros(1, 8, 8)])
    result = psnr(image, reference)
    assert result[0].item() == pytest.approx(10 * math.log10(255**2 / 25))
    assert math.isinf(result[1].item())
    assert finite_or_none(result[1].item()) is None
    assert finite_or_none(result[0].item()) == result[0].item()


def test_the_border_is_cropped_on_every_side() -> None:
    reference = torch.zeros(1, 3, 20, 20)
    image = reference.clone()
    image[..., :3, :] = image[..., -3:, :] = image[..., :, :3] = image[..., :, -3:] = 1
    assert math.isinf(psnr_y(image, reference, border=3).item())
    assert math.isfinite(psnr_y(image, reference, border=2).item())
    assert ssim_y(image, reference, border=3).item() == pytest.approx(1)


def test_ssim_by_brute_force_inside_a_border_and_not_below_a_window() -> None:
    a = random_u8(18, 17)
    b = (a + random_u8(18, 17, seed=1) / 4).clamp(0, 255)
    inside = slice(2, -2)
    expected = ssim_brute_force(a[inside, inside], b[inside, inside])
    assert ssim(a[None, None], b[None, None], border=2).item() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(SrkdError, match="11x11"):
        ssim(a[None, None, 4:], b[None, None, 4:], border=2)


def test_to_u8_rounds_half_up_and_clips() -> None:
    values = torch.tensor([-0.3, 0.0, 0.5, 1.5, 2.5, 254.49, 254.5, 300.0]) / 255
    assert to_u8(values).tolist() == [0, 0, 1, 2, 3, 254, 255, 255]


def test_too_small_is_told_in_one_line() -> None:
    with pytest.raises(SrkdError, match="image has 10x12 after"):
        ssim(torch.zeros(1, 1, 16, 14), torch.zeros(1, 1, 16, 14), border=2)
    with pytest.raises(SrkdError, match=r"1x1x8x8 .* border of 4"):
        psnr(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), border=4)
    with pytest.raises(SrkdError, match=r"1x3x8x9 with .*1x3x8x8"):
        psnr(torch.zeros(1, 3, 9, 8), torch.zeros(1, 3, 8, 8))
    with pytest.raises(SrkdError, match=r"RGB.*\(1, 1, 4, 4\)"):
        luma(torch.zeros(1, 1, 4, 4))


def test_the_protocol_is_a_value_with_a_name() -> None:
    assert str(Protocol().at(4)) == "psnr@y,border=4,bicubic=matlab,grey=rgb"
    assert str(Protocol()) == "psnr@y,border=scale,bicubic=matlab,grey=rgb"
    assert str(Protocol(lr_border="clamp", grey="raw", border=0)) == (
        "psnr@y,border=0,bicubic=matlab,grey=raw,lr_border=clamp"
    )
    assert Protocol(border=6).at(4) == Protocol(border=6)
    with pytest.raises(SrkdError, match="0 pixels or more, got -1"):
        Protocol(border=-1)


@needs_shared
@pytest.mark.parametrize(("scale", "published"), [(2, 38.27), (3, 34.74), (4, 32.63)])
def test_published_outputs_score_as_published(scale: int, published: float) -> None:
    """RCAN's own output images of Set5; per image at x4 as in the authors' result file."""
    (set5,) = find_sets(benchmarks() / "Set5", scale=scale)
    folder = shared() / "data" / "reference" / "RCAN-Set5-SR" / f"x{scale}"
    psnrs, ssims = {}, {}
    for pair in set5.pairs:
        hr = mod_crop(read_rgb_u8(pair.hr), scale)[None] / 255
        sr = read_rgb_u8(folder / f"{pair.stem}_RCAN_x{scale}.png")[None] / 255
        psnrs[pair.stem] = psnr_y(sr, hr, border=scale).item()
        ssims[pair.stem] = ssim_y(sr, hr, border=scale).item()
    assert sum(psnrs.values()) / 5 == pytest.approx(published, abs=0.005)
    if scale == 4:
        assert psnrs == pytest.approx(
            {"baby": 33.948246, "bird": 35.904838, "butterfly": 29.359312, "head": 33.010323, "woman": 30.945093},
            abs=2e-5,
        )
        assert ssims == pytest.approx(
            {"baby": 0.896239, "bird": 0.951746, "butterfly": 0.934269, "head": 0.799064, "woman": 0.919886}, abs=2e-6
        )
