"""Images in memory: the result has the kind of the input, and the values of the same picture from a file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import srkd
from compressor.base.errors import UsageError
from compressor.images.in_memory import ImageInMemory, read_planes
from compressor.inference.upscale import upscale, upscale_image
from compressor.inference.upscale_outputs import UpscaleSettings
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from tests.support.fakes import nearest_model

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
REPEATED = PIXELS.repeat(2, 0).repeat(2, 1)
MODEL = nearest_model(2)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 5)).save(stream, "PNG")
    return stream.getvalue()


def closed_image() -> Image.Image:
    image = Image.open(io.BytesIO(png()))
    image.close()
    return image


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_a_pil_image_gives_the_pixels_of_its_file(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, (5, 7), dtype=np.uint16))
    else:
        image = Image.fromarray(RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "picture.png")
    upscale([tmp_path / "picture.png"], MODEL, UpscaleSettings(output=tmp_path / "large.png"))
    enlarged = upscale_image(image, MODEL)
    assert isinstance(enlarged, Image.Image) and (enlarged.mode, enlarged.size) == (mode, (14, 10))
    with Image.open(tmp_path / "large.png") as file:
        assert np.array_equal(np.asarray(enlarged), np.asarray(file))


def test_pil_images_of_other_modes_become_rgb_and_keep_their_profile_and_orientation() -> None:
    palette = Image.fromarray(PIXELS).quantize(16)
    palette.info |= {"icc_profile": b"profile", "exif": b"orientation", "gamma": 0.5}
    enlarged = upscale_image(palette, MODEL)
    assert isinstance(enlarged, Image.Image) and enlarged.mode == "RGB"
    assert enlarged.info == {"icc_profile": b"profile", "exif": b"orientation"}
    assert np.array_equal(np.asarray(enlarged)[::2, ::2], np.asarray(palette.convert("RGB")))


def test_arrays_keep_their_type() -> None:
    whole = upscale_image(PIXELS, MODEL)
    assert isinstance(whole, np.ndarray) and whole.dtype == np.uint8 and np.array_equal(whole, REPEATED)
    for dtype in (np.float32, np.float64, np.float16):
        floats = upscale_image((PIXELS / 255).astype(dtype), MODEL)
        assert isinstance(floats, np.ndarray) and floats.dtype == dtype
        assert np.allclose(floats, REPEATED / 255, atol=1e-3)
    assert np.array_equal(np.asarray(upscale_image(PIXELS[::-1], MODEL)), REPEATED[::-1])


def test_tensors_keep_type_and_batch() -> None:
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    expected = torch.from_numpy(REPEATED).permute(2, 0, 1)
    for image in (tensor, tensor[None].repeat(2, 1, 1, 1), (tensor / 255).double(), (tensor / 255).requires_grad_()):
        enlarged = upscale_image(image, MODEL)
        assert isinstance(enlarged, torch.Tensor) and enlarged.dtype == image.dtype and enlarged.dim() == image.dim()
        assert not enlarged.requires_grad
        values = expected if image.dtype == torch.uint8 else expected / 255
        assert torch.allclose(enlarged.float(), values.float().expand_as(enlarged), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS[..., 0], r"shape \(5, 7\)"),
        (PIXELS.transpose(2, 0, 1), r"shape \(3, 5, 7\) and type uint8 is not an image: \(H,W,3\)"),
        (PIXELS.astype(np.float32), "values from .* to 2[0-9.]+: floats lie in .* divide by 255"),
        (np.full((4, 4, 3), np.nan), "values from nan"),
        (torch.rand(4, 4, 3), r"tensor of shape \(4, 4, 3\).*\(3,H,W\)"),
        (torch.rand(3, 4, 4) * 2 - 1, "values from -"),
        (torch.empty(3, 4, 4, device="meta"), "on the meta device"),
        (torch.rand(3, 4, 4).to_sparse(), "of layout sparse_coo"),
        (closed_image(), "PIL image of 4x5 cannot be read: .*closed"),
        (Image.open(io.BytesIO(png()[:45])), "PIL image of 4x5 cannot be read: .*truncated"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(image: ImageInMemory, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_planes(image)


def test_tiles_that_are_not_exact_are_a_warning() -> None:
    rcan, image = build(RCANSpec(2, width=8, groups=1, depth=1), seed=0), torch.rand(3, 120, 24)
    with pytest.warns(UserWarning, match=r"tiles of 16 pixels are not exact for .*, seams differ by up to .* of 255: "):
        srkd.upscale(rcan, image, tile=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        srkd.upscale(rcan, image, tile=0)
