"""A crop of each sample at its own place; places are drawn on the CPU, so nothing waits for a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from compressor.data.randomness import uniforms


def places(
    stream: str, seed: int, step: int, samples: Sequence[int], room: tuple[int, int], *, draws: int = 1
) -> list[list[tuple[int, int]]]:
    """For each of `draws`, one place (top, left) a sample, uniform over 0…room in both directions."""
    drawn = uniforms(stream, seed, step, samples, 2 * draws)
    return [
        [
            (int(row[2 * draw] * (room[0] + 1)), int(row[2 * draw + 1] * (room[1] + 1)))
            for row in drawn
        ]
        for draw in range(draws)
    ]  # fmt: skip


def crop_each(images: torch.Tensor, where: Iterable[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    """(B,C,height,width): sample b from its (top, left) on."""
    cut = [image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, where, strict=True)]
    return torch.stack(cut)
