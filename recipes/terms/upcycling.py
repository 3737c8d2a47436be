"""DUKD's new inputs, made from the batch itself, and the invertible augmentation of the student's input.

    zoom-in    a crop of y as large as x          zoom-out    imresize(x, 1/s): float, neither rounded nor clipped
    apply      i: 1 - v, h: rows upside down, v: columns mirrored, t: transposed, in this order, each by a coin a sample
    invert     t, v, h, i

Zhang et al., DUKD; code followed: yun224/DUKD, models/dukd_model.py (noising, optimize_parameters).

- The code undoes the augmentation by a second call in the order i, h, v, t. That is wrong for t with exactly one of h
  and v (4 of 16 subsets: a rotation by 90° is undone by another one). We reverse the order; `bug=True` does not.
- Paper: rotation by 90°; code: transpose. With the flips both give all eight symmetries; we transpose.
- Paper: a random crop for zoom-in; code: n of the s·s cells of a grid, the same for the whole batch. We crop at random
  for each sample; `zoom_in_cells` is the code's.
- Colours are inverted in the image range [0,1], and nothing is clipped before it is undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compressor.base.errors import UsageError
from compressor.base.randomness import crop_each, random_positions, uniforms
from compressor.images.resize import imresize

PROBABILITY = 0.3


@dataclass(frozen=True)
class Operations:
    """The samples that get each operation: boolean tensors of shape (B,), on the CPU."""

    inverted: torch.Tensor
    upended: torch.Tensor
    mirrored: torch.Tensor
    transposed: torch.Tensor


def draw_operations(
    probability: float, *, stream: str, seed: int, step: int, samples: Sequence[int], copies: int = 1
) -> Operations:
    """Draw each operation for each sample with a probability; `copies` of the batch lie one after the other."""
    coins = torch.from_numpy(uniforms(f"dukd-{stream}", seed, step, samples, 4 * copies) < probability)
    by_copy = coins.reshape(len(samples), copies, 4).transpose(0, 1).reshape(-1, 4)
    return Operations(*by_copy.unbind(1))


def apply(images: torch.Tensor, operations: Operations) -> torch.Tensor:
    """Apply i, h, v, t in this order; images are square unless nothing is transposed."""
    images = _invert_colours(images, operations.inverted)
    images = _replace(operations.upended, images.flip(-2), images)
    images = _replace(operations.mirrored, images.flip(-1), images)
    return _transpose(images, operations.transposed)


def invert(images: torch.Tensor, operations: Operations, *, bug: bool = False) -> torch.Tensor:
    """Undo `apply` on the input or on any image of the network: t, v, h, i. `bug` uses the official order."""
    if bug:
        return apply(images, operations)
    images = _transpose(images, operations.transposed)
    images = _replace(operations.mirrored, images.flip(-1), images)
    images = _replace(operations.upended, images.flip(-2), images)
    return _invert_colours(images, operations.inverted)


def zoom_in(hr: torch.Tensor, size: tuple[int, int], *, seed: int, step: int, samples: Sequence[int]) -> torch.Tensor:
    """Crop each HR patch to (height, width) at a random place."""
    height, width = _require_size(hr, size)
    (corners,) = random_positions("dukd-crops", seed, step, samples, (hr.shape[-2] - height, hr.shape[-1] - width))
    return crop_each(hr, corners, height, width)


def zoom_in_cells(hr: torch.Tensor, size: tuple[int, int], count: int, *, seed: int, step: int) -> torch.Tensor:
    """Cut `count` cells of the grid of LR-sized tiles, the same for the whole batch: (count·B,…), cell by cell."""
    height, width = _require_size(hr, size)
    columns = hr.shape[-1] // width
    cells = hr.shape[-2] // height * columns
    if not 1 <= count <= cells:
        raise UsageError(
            f"an HR patch has {cells} cells of the LR patch's size, fewer than the {count} asked for: use fewer cells"
        )
    # One draw for the whole batch: that of sample 0, which every process can repeat.
    order = uniforms("dukd-cells", seed, step, [0], cells)[0].argsort(kind="stable")
    corners = [(int(cell) // columns * height, int(cell) % columns * width) for cell in order[:count]]
    return torch.cat([hr[..., top : top + height, left : left + width] for top, left in corners])


def zoom_out(lr: torch.Tensor, scale: int) -> torch.Tensor:
    """Shrink the LR patch once more by the scale."""
    return imresize(lr, 1 / scale)


def _require_size(hr: torch.Tensor, size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height > hr.shape[-2] or width > hr.shape[-1]:
        raise UsageError(f"a crop of {width}x{height} does not fit into HR patches of {hr.shape[-1]}x{hr.shape[-2]}")
    return height, width


def _replace(samples: torch.Tensor, changed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return torch.where(samples.to(images.device)[:, None, None, None], changed, images)


def _invert_colours(images: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    return _replace(samples, 1 - images, images)


def _transpose(images: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    if images.shape[-1] == images.shape[-2]:
        return _replace(samples, images.transpose(-1, -2), images)
    if samples.any():
        raise UsageError(f"only square patches can be transposed, these are {images.shape[-1]}x{images.shape[-2]}")
    return images
