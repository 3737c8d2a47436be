"""The resizer compared with BasicSR's outputs, an integer pixel-by-pixel reference, and published LR images."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compressor.base.choices import Border
from compressor.base.errors import SrkdError
from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8, imresize, mod_crop, reflected_indices, upscale_bicubic
from compressor.images.sets import find_sets
from tests.support.shared import GOLDEN, benchmarks, needs_shared

SIZES = st.integers(1, 19)


def keys(t: Fraction) -> Fraction:
    """Return Keys' kernel, implemented again in exact fractions."""
    t = abs(t)
    half = Fraction(1, 2)
    if t <= 1:
        return 3 * half * t**3 - 5 * half * t**2 + 1
    return -half * t**3 + 5 * half * t**2 - 4 * t + 2 if t <= 2 else Fraction(0)


def source_pixel(position: int, size: int, border: Border) -> int:
    if border == "clamp":
        return min(max(position, 0), size - 1)
    while not 0 <= position < size:
        position = -1 - position if position < 0 else 2 * size - 1 - position
    return position


def shrunk_line(line: list[int], scale: int, border: Border) -> list[int]:
    """Return one 8-bit pass as in MATLAB: exact sums, half rounded up, clipped."""
    result = []
    for index in range(math.ceil(len(line) / scale)):
        centre = Fraction(2 * index * scale + scale - 1, 2)
        taps = range(math.floor(centre) - 2 * scale, math.ceil(centre) + 2 * scale + 1)
        weights = [keys((tap - centre) / scale) for tap in taps]
        pixels = [line[source_pixel(tap, len(line), border)] for tap in taps]
        value = sum(w * p for w, p in zip(weights, pixels, strict=True)) / sum(weights)
        result.append(min(max(math.floor(value + Fraction(1, 2)), 0), 255))
    return result


def shrunk_exactly(image: torch.Tensor, scale: int, border: Border) -> torch.Tensor:
    rows = torch.tensor([shrunk_line(column, scale, border) for column in image.T.tolist()]).T.tolist()
    return torch.tensor([shrunk_line(row, scale, border) for row in rows], dtype=torch.uint8)


CASES = [name[4:] for name in np.load(GOLDEN / "imresize.npz").files if name[:4] == "out_"]


@pytest.mark.parametrize("case", [case for case in CASES if not case.endswith("noaa")])
def test_basicsr_outputs(case: str) -> None:
    golden = np.load(GOLDEN / "imresize.npz")
    images = torch.from_numpy(golden["in_odd" if case.startswith("odd") else "in_img"])
    factor = int(next(digit for digit in case if digit.isdigit()))
    actual = upscale_bicubic(images[:, :8, :9], factor) if "up" in case else imresize(images, 1 / factor)
    reference = torch.from_numpy(golden[f"out_{case}"])
    assert actual.shape == reference.shape and (actual - reference).abs().max() < 2e-6


@pytest.mark.ci
@settings(max_examples=60)
@given(SIZES, SIZES, st.sampled_from([2, 3, 4, 5, 8]), st.sampled_from(["mirror", "clamp"]), st.integers(0, 99))
def test_8_bit_downscale_is_exact_for_every_size(h: int, w: int, scale: int, border: Border, seed: int) -> None:
    image = torch.randint(0, 256, (h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(downscale_u8(image, scale, border=border), shrunk_exactly(image, scale, border))


def test_half_is_rounded_up_between_and_after_the_passes() -> None:
    # The third output is in the middle of an edge between 0 and 1: exactly one half.
    image = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]], dtype=torch.uint8).T.expand(10, 10)
    assert downscale_u8(image.contiguous(), 2)[:, 0].tolist() == [0, 0, 1, 1, 1]


def test_scale_1_is_a_copy() -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = downscale_u8(image, 1)
    assert torch.equal(same, image) and same.data_ptr() != image.data_ptr()


@pytest.mark.parametrize("border", ["mirror", "clamp"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (3, 1)])
def test_tiny_and_flat_images_stay_flat(border: Border, size: tuple[int, int]) -> None:
    for scale in (2, 3, 4):
        flat_u8 = torch.full((2, *size), 201, dtype=torch.uint8)
        assert downscale_u8(flat_u8, scale, border=border).unique().tolist() == [201]
        flat = torch.full(size, 0.7, dtype=torch.float64)
        for factor in (float(scale), 1 / scale):
            resized = imresize(flat, factor)
            assert resized.shape == tuple(math.ceil(n * factor - 1e-9) for n in size)
            assert (resized - 0.7).abs().max() < 1e-12


def test_reflection_is_a_triangle_wave() -> None:
    assert reflected_indices(torch.arange(-5, 8), 3).tolist() == [1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]
    assert reflected_indices(torch.arange(-4, 4), 1).unique().tolist() == [0]


def test_an_image_below_the_scale_is_refused() -> None:
    with pytest.raises(SrkdError, match="3x2 is smaller than the scale 4"):
        mod_crop(torch.zeros(3, 2, 3), 4)


@needs_shared
@pytest.mark.parametrize(
    ("name", "scale", "border", "count"),
    [
        ("Set5", 2, "mirror", 5),
        ("Set5", 3, "mirror", 5),
        ("Set5", 4, "mirror", 5),
        ("Set14", 2, "mirror", 14),
        ("Set14", 3, "mirror", 14),
        ("Set14", 4, "mirror", 14),
        ("B100", 4, "clamp", 12),
        ("Urban100-20", 4, "clamp", 3),
    ],
)
def test_published_lr_images_pixel_for_pixel(name: str, scale: int, border: Border, count: int) -> None:
    (image_set,) = find_sets(benchmarks() / name, scale=scale)
    assert len(image_set.pairs) >= count
    for pair in image_set.pairs[:count]:
        computed = downscale_u8(mod_crop(read_rgb_u8(pair.hr), scale), scale, border=border)
        assert torch.equal(computed, read_rgb_u8(pair.lr)), pair.stem


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lanczos_is_that_of_pillow_away_from_the_border(scale: int) -> None:
    image = torch.rand(20, 24, generator=torch.Generator().manual_seed(0))
    resized = Image.fromarray(image.numpy()).resize((24 * scale, 20 * scale), Image.Resampling.LANCZOS)
    inside = (slice(3 * scale, -3 * scale),) * 2
    ours = imresize(image[None, None], scale, "lanczos")[0, 0]
    assert torch.allclose(ours[inside], torch.from_numpy(np.array(resized))[inside], atol=1e-5)
    assert torch.allclose(imresize(torch.full((1, 1, 5, 6), 0.3), scale, "lanczos"), torch.tensor(0.3))
