"""Kernels, sharpening, noise and JPEG against the official code's outputs, and properties that hold without them."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, features
from torch import Tensor

from compressor.degradation.filters import (
    add_gaussian,
    add_poisson,
    bell_kernel,
    correlate,
    poisson_levels,
    sharpen,
    sinc_kernel,
)
from compressor.degradation.jpeg import jpeg, luminance_steps
from compressor.degradation.steps import Mode, interpolate, interpolate_by
from tests.support.shared import golden_of, needs_shared


def kernel_of(row: dict[str, Any]) -> Tensor:
    if row["type"] == "sinc":
        return sinc_kernel(row["size"], row["cutoff"])
    shape: Any = {"iso": "gaussian", "aniso": "gaussian"}.get(row["type"], row["type"].partition("_")[0])
    if row["type"].endswith("aniso"):
        return bell_kernel(row["size"], row["sigma_x"], row["sigma_y"], row["theta"], shape, row["beta"])
    return bell_kernel(row["size"], row["sigma_x"], row["sigma_x"], 0.0, shape, row["beta"])


@needs_shared
def test_kernels_and_what_they_blur_are_those_of_basicsr() -> None:
    meta, given, made = golden_of("losses/realesrgan_kernels")
    for row, kernel, blurred in zip(meta["kernels"], made["kernels"], made["blurred"], strict=True):
        ours = kernel_of(row)
        margin = (21 - row["size"]) // 2
        whole = torch.nn.functional.pad(ours, (margin,) * 4)
        torch.testing.assert_close(whole, kernel.double(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(correlate(given["image"][0], ours.float())[:, ::2, ::2], blurred, atol=5e-6, rtol=0)


def test_moments_of_kernels() -> None:
    # Variances of a Gaussian with σ 0.7 and 2.6 turned by 0.6 (its 21 taps cut off nothing): R·diag(σ²)·Rᵀ.
    kernel = bell_kernel(21, 0.7, 2.6, 0.6)
    axis = torch.arange(21, dtype=torch.float64) - 10
    xx, yy, xy = ((kernel * each).sum() for each in (axis[None] ** 2, axis[:, None] ** 2, axis[None] * axis[:, None]))
    c, s = np.cos(0.6), np.sin(0.6)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert [float(xx), float(yy), float(xy)] == pytest.approx(
        [0.49 * c * c + 6.76 * s * s, 0.49 * s * s + 6.76 * c * c, (0.49 - 6.76) * c * s], abs=2e-3
    )


def test_a_correlation_is_that_of_torch_on_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(7, 7, generator=generator)
    for height, width in ((20, 31), (4, 9)):
        image = torch.rand(3, height, width, generator=generator)
        padded = torch.nn.functional.pad(image[None], (3, 3, 3, 3), mode="reflect")
        expected = torch.nn.functional.conv2d(padded.transpose(0, 1), kernel[None, None])[:, 0]
        torch.testing.assert_close(correlate(image, kernel), expected, atol=1e-5, rtol=1e-5)


@needs_shared
def test_sharpening_is_that_of_basicsr() -> None:
    _, given, made = golden_of("losses/realesrgan_usm")
    torch.testing.assert_close(sharpen(given["image"][0]), made["sharp"][0], atol=1e-5, rtol=0)


@needs_shared
def test_changes_of_size_are_those_of_real_esrgan() -> None:
    _, given, made = golden_of("losses/realesrgan_resize")
    image = given["image"][0]
    for key, expected in made.items():
        name, _, by = key.partition("_")
        mode: Mode = name  # type: ignore[assignment]
        if by.startswith("x"):
            ours = interpolate_by(image, float(by[1:]), mode)
        else:
            height, width = map(int, by.split("x"))
            ours = interpolate(image, (height, width), mode)
        torch.testing.assert_close(ours, expected[0], atol=1e-6, rtol=0)


@needs_shared
def test_the_jpeg_is_that_of_libjpeg() -> None:
    meta, given, made = golden_of("losses/realesrgan_jpeg")
    image = given["image"][0]
    same_codec = meta["file"].endswith(f"Pillow {PIL.__version__} (libjpeg-turbo)")
    for quality in (30, 50, 75, 95):
        difference = 255 * (jpeg(image, quality) - made[f"pil_q{quality}_420"][0]).abs()
        assert float((difference > 2).float().mean()) <= 0.01
        if same_codec:
            file = BytesIO()
            samples = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(samples).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
            assert hashlib.sha256(file.getvalue()).hexdigest() == meta["pil"][f"pil_q{quality}_420"]["sha256"]
            assert float(difference.max()) == 0


def test_steps_of_the_luminance_are_those_that_libjpeg_writes() -> None:
    assert features.check("jpg")
    for quality in (1, 10, 49, 50, 75, 95, 100):
        file = BytesIO()
        Image.new("RGB", (16, 16)).save(file, format="JPEG", quality=quality)
        with Image.open(file) as written:
            expected = list(written.quantization[0])  # type: ignore[attr-defined]
        assert [int(step) for step in luminance_steps(quality).flatten()] == expected


@needs_shared
def test_noise_has_the_statistics_of_basicsr() -> None:
    _, given, made = golden_of("losses/realesrgan_noise")
    image = given["image"][0]
    for key, expected in made.items():
        kind, amount, grey, *_ = key.split("_")
        add = add_gaussian if kind == "gauss" else add_poisson
        level, is_grey = float(amount[1:]), grey == "g1"
        noisy = [add(image, level, grey=is_grey, generator=np.random.default_rng(seed)) for seed in range(64)]
        noise = torch.stack([each - image for each in noisy]).double().numpy()
        if kind == "gauss":
            correlation = np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]
            assert noise.std() == pytest.approx(float(expected[0]), rel=0.03)
            assert correlation == pytest.approx(float(expected[1]), abs=0.02)
            # The official code adds one grey field to all images of a batch; here each image has its own.
            assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
        else:
            assert noise.mean() == pytest.approx(0, abs=0.02 * noise.std())
            assert noise.var() == pytest.approx(float(expected[1]), rel=0.03)


def test_flat_images_do_not_drown_in_shot_noise() -> None:
    assert poisson_levels(torch.zeros(3, 8, 8)) == 32
    assert poisson_levels(torch.arange(256).float()) == 256
    noisy = add_poisson(torch.full((3, 16, 16), 0.5), 1.0, grey=False, generator=np.random.default_rng(0))
    assert float((noisy - 0.5).std()) == pytest.approx((0.5 / 32) ** 0.5, rel=0.1)
