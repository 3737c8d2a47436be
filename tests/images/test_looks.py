"""Measures of looks: equal images, a blur, noise, and figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from compressor.images.looks import gradient_psnr, high_frequencies, ring_ratios, sharpness, spectrum


def texture(size: int = 128, seed: int = 0) -> torch.Tensor:
    """An image with power at all frequencies, (1,1,size,size) on 0..255."""
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 64 + 128 * noise


def box_blur(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def test_a_blur_lacks_what_noise_adds() -> None:
    image = texture()
    blurred = box_blur(image)
    assert sharpness(blurred, image).item() < 0.5
    assert high_frequencies(blurred, image).item() < -6
    noisy = image + 4 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=image.dtype)
    smooth, smooth_and_noise = box_blur(blurred), box_blur(blurred) + noisy - image
    assert sharpness(smooth_and_noise, smooth).item() > 1
    assert high_frequencies(smooth_and_noise, smooth).item() > 0


def test_gradients_by_hand() -> None:
    """A ramp of 2 a pixel to the right has gradient 2; of 3 down and 4 to the right, 5."""
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    ramp, slope = (2 * columns)[None, None], (3 * rows + 4 * columns)[None, None]
    assert sharpness(slope, ramp).item() == 2.5
    # Differences of 3 down and of 4 - 2 to the right: the mean square of both is (9 + 4) / 2.
    assert gradient_psnr(slope, ramp).item() == pytest.approx(10 * math.log10(255**2 / 6.5))


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
    ours, theirs = (
        torch.cat([texture(seed=2), box_blur(texture(seed=3))]),
        torch.cat([texture(seed=4), texture(seed=3)]),
    )
    for measure in (sharpness, gradient_psnr, spectrum, high_frequencies):
        together = measure(ours, theirs)
        alone = torch.cat([measure(ours[n : n + 1], theirs[n : n + 1]) for n in range(2)])
        assert torch.allclose(together, alone)
        assert torch.allclose(measure(ours.expand(2, 3, 128, 128), theirs.expand(2, 3, 128, 128)), together)


def test_a_border_is_left_out() -> None:
    image, framed = texture(), texture()
    framed[..., :4, :] = 0
    assert spectrum(framed, image, border=4).item() == 0 < spectrum(framed, image).item()
    assert sharpness(framed, image, border=4).item() == 1 != sharpness(framed, image).item()
