"""Images in memory: PIL images, NumPy arrays and tensors; results have the kind of their input.

Value ranges are those of files: 0..255 for integers, [0,1] for floats, RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from compressor.base.errors import UsageError
from compressor.images.files import grey_of, quantised, samples_8bit, to_01
from compressor.images.metrics import to_u8

ImageInMemory: TypeAlias = Image.Image | npt.NDArray[Any] | Tensor

LOWEST, HIGHEST = -0.5, 1.5
"""Bounds on floats meant to be in [0,1]: filters overshoot by less, values in 0..255 or -1..1 exceed them."""
KEPT_FACTS = ("icc_profile", "exif", "dpi")
"""The metadata of a PIL image that its result keeps. EXIF includes the orientation, as pixels are not rotated."""


@dataclass(frozen=True)
class Planes:
    """The pixels of an image: rgb (N,3,H,W) and alpha (1,1,H,W), float32 in [0,1]; `bits` is 32 for floats."""

    rgb: Tensor
    alpha: Tensor | None = None
    bits: Literal[8, 16, 32] = 8


def is_in_memory(value: object) -> bool:
    return isinstance(value, (Image.Image, np.ndarray, Tensor))


def read_planes(image: ImageInMemory) -> Planes:
    """Return the pixels of an image; anything else than RGB in the expected range is refused in one line."""
    if isinstance(image, Image.Image):
        return _planes_of_pil(image)
    if isinstance(image, np.ndarray):
        is_number = image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)
        if image.ndim != 3 or image.shape[2] != 3 or not image.size or not is_number:
            raise UsageError(
                f"an array of shape {image.shape} and type {image.dtype} is not an image: (H,W,3) of uint8, or of "
                "floats in [0,1], is taken"
            )
        values = image if image.dtype == np.uint8 else image.astype(np.float32)
        planes = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]
        return _float_planes(planes, "array", tuple(image.shape), str(image.dtype))
    if image.dim() not in (3, 4) or image.shape[-3] != 3 or not image.numel():
        raise UsageError(
            f"a tensor of shape {tuple(image.shape)} is not an image: (3,H,W) or (N,3,H,W) of uint8, or of floats "
            "in [0,1], is taken"
        )
    if image.layout is not torch.strided or image.is_meta:
        kind = "on the meta device" if image.is_meta else f"of layout {str(image.layout).removeprefix('torch.')}"
        raise UsageError(f"a tensor {kind} is not an image: give a dense one with values (tensor.to_dense())")
    planes = image.detach() if image.dim() == 4 else image.detach()[None]
    return _float_planes(planes, "tensor", tuple(image.shape), str(image.dtype).removeprefix("torch."))


def like(image: ImageInMemory, planes: Planes) -> ImageInMemory:
    """Return the pixels as an image of the same kind and dtype as `image`; floats are clamped to [0,1]."""
    if isinstance(image, Image.Image):
        return _pil_of_planes(image, planes)
    if isinstance(image, np.ndarray):
        rgb = planes.rgb[0].clamp(0, 1)
        if image.dtype == np.uint8:
            return quantised(rgb, 8)
        return rgb.permute(1, 2, 0).numpy().astype(image.dtype, order="C")
    rgb = to_u8(planes.rgb) if image.dtype == torch.uint8 else planes.rgb.clamp(0, 1)
    rgb = rgb.to(image.device, image.dtype)
    return rgb if image.dim() == 4 else rgb[0]


def _float_planes(planes: Tensor, kind: str, shape: tuple[int, ...], dtype: str) -> Planes:
    """Return float32 planes in [0,1]; refuse floats of another range."""
    if planes.dtype == torch.uint8:
        return Planes(planes.float().div_(255))
    if not planes.is_floating_point():
        raise UsageError(f"a {kind} of {dtype} is not an image: give uint8, or floats in [0,1]")
    rgb = planes.float()
    low, high = (float(value) for value in torch.aminmax(rgb))
    if not LOWEST <= low <= high <= HIGHEST:  # NaN, too
        raise UsageError(
            f"a {kind} of shape {shape} holds values from {low:.4g} to {high:.4g}: floats lie in [0,1]; for 0..255 "
            "divide by 255, or give uint8"
        )
    return Planes(rgb, bits=32)


def _planes_of_pil(image: Image.Image) -> Planes:
    bits: Literal[8, 16] = 16 if image.mode.startswith("I;16") else 8
    if not image.width * image.height:
        raise UsageError(f"the PIL image has no pixels: its size is {image.width}x{image.height}")
    try:
        samples: npt.NDArray[Any] = (
            np.asarray(image).astype(np.uint16)[..., None] if bits == 16 else samples_8bit(image, "the image")
        )
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"the PIL image of {image.width}x{image.height} cannot be read: {error}") from error
    planes = to_01(samples)
    has_alpha = planes.shape[0] in (2, 4)
    colours = planes[:-1] if has_alpha else planes
    return Planes(colours.expand(3, -1, -1)[None].contiguous(), planes[None, -1:] if has_alpha else None, bits)


def _pil_of_planes(image: Image.Image, planes: Planes) -> Image.Image:
    bits: Literal[8, 16] = 16 if image.mode.startswith("I;16") else 8
    is_grey = bits == 16 or image.mode in ("1", "L", "LA", "La")
    colours = grey_of(planes.rgb[0]) if is_grey else planes.rgb[0]
    samples = quantised(colours if planes.alpha is None else torch.cat([colours, planes.alpha[0]]), bits)
    enlarged = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    enlarged.info |= {name: image.info[name] for name in KEPT_FACTS if name in image.info}
    if image.mode == "CMYK":
        enlarged.info.pop("icc_profile", None)  # it does not describe the pixels, which are RGB now
    return enlarged
