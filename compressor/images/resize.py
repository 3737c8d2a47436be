"""MATLAB's bicubic in torch: the only resizer of pixels in srkd, with Lanczos to compare with.

Published low-resolution benchmark images were made by MATLAB's `imresize(image, 1/s, 'bicubic')`: Keys' cubic kernel
with a = -0.5, stretched by the scale when shrinking (antialiasing), rows before columns, indices reflected at the
border, and on 8-bit images rounded to 8 bit after each of the two passes (BasicSR, basicsr/utils/matlab_functions.py,
has the same filter without the rounding between the passes).
torch's own `bicubic` has a = -0.75: a different filter, never interchangeable with this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from compressor.base.choices import Border
from compressor.base.errors import SrkdError

KernelName: TypeAlias = Literal["cubic", "lanczos"]


def imresize(images: Tensor, scale: float, kernel: KernelName = "cubic") -> Tensor:
    """Return (..., H, W) floats of any range resized to (..., ceil(H*scale), ceil(W*scale)); no rounding, no clamping.

    Per axis, with output index i = 1..n', u = i/r + (1 - 1/r)/2, taps j around u, weights k(u - j) normalised to sum
    one, k(t) = r*kernel(r*t) when shrinking (antialiasing) and kernel(t) when enlarging; indices are mirrored.
    """
    return _resize_axis(_resize_axis(images, -2, scale, kernel), -1, scale, kernel)


def upscale_bicubic(lr: Tensor, scale: int) -> Tensor:
    """Return images upscaled by the reference bicubic: mirrored border, neither rounded nor clamped."""
    return imresize(lr, float(scale))


def downscale_u8(hr_u8: Tensor, scale: int, *, border: Border = "mirror") -> Tensor:
    """Return (..., H, W) uint8 downscaled by MATLAB's bicubic: (..., ceil(H/scale), ceil(W/scale)) uint8.

    Half is rounded up, and values clipped, after the vertical pass and again after the horizontal one. The weights are
    integers over a common denominator, so every sum is exact on every device and in every order.
    """
    if scale == 1:
        return hr_u8.clone()
    rows_done = _shrink_rows_u8(hr_u8, scale, border)
    # The second pass works on the transposed image, because whole rows are contiguous and columns are not.
    columns_done = _shrink_rows_u8(rows_done.transpose(-1, -2).contiguous(), scale, border)
    return columns_done.transpose(-1, -2).contiguous()


def mod_crop(images: Tensor, scale: int) -> Tensor:
    """Return images cropped at the bottom and right to multiples of the scale."""
    height, width = images.shape[-2] // scale * scale, images.shape[-1] // scale * scale
    if not height or not width:
        raise SrkdError(f"an image of {images.shape[-1]}x{images.shape[-2]} is smaller than the scale {scale}")
    return images[..., :height, :width]


def centre_crop(images: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of images, which are at least that high and wide."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def reflected_indices(positions: Tensor, size: int, *, repeat_edge: bool = True) -> Tensor:
    """Return the index in 0..size-1 of each position, mirrored at both ends; `size` may be dynamic in a traced graph.

    With `repeat_edge` the order is …2 1 0 0 1 2… (MATLAB, SwinIR's test script), without it …2 1 0 1 2… (torch's
    'reflect').
    """
    two = torch.full_like(positions, 2)  # a tensor: torch's ONNX exporter has no remainder by a dynamic size
    if repeat_edge:
        folded = positions % (two * size)
        return torch.where(folded < size, folded, 2 * size - 1 - folded)
    period = torch.clamp(two * (size - 1), min=1)
    folded = positions % period
    return torch.where(folded < size, folded, period - folded)


def pad_to(images: Tensor, size_multiple: int, min_size: int = 1, *, repeat_edge: bool = True) -> Tensor:
    """Return images padded by reflection at the right and bottom, to multiples and at least `min_size`."""
    height, width = (-(-max(size, min_size) // size_multiple) * size_multiple for size in images.shape[-2:])
    return mirror_to(images, height, width, repeat_edge=repeat_edge)


def mirror_to(images: Tensor, height: int, width: int, *, repeat_edge: bool = True) -> Tensor:
    """Return images of at least this size: smaller ones go on by reflection at the right and bottom."""
    for axis, target in ((-2, height), (-1, width)):
        size = images.shape[axis]
        if size < target:
            positions = torch.arange(target, device=images.device)
            images = images.index_select(axis, reflected_indices(positions, size, repeat_edge=repeat_edge))
    return images


def cubic(distance: Tensor) -> Tensor:
    """Return Keys' kernel with a = -0.5 (Keys, 'Cubic convolution interpolation', 1981)."""
    t = distance.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t <= 2, far, torch.zeros_like(t)))


