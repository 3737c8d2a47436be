"""PSNR, SSIM, looks and flicker: by hand, by brute force, on blurs, noise and moved blocks, and published figures."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from compressor.base.errors import SrkdError
from compressor.images.files import read_rgb_u8
from compressor.images.flicker import BLOCK, flicker, still_pixels
from compressor.images.looks import gradient_psnr, high_frequencies, overshoot, ring_ratios, sharpness, spectrum
from compressor.images.metrics import finite_or_none, luma, psnr, ssim, to_u8
from compressor.images.protocol import Protocol
from compressor.images.resize import mod_crop, upscale_bicubic
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
    result = psnr(torch.stack([torch.full((1, 8, 8), 5.0), torch.zeros(1, 8, 8)]), reference)
    assert result[0].item() == pytest.approx(10 * math.log10(255**2 / 25))
    assert math.isinf(result[1].item()) and finite_or_none(result[1].item()) is None
    assert finite_or_none(result[0].item()) == result[0].item()


def test_the_border_is_cropped_on_every_side() -> None:
    reference = torch.zeros(1, 3, 20, 20)
    image = reference.clone()
    image[..., :3, :] = image[..., -3:, :] = image[..., :, :3] = image[..., :, -3:] = 1
    assert math.isinf(psnr(image, reference, border=3).item())
    assert math.isfinite(psnr(image, reference, border=2).item())
    assert ssim(luma(image), luma(reference), border=3).item() == pytest.approx(1)


def test_ssim_by_brute_force_inside_a_border() -> None:
    a = random_u8(18, 17)
    b = (a + random_u8(18, 17, seed=1) / 4).clamp(0, 255)
    inside = slice(2, -2)
    expected = ssim_brute_force(a[inside, inside], b[inside, inside])
    assert ssim(a[None, None], b[None, None], border=2).item() == pytest.approx(expected, abs=1e-9)


def test_to_u8_rounds_half_up_and_clips() -> None:
    values = torch.tensor([-0.3, 0.0, 0.5, 1.5, 2.5, 254.49, 254.5, 300.0]) / 255
    assert to_u8(values).tolist() == [0, 0, 1, 2, 3, 254, 255, 255]


def test_too_small_is_told_in_one_line() -> None:
    with pytest.raises(SrkdError, match=r"11x11.* image has 10x12 after"):
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
        psnrs[pair.stem] = psnr(luma(sr), luma(hr), border=scale).item()
        ssims[pair.stem] = ssim(luma(sr), luma(hr), border=scale).item()
    assert sum(psnrs.values()) / 5 == pytest.approx(published, abs=0.005)
    if scale == 4:
        assert psnrs == pytest.approx(
            {"baby": 33.948246, "bird": 35.904838, "butterfly": 29.359312, "head": 33.010323, "woman": 30.945093},
            abs=2e-5,
        )
        assert ssims == pytest.approx(
            {"baby": 0.896239, "bird": 0.951746, "butterfly": 0.934269, "head": 0.799064, "woman": 0.919886}, abs=2e-6
        )


# Looks.


def texture(size: int = 128, seed: int = 0) -> torch.Tensor:
    """An image with power at all frequencies, (1,1,size,size) on 0..255."""
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 64 + 128 * noise


def box_blur(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def test_a_blur_lacks_what_noise_adds() -> None:
    image = texture()
    blurred = box_blur(image)
    assert sharpness(blurred, image).item() < 0.5 and high_frequencies(blurred, image).item() < -6
    noisy = image + 4 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=image.dtype)
    smooth, smooth_and_noise = box_blur(blurred), box_blur(blurred) + noisy - image
    assert sharpness(smooth_and_noise, smooth).item() > 1
    assert high_frequencies(smooth_and_noise, smooth).item() > 0


def test_gradients_by_hand() -> None:
    """A ramp of 2 a pixel to the right has gradient 2; of 3 down and 4 to the right, 5."""
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    ramp, slope = (2 * columns)[None, None], (3 * rows + 4 * columns)[None, None]
    assert sharpness(slope, ramp).item() == 2.5
    assert sharpness(slope, 0 * slope).isnan() and sharpness(0 * slope, 0 * slope).item() == 1
    # Differences of 3 down and of 4 - 2 to the right: the mean square of both is (9 + 4) / 2.
    assert gradient_psnr(slope, ramp).item() == pytest.approx(10 * math.log10(255**2 / 6.5))


def test_what_leaves_the_neighbourhood_overshoots() -> None:
    """A step from 50 to 200: its blur stays within, a halo of 30 levels beside it counts in its two columns alone."""
    step = torch.full((1, 1, 20, 20), 50.0)
    step[..., 10:] = 200
    halo, dot = step.clone(), step.clone()
    halo[..., 9] -= 30
    halo[..., 10] += 20
    dot[..., 4, 2] += 80
    assert overshoot(box_blur(step), step).item() == overshoot(step, step).item() == 0
    assert overshoot(halo, step).item() == pytest.approx((30 + 20) / 20)
    assert overshoot(dot, step).item() == pytest.approx(80 / 400) and overshoot(dot, step, border=5).item() == 0
    assert overshoot(step, dot).item() == 0  # what is missing is no overshoot
    assert sharpness(dot, step).item() > 1


def test_a_ring_holds_its_frequency() -> None:
    """A wave of k cycles in 64 pixels has k/32 of Nyquist; twice its height is 6 dB, in its ring and nowhere else."""
    columns = torch.arange(64, dtype=torch.float64)
    carrier = texture(64)
    for cycles in (6, 20):
        wave = 40 * torch.cos(2 * math.pi * cycles * columns / 64).expand(1, 1, 64, 64)
        ratios = ring_ratios(carrier + 200 * wave, carrier + 100 * wave)[0]
        assert ratios[cycles].item() == pytest.approx(20 * math.log10(2), abs=0.05)
        quiet = [ratio for ring, ratio in enumerate(ratios.tolist()) if abs(ring - cycles) > 3]
        assert max(map(abs, quiet)) < 0.05


def test_images_and_channels_are_scored_apart() -> None:
    """Two images in a batch have the figures that they have alone; equal channels change nothing."""
    ours = torch.cat([texture(seed=2), box_blur(texture(seed=3))])
    theirs = torch.cat([texture(seed=4), texture(seed=3)])
    for measure in (sharpness, overshoot, gradient_psnr, spectrum, high_frequencies):
        together = measure(ours, theirs)
        alone = torch.cat([measure(ours[n : n + 1], theirs[n : n + 1]) for n in range(2)])
        assert torch.allclose(together, alone)
        assert torch.allclose(measure(ours.expand(2, 3, 128, 128), theirs.expand(2, 3, 128, 128)), together)


def test_a_border_is_left_out() -> None:
    image, framed = texture(), texture()
    framed[..., :4, :] = 0
    assert spectrum(framed, image, border=4).item() == 0 < spectrum(framed, image).item()
    assert sharpness(framed, image, border=4).item() == 1 != sharpness(framed, image).item()


# Flicker.


def scene(height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    """A picture (3,h,w) of soft shapes with texture, in grey levels from 40 to 215."""
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return 40 + 175 * upscale_bicubic(noise, 4).clamp(0, 1)[0]


def with_noise(image: torch.Tensor, sigma: float, seed: int) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def blocks_of(still: torch.Tensor) -> torch.Tensor:
    return still[::BLOCK, ::BLOCK]


def test_the_mean_change_by_hand() -> None:
    """Two of four pixels stand still, and change by 3 and by 5."""
    before = torch.tensor([[[[10.0, 20.0], [math.nan, math.nan]]]])
    after = torch.tensor([[[[13.0, 15.0], [200.0, 0.0]]]])
    assert flicker(after, before).item() == 4
    assert flicker(before.nan_to_num(0), torch.full_like(before, math.nan)).isnan().item()
    framed = torch.nn.functional.pad(before, (1, 1, 1, 1)), torch.nn.functional.pad(after, (1, 1, 1, 1), value=99)
    assert flicker(framed[1], framed[0], border=1).item() == 4


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_noise_stands_still(sigma: float) -> None:
    still = blocks_of(still_pixels(with_noise(scene(), sigma, 1), with_noise(scene(), sigma, 2)))
    assert still.float().mean() > 0.9


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (2, 2), (0, 8)])
def test_a_moved_block_is_left_out(shift: tuple[int, int]) -> None:
    """A textured square moves over a still background, under grain."""
    texture = scene(64, 64, seed=5)
    first, second = scene().clone(), scene().clone()
    first[:, 16:32, 24:40] = texture[:, 16:32, 16:32]
    down, right = shift
    second[:, 16:32, 24:40] = texture[:, 16 - down : 32 - down, 16 - right : 32 - right]
    still = blocks_of(still_pixels(with_noise(first, 1, 1), with_noise(second, 1, 2)))
    assert not still[2:4, 3:5].any()
    assert still[:, :3].all() and still[:2].all() and still[4:].all()


@pytest.mark.parametrize("shift", [0.5, 1])
def test_faint_waves_that_move_are_left_out(shift: float) -> None:
    """Waves as long as a block: its mean stays, and its pixels change by less than strong grain would change them."""
    columns = torch.arange(64) * 2 * torch.pi / 8
    waves, moved = (100 + 10 * torch.sin(columns - 2 * torch.pi / 8 * by).expand(3, 48, 64) for by in (0, shift))
    first, second = (scene().clone() for _ in range(2))
    first[:, :16], second[:, :16] = waves[:, :16], moved[:, :16]
    still = blocks_of(still_pixels(with_noise(first, 1, 1), with_noise(second, 1, 2)))
    assert not still[:2].any() and still[2:].all()


def test_what_says_nothing_does_not_count() -> None:
    image = with_noise(scene(), 2, 1)
    assert not still_pixels(image, image).any()  # nothing changed
    assert not still_pixels(image, with_noise(scene(seed=9), 2, 2)).any()  # a cut
    assert not still_pixels(image, with_noise(scene() + 3, 2, 2)).any()  # light
    assert not still_pixels(image[:, :7], with_noise(scene(), 2, 2)[:, :7]).any()  # no whole block
    partly = image.clone()
    partly[:, :, :32] = with_noise(scene(), 2, 3)[:, :, :32]
    still = blocks_of(still_pixels(image, partly))
    assert still[:, :4].all() and not still[:, 4:].any()
