"""Tiled inference for pictures of any size, with the same result as the whole picture at once.

A window is a tile (its contribution to the output) plus its surroundings within the network's `receptive_radius`, in
low-resolution pixels. All windows of a picture have one size: at the edges they are moved inwards, not cut, so that
runtimes prepare for one shape and a network's own border padding acts only at the true border. The result is then
exact. A network with an unbounded receptive field (global pooling, shifted windows) gets an overlap instead, and the
largest difference between neighbouring windows along their seams is measured and returned. The same applies to one
that sees so far that its windows would exceed the memory bound (an ESRGAN of 23 blocks sees 349 pixels), and to a file
of a size that is too small for its receptive field. If attention acts in windows of a fixed grid, tiles begin on that
grid, and the last of an axis may be longer for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from compressor.base.compute_device import free_unused_memory
from compressor.base.errors import SrkdError, UsageError, is_out_of_memory
from compressor.images.resize import mirror_to, pad_to
from compressor.models.networks.base import Descriptor
from compressor.runtimes.base import require_enlarged

Run: TypeAlias = Callable[[Tensor], Tensor]
"""A model's forward pass, from (N,C,h,w) to (N,C,s*h,s*w)."""

WindowProgress: TypeAlias = Callable[[int, int], None]
"""Called as progress(done, total), in windows."""

AUTO_MEMORY_BYTES = 4 * 1024**3
"""Upper memory bound for the automatic tile size."""

USUAL_MEMORY_BYTES = 1024**3
"""Memory bound tried first; enough if the tile is then many times its margin, as touching fresh memory takes time."""

MANY_MARGINS = 8
"""Tile size in margins from which the lower bound is enough: such tiles compute at most 1.56 times the picture."""

ASSUMED_CHANNELS = 256
"""Assumed width of unknown networks: three feature maps at LR size and two at output size, in float32."""

MIN_TILE = 16
UNBOUNDED_OVERLAP = 16
"""Overlap in LR pixels around a tile of a network with an unbounded receptive field."""


@dataclass(frozen=True)
class Tiled:
    """The output, its tile size (None: the whole picture at once), and the seam figure.

    `seam` is the largest difference in [0,1] between two neighbouring windows' outputs beside their common seam; None
    if the tiling is exact or there was one window.
    """

    sr: Tensor
    tile: int | None = None
    seam: float | None = None


@dataclass(frozen=True)
class Span:
    """One axis of a window, in LR pixels: it contributes [start, stop) and reads [begin, begin + length)."""

    start: int
    stop: int
    begin: int
    length: int


Window: TypeAlias = tuple[Span, Span]


