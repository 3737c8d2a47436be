"""The images that an exported file and its network are compared on: photos, flat colours, patterns, noise, odd sizes.

Photos show what people will see. The other images find the values at which arithmetic breaks: colours at the ends
of the range, and stripes, checks and dots of one pixel, which give larger features than any photo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from compressor.images.files import read_rgb_u8
from compressor.images.resize import centre_crop, downscale_u8, mirror_to
from compressor.images.sets import embedded_photos
from compressor.models.networks.base import Descriptor

PHOTO_LR = (96, 64)
"""Width and height in LR pixels of the part of a photo that is compared."""

ODD_SIZES = ((1, 1, 1), (1, 7, 13), (1, 17, 5), (2, 11, 9))
"""Batch, width and height of odd inputs: a graph with a constant instead of a size fails on some of them."""

RGB = {
    "black": (0, 0, 0),
    "white": (1, 1, 1),
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "cyan": (0, 1, 1),
    "magenta": (1, 0, 1),
    "yellow": (1, 1, 0),
}
"""The colours whose channels are all 0 or 1."""

CELL = 16
"""Side of one pattern in pixels; an image holds as many as fit."""

SMALL_SIDE = 24
"""Side in pixels of the images for runtimes that take long."""

DOT_STEP = 4
"""Distance in pixels between dots of one pixel."""


@dataclass(frozen=True)
class ProofInput:
    """A named input; only photos count for the PSNR. `flat` inputs are of one colour."""

    __test__ = False  # not a test class, as pytest would conclude from the name

    name: str
    lr: torch.Tensor
    photo: bool = False
    flat: bool = False


def proof_inputs(descriptor: Descriptor, photos: Mapping[str, Path] | None = None) -> tuple[ProofInput, ...]:
    """Return photos (None: the embedded validation photos), flat colours, patterns, noise, odd sizes, a batch.

    If the descriptor has a fixed size, all have that size, in a batch of one.
    """
    channels, step, fixed = descriptor.channels, descriptor.size_multiple, descriptor.fixed_size
    side = -(-max(24, descriptor.min_size) // step) * step
    width, height = fixed or within((side, side), descriptor.max_size)
    generator = torch.Generator().manual_seed(0)
    pictures = embedded_photos("val") if photos is None else photos
    middles = {
        name: middle_of_photo(path, descriptor, fixed, within(PHOTO_LR, descriptor.max_size), least=1)
        for name, path in pictures.items()
    }
    inputs = [ProofInput(f"photo {name}", pair[0], photo=True) for name, pair in middles.items() if pair is not None]
    inputs += [
        ProofInput(name, colour.expand(1, channels, height, width).clone(), flat=True)
        for name, colour in _colours(channels).items()
    ]
    inputs += _pattern_inputs(descriptor)
    inputs += [ProofInput("noise", torch.rand(1, channels, height, width, generator=generator))]
    for batch, *odd in ODD_SIZES if fixed is None else ():
        width, height = _adapted(odd, descriptor)
        name = f"noise {width}x{height}" + (f" in a batch of {batch}" if batch > 1 else "")
        inputs += [ProofInput(name, torch.rand(batch, channels, height, width, generator=generator))]
    return tuple(inputs)


def few_and_small(inputs: Sequence[ProofInput]) -> tuple[ProofInput, ...]:
    """The middles of the images, as a batch of photos and a batch of all others."""
    batches = []
    for photo, name in ((True, "photos"), (False, "colours, stripes and noise")):
        images = [each.lr for each in inputs if each.photo == photo and min(each.lr.shape[-2:]) >= SMALL_SIDE]
        if images:
            batches.append(
                ProofInput(name, torch.cat([centre_crop(lr, SMALL_SIDE, SMALL_SIDE) for lr in images]), photo)
            )
    return tuple(batches)


def _colours(channels: int) -> dict[str, torch.Tensor]:
    """The colours at the ends of the range, each (channels, 1, 1); only black and white without RGB."""
    if channels == 3:
        return {name: torch.tensor(rgb).float().view(3, 1, 1) for name, rgb in RGB.items()}
    return {"black": torch.zeros(channels, 1, 1), "white": torch.ones(channels, 1, 1)}


def _pattern_inputs(descriptor: Descriptor) -> list[ProofInput]:
    """Return images that hold all patterns, in cells of `CELL` pixels or more."""
    width, height = descriptor.fixed_size or _adapted(PHOTO_LR, descriptor)
    across, down = max(1, width // CELL), max(1, height // CELL)
    columns = [width * index // across for index in range(across + 1)]
    rows = [height * index // down for index in range(down + 1)]
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    patterns = list(_patterns(_colours(descriptor.channels), y, x))
    inputs = []
    count = -(-len(patterns) // (across * down))
    for index in range(count):
        image = torch.full((1, descriptor.channels, height, width), 0.5)
        for cell, pattern in enumerate(patterns[index * across * down : (index + 1) * across * down]):
            top, left = rows[cell // across], columns[cell % across]
            bottom, right = rows[cell // across + 1], columns[cell % across + 1]
            image[0, :, top:bottom, left:right] = pattern[:, top:bottom, left:right]
        name = "stripes, checks and dots" + (f" {index + 1} of {count}" if count > 1 else "")
        inputs += [ProofInput(name, image)]
    return inputs


def _patterns(colours: Mapping[str, torch.Tensor], y: torch.Tensor, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield each pattern over the whole image: columns, rows and checks of every pair of colours, and dots.

    Dots are single pixels: of white and the colours with one channel set on black, of the others on white.
    """
    for first, second in combinations(colours.values(), 2):
        for odd in (x + 0 * y, y + 0 * x, x + y):
            yield torch.where(odd % 2 == 1, first, second)
    dots = (x % DOT_STEP == DOT_STEP // 2) & (y % DOT_STEP == DOT_STEP // 2)
    black, white = colours["black"], colours["white"]
    for colour in colours.values():
        is_dark = not torch.equal(colour, white) and colour.sum() != 1
        yield torch.where(dots, colour, white if is_dark else black)


def _adapted(size: Sequence[int], descriptor: Descriptor) -> tuple[int, int]:
    """A size near this one that the network takes, if it takes several."""
    step = descriptor.size_multiple
    width, height = (max(descriptor.min_size, -(-length // step) * step) for length in size)
    return within((width, height), descriptor.max_size)


def within(size: tuple[int, int], most: tuple[int, int] | None) -> tuple[int, int]:
    """Return width and height, limited to the largest size that a file takes; None: any."""
    return size if most is None else (min(size[0], most[0]), min(size[1], most[1]))


def middle_of_photo(
    path: Path, descriptor: Descriptor, size: tuple[int, int] | None, largest: tuple[int, int], *, least: int = 16
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The middle of a photo as LR in [0,1] and HR in bytes; None if a side is below `least`.

    For a file of one size a smaller photo goes on by reflection.
    """
    hr, scale, step = read_rgb_u8(path), descriptor.scale, descriptor.size_multiple
    width, height = size or (
        min(length // scale, most) // step * step for length, most in zip(hr.shape[:0:-1], largest, strict=True)
    )
    if min(height, width) < max(descriptor.min_size, least):
        return None
    hr = mirror_to(hr, height * scale, width * scale)
    hr = centre_crop(hr, height * scale, width * scale)
    lr = downscale_u8(hr, scale)[: descriptor.channels]
    return lr[None].float().div(255), hr[None, : descriptor.channels]