def lanczos(distance: Tensor) -> Tensor:
    """Return Lanczos' kernel of three lobes, sinc(t)*sinc(t/3) for |t| < 3 (Duchon, 1979)."""
    return torch.where(distance.abs() < 3, torch.sinc(distance) * torch.sinc(distance / 3), torch.zeros_like(distance))


KERNELS: Mapping[KernelName, tuple[Callable[[Tensor], Tensor], float]] = {
    "cubic": (cubic, 4.0),
    "lanczos": (lanczos, 6.0),
}
"""Kernels by name, with the width outside of which they are zero."""


@lru_cache(maxsize=64)
def _axis_taps(
    size: int, scale: float, kernel: KernelName, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return source indices (taps, n') and weights (taps, n') for one axis, computed in float64."""
    # Real numbers also in a dry run, which computes shapes alone: the cache outlives it.
    with torch.device("cpu"):
        stretch = min(scale, 1.0)
        weigh, width = KERNELS[kernel]
        support = width / stretch
        # The small term absorbs the rounding error of sizes such as 33 * (1/3), which must not gain a pixel.
        out_size = max(1, math.ceil(size * scale - 1e-9))
        centre = torch.arange(1, out_size + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)
        first = (centre - support / 2).floor()
        positions = first + torch.arange(math.ceil(support) + 2, dtype=torch.float64)[:, None]
        weights = stretch * weigh(stretch * (centre - positions))
        weights = weights / weights.sum(dim=0)
        used = weights.abs().amax(dim=1) > 0
        indices = reflected_indices(positions.long() - 1, size)
    return indices[used].to(device), weights[used].to(device, dtype)


def _resize_axis(images: Tensor, axis: int, scale: float, kernel: KernelName) -> Tensor:
    indices, weights = _axis_taps(images.shape[axis], scale, kernel, images.device, images.dtype)
    if axis == -2:
        weights = weights[:, :, None]
    total = images.index_select(axis, indices[0]) * weights[0]
    for tap in range(1, len(indices)):
        total = total + images.index_select(axis, indices[tap]) * weights[tap]
    return total


@lru_cache(maxsize=16)
def _integer_taps(scale: int) -> tuple[int, tuple[int, ...]]:
    """Return the first source position of output 0 of an integer downscale, and the weights from there.

    Output 0 lies at (s-1)/2. Source p is |t| = m/(2s) away in units of the stretched kernel, with the integer m = |2p -
    (s-1)|; times 16 s^3 the cubic is 3m^3 - 10sm^2 + 16s^3 up to m = 2s, and -m^3 + 10sm^2 - 32s^2m + 32s^3 up to m =
    4s. The weights are integers.
    """
    s = scale
    weights = {}
    for position in range(-2 * s, 3 * s):
        m = abs(2 * position - (s - 1))
        if m < 4 * s:
            near = 3 * m**3 - 10 * s * m**2 + 16 * s**3
            far = -(m**3) + 10 * s * m**2 - 32 * s**2 * m + 32 * s**3
            weights[position] = near if m <= 2 * s else far
    divisor = math.gcd(*weights.values())
    return min(weights), tuple(weight // divisor for weight in weights.values())


def _shrink_rows_u8(images_u8: Tensor, scale: int, border: Border) -> Tensor:
    """Return one 8-bit pass along H: floor((sum of weight*pixel + D/2) / D), D the sum of the integer weights."""
    first, weights = _integer_taps(scale)
    denominator = sum(weights)
    height = images_u8.shape[-2]
    out_height = -(-height // scale)
    span = (out_height - 1) * scale + len(weights)
    positions = torch.arange(first, first + span, device=images_u8.device)
    mirrored = reflected_indices(positions, height)
    padded = images_u8.index_select(-2, mirrored if border == "mirror" else positions.clamp(0, height - 1))
    largest = 255 * sum(map(abs, weights)) + denominator
    exact = padded.to(torch.float32 if 8 * largest < 2**24 else torch.float64)  # float32 holds whole numbers up to 2^24
    shape = (*images_u8.shape[:-2], out_height, images_u8.shape[-1])
    # Sums of weight*pixel are whole numbers. Adding a quarter keeps the quotient away from whole numbers on both sides,
    # so that floor is right even where a GPU divides by multiplying with the rounded reciprocal.
    total = torch.full(shape, denominator / 2 + 0.25, dtype=exact.dtype, device=exact.device)
    last = (out_height - 1) * scale + 1
    for tap, weight in enumerate(weights):
        if weight:
            total.add_(exact[..., tap : tap + last : scale, :], alpha=weight)
    return total.div_(denominator).floor_().clamp_(0, 255).to(torch.uint8)