def run_tiled(
    run: Run,
    lr: Tensor,
    model: Descriptor,
    *,
    tile: int | None = None,
    overlap: int = UNBOUNDED_OVERLAP,
    progress: WindowProgress | None = None,
    pixel_bytes: int | None = None,
) -> Tiled:
    """Run (N,C,h,w) through `run` in tiles of at most `tile` LR pixels a side (None: selected by memory; 0: no tiling).

    `pixel_bytes` is the memory that the model needs per pixel of (1,C,h,w); None assumes a wide network. A model
    that sees too far for exact tiles gets `overlap`. A picture of an unsupported size is mirrored at its right and
    lower edge. If memory runs out, the tile is halved, down to 16 pixels. For a model with a fixed size all windows
    have that size, whatever `tile` is. Pictures larger than the model's `max_size` are tiled, even with a `tile` of 0.
    """
    if model.fixed_size is not None:
        return _run_fixed(run, lr, model, overlap, progress)
    height, width = lr.shape[-2:]
    scale, largest = model.scale, model.max_size
    padded = pad_to(lr, model.size_multiple, model.min_size, repeat_edge=model.mirror_repeats_edge)
    if largest is not None and padded.shape[-1] <= largest[0] and padded.shape[-2] <= largest[1]:
        largest = None
    pixel_bytes = pixel_bytes or 4 * ASSUMED_CHANNELS * (3 + 2 * scale**2)
    radius = _exact_margin(padded, model, tile, largest, pixel_bytes)
    grid = math.lcm(model.size_multiple, model.window)
    margin = _round_up(overlap if radius is None else radius, grid)
    side = _first_tile(padded, tile, margin, pixel_bytes)
    if largest is not None:
        side = min(side, _largest_tile(largest, margin, model))
    while True:
        rows = spans(padded.shape[-2], side, margin, grid, model.min_size)
        columns = spans(padded.shape[-1], side, margin, grid, model.min_size)
        windows = list(product(rows, columns))
        try:
            sr, seam = _run_windows(run, padded, windows, scale, progress, measure=radius is None)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if (half := min(side, max(padded.shape[-2:])) // 2) < MIN_TILE:
                raise SrkdError(
                    f"out of memory even with tiles of {side} pixels: close other programs or use a smaller network or "
                    "picture"
                ) from error
            side = half
            free_unused_memory()
    return Tiled(sr[..., : height * scale, : width * scale], side if len(windows) > 1 else None, seam)


def _run_fixed(run: Run, lr: Tensor, model: Descriptor, overlap: int, progress: WindowProgress | None) -> Tiled:
    """Run windows of the model's fixed size, image by image; a smaller picture is mirrored to fill it."""
    assert model.fixed_size is not None
    height, width = lr.shape[-2:]
    radius, scale = model.receptive_radius, model.scale
    axes = list(zip((height, width), reversed(model.fixed_size), strict=True))
    margin = overlap if radius is None else radius
    targets = [length if size <= length else _round_up(size, model.window) for size, length in axes]
    lr = mirror_to(lr, *targets, repeat_edge=model.mirror_repeats_edge)
    exact = radius is not None and all(size <= length or length // 4 >= radius for size, length in axes)
    rows, columns = (
        fixed_spans(target, length, margin, model.window) for target, (_, length) in zip(targets, axes, strict=True)
    )
    windows = list(product(rows, columns))
    outputs = [_run_windows(run, image[None], windows, scale, progress, measure=not exact) for image in lr]
    seams = [seam for _, seam in outputs if seam is not None]
    sr = torch.cat([output for output, _ in outputs])[..., : height * scale, : width * scale]
    return Tiled(sr, max(model.fixed_size) if len(windows) > 1 else None, max(seams, default=None))


def fixed_spans(size: int, length: int, margin: int, grid: int = 1) -> tuple[Span, ...]:
    """Return the spans of one axis for windows of exactly `length`, which is at most `size`.

    They reach `margin` beyond their tiles, or a quarter of their length if that is less, and begin on the grid if they
    hold at least four of its windows.
    """
    if size == length:
        return (Span(0, size, 0, size),)
    margin = min(margin, length // 4)
    if length % grid == 0 and length >= 4 * grid:
        margin = _round_up(margin, grid)
    starts = range(0, size, length - 2 * margin)
    return tuple(
        Span(start, min(start + length - 2 * margin, size), min(max(start - margin, 0), size - length), length)
        for start in starts
    )


def spans(size: int, tile: int, margin: int, grid: int = 1, min_size: int = 1) -> tuple[Span, ...]:
    """Return the spans of one axis: tiles of about equal length, at most `tile` rounded up to the grid.

    Every window begins on the grid, has at least `min_size` pixels, stays within the picture, and reaches `margin`
    beyond its tile within the picture. All have one length, except the last ones of a picture that ends off the grid:
    these reach its end. There is one span if a window would cover the axis anyway.
    """
    tile, min_length = _round_up(tile, grid), _round_up(min_size, grid)
    if max(tile + 2 * margin, min_length) >= size:
        return (Span(0, size, 0, size),)
    count = -(-size // tile)
    tile = _round_up(-(-size // count), grid)
    length = max(tile + 2 * margin, min_length)
    last = (size - length) // grid * grid
    begins = [(start, min(max(start - margin, 0), last)) for start in range(0, size, tile)]
    return tuple(
        Span(start, min(start + tile, size), begin, size - begin if begin == last else length)
        for start, begin in begins
    )


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _exact_margin(
    padded: Tensor, model: Descriptor, tile: int | None, largest: tuple[int, int] | None, pixel_bytes: int
) -> int | None:
    """Return the margin of exact tiles, or None if the model sees too far for them.

    Their windows must fit into the memory bound, and into the `largest` size that the model takes, if it has one. Tiles
    that are smaller than their margins compute over nine times the picture: only `tile` asks for these.
    """
    if (radius := model.receptive_radius) is None:
        return None
    side = 2 * radius + min(tile or radius, radius)
    fits = min(side**2, padded[:, 0].numel()) * pixel_bytes <= AUTO_MEMORY_BYTES
    return radius if fits and (largest is None or 2 * radius < min(largest)) else None


def _first_tile(padded: Tensor, tile: int | None, margin: int, pixel_bytes: int) -> int:
    """Return the tile size to try first: `tile`, else the largest within the memory bound."""
    whole = max(padded.shape[-2:])
    if tile is not None:
        return tile or whole
    side = MIN_TILE
    for bound in (USUAL_MEMORY_BYTES, AUTO_MEMORY_BYTES):
        window_pixels = bound // (pixel_bytes * padded.shape[0])
        if padded.shape[-1] * padded.shape[-2] <= window_pixels:
            return whole
        side = math.isqrt(window_pixels) - 2 * margin
        if side >= MANY_MARGINS * margin:
            break
    return max(side, MIN_TILE)


def _largest_tile(max_size: tuple[int, int], margin: int, model: Descriptor) -> int:
    """Return the largest tile that fits, with its margins, into a model's largest input size.

    The last window of an axis may be longer by the rest of a window of the network.
    """
    grid = math.lcm(model.size_multiple, model.window)
    tile = (min(max_size) - (model.window - 1) - 2 * margin) // grid * grid
    if tile < 1:
        raise UsageError(
            "the model takes at most {}x{}, and a tile needs {} pixels around it on each side: "
            "export it for larger sizes".format(*max_size, margin)
        )
    return tile


def _run_windows(
    run: Run, padded: Tensor, windows: list[Window], scale: int, progress: WindowProgress | None, *, measure: bool
) -> tuple[Tensor, float | None]:
    """Return the assembled picture and, with `measure`, its largest seam."""
    if len(windows) == 1:
        return require_enlarged(run(padded), padded, scale, "the model").to(padded.device), None
    images, channels, height, width = padded.shape
    sr = torch.empty(images, channels, height * scale, width * scale, dtype=torch.float32, device=padded.device)
    edges: list[tuple[slice, slice, Tensor]] = []
    for done, (row, column) in enumerate(windows, start=1):
        lr = padded[..., row.begin : row.begin + row.length, column.begin : column.begin + column.length].contiguous()
        output = require_enlarged(run(lr), lr, scale, "the model").to(sr.device)
        rows, columns = _hr_slice(row.start, row.stop, scale), _hr_slice(column.start, column.stop, scale)
        sr[..., rows, columns] = _region(output, row, column, rows, columns, scale)
        if measure and row.start:
            above = _hr_slice(row.start - 1, row.start, scale)
            edges.append((above, columns, _region(output, row, column, above, columns, scale).clone()))
        if measure and column.start:
            left = _hr_slice(column.start - 1, column.start, scale)
            edges.append((rows, left, _region(output, row, column, rows, left, scale).clone()))
        if progress is not None:
            progress(done, len(windows))
    seams = (float((sr[..., rows, columns] - edge).abs().max()) for rows, columns, edge in edges)
    return sr, max(seams) if measure else None


def _hr_slice(start: int, stop: int, scale: int) -> slice:
    return slice(start * scale, stop * scale)


def _region(output: Tensor, row: Span, column: Span, rows: slice, columns: slice, scale: int) -> Tensor:
    """Return the part of a window's output at these coordinates of the whole output."""
    top, left = row.begin * scale, column.begin * scale
    return output[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
