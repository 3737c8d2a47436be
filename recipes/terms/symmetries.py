"""Flips, transposition and inverted colours, each drawn by a coin for each sample, and undone on a network's output.

    D      i: 1 - v, h: rows reversed, v: columns reversed, t: transposed, in this order
    D⁻¹    t, v, h, i

Colours are inverted in the image range [0,1]. DUKD augments the student's input by them, DCKD the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compressor.base.errors import UsageError
from compressor.base.randomness import uniforms


@dataclass(frozen=True)
class Operations:
    """Boolean tensors of shape (B,): True for the samples to which each operation applies."""

    inverted: torch.Tensor
    upended: torch.Tensor
    mirrored: torch.Tensor
    transposed: torch.Tensor


def draw_operations(
    probability: float,
    *,
    stream: str,
    seed: int,
    step: int,
    samples: Sequence[int],
    copies: int = 1,
    like: torch.Tensor | None = None,
) -> Operations:
    """Return the operations on the device of `like`, drawn with a probability for each sample; `copies` of the batch
    are concatenated.
    """
    coins = torch.from_numpy(uniforms(stream, seed, step, samples, 4 * copies) < probability)
    by_copy = coins.reshape(len(samples), copies, 4).transpose(0, 1).reshape(-1, 4)
    by_copy = by_copy if like is None else by_copy.to(like.device)
    return Operations(*by_copy.unbind(1))


def apply(images: torch.Tensor, operations: Operations) -> torch.Tensor:
    """Return images after i, h, v, t in this order; images must be square if any is transposed."""
    images = _invert_colours(images, operations.inverted)
    images = _replace(operations.upended, images.flip(-2), images)
    images = _replace(operations.mirrored, images.flip(-1), images)
    return _transpose(images, operations.transposed)


def invert(images: torch.Tensor, operations: Operations, *, bug: bool = False) -> torch.Tensor:
    """Return images, of input or output size, with `apply` undone: t, v, h, i. `bug` uses the order of DUKD's code."""
    if bug:
        return apply(images, operations)
    images = _transpose(images, operations.transposed)
    images = _replace(operations.mirrored, images.flip(-1), images)
    images = _replace(operations.upended, images.flip(-2), images)
    return _invert_colours(images, operations.inverted)


def _replace(samples: torch.Tensor, changed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return torch.where(samples[:, None, None, None], changed, images)


def _invert_colours(images: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    return _replace(samples, 1 - images, images)


def _transpose(images: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    if images.shape[-1] == images.shape[-2]:
        return _replace(samples, images.transpose(-1, -2), images)
    if samples.any():
        raise UsageError(f"only square patches can be transposed, these are {images.shape[-1]}x{images.shape[-2]}")
    return images
