"""Doubts about training images, reported before hours are spent on them: too few, screenshots, enlarged ones.

An enlarged image has no power in the upper half of its spectrum. On luma, in windows of up to 256 pixels a side, the
mean power from 3/4 of the Nyquist frequency on is compared with that from 1/4 to 9/20 (by the larger of both axes). The
bounds are [choice]: of 60 photos of BSDS, unchanged and as JPEG of quality 60, none is classified as enlarged; of the
same photos enlarged twice (bicubic, Lanczos) and four times, 179 of 180 are. JPEG compression after enlarging hides it.
Most neighbours in a screenshot are equal: 92 to 99 of 100 in documentation, 70 if small text fills it; at most 35 in
those photos (63 as JPEG).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from compressor.data.store import ImageStore
from compressor.images.metrics import luma

FEW_IMAGES = 20
EXAMINED = 12
"""Number of images of a set that are examined."""
SHARE = 0.3
"""Share of the examined images from which on a doubt is reported."""

WINDOW = 256
SMALLEST_WINDOW = 32
ENLARGED_RATIO = 0.004
MOST_POWER = 1.5
"""Mean power above which an image has fine details, in squared steps of 8-bit luma."""
ROUNDING_POWER = 0.05
"""Power at every frequency due to rounding to 8 bit."""
LEAST_TEXTURE = 1.0
"""Mean power below which the middle of the spectrum is empty, too: a smooth image decides nothing."""
EQUAL_NEIGHBOURS = 0.66


def doubts(store: ImageStore) -> tuple[str, ...]:
    count = len(store)
    lines = []
    if count == 1:
        lines.append("one training image: the student learns that picture and little else; take some hundred photos")
    elif count < FEW_IMAGES:
        lines.append(f"only {count} training images: enough to try things; a student to use needs some hundred photos")
    planes = store.lr if store.hr is None else store.hr
    examined = [round(index * (count - 1) / max(1, min(EXAMINED, count) - 1)) for index in range(min(EXAMINED, count))]
    images = {store.names[index]: planes.image(index) for index in examined}
    screenshots = [name for name, image in images.items() if is_screenshot(image)]
    enlarged = [name for name, image in images.items() if name not in screenshots and is_enlarged(image)]
    if len(screenshots) >= SHARE * len(images):
        lines.append(
            f"{_some_of(screenshots, len(images))} like screenshots or drawings, most of whose neighbouring pixels are "
            "equal: a student of photos learns little from them"
        )
    if len(enlarged) >= SHARE * len(images):
        lines.append(
            f"{_some_of(enlarged, len(images))} as if they had been enlarged: they lack the details that a student "
            "should learn; take originals, or shrink them before"
        )
    return tuple(lines)


def _some_of(names: Sequence[str], count: int) -> str:
    verb = "looks" if len(names) == 1 else "look"
    return f"{len(names)} of {count} examined images ({names[0]}{', ...' if len(names) > 1 else ''}) {verb}"


def is_screenshot(image_u8: torch.Tensor) -> bool:
    """Return True if most horizontal neighbours in a (3,H,W) image are equal."""
    return float((image_u8[:, :, 1:] == image_u8[:, :, :-1]).all(0).float().mean()) > EQUAL_NEIGHBOURS


def is_enlarged(image_u8: torch.Tensor) -> bool:
    """Return True if a (3,H,W) image has texture, but no finest details."""
    y = luma(image_u8.float().div(255))[0]
    side = min(WINDOW, *y.shape)
    if side < SMALLEST_WINDOW:
        return False
    corners = [(top, left) for top in _offsets(y.shape[0], side) for left in _offsets(y.shape[1], side)]
    powers = [_powers(y[top : top + side, left : left + side]) for top, left in corners]
    fine, middle = (statistics.median(values) for values in zip(*powers, strict=True))
    return bool(middle > LEAST_TEXTURE and fine < MOST_POWER and fine - ROUNDING_POWER < ENLARGED_RATIO * middle)


def _offsets(length: int, side: int) -> list[int]:
    """Return where windows of `side` begin: at both ends and in the middle."""
    return sorted({0, (length - side) // 2, length - side})


def _powers(y: torch.Tensor) -> tuple[float, float]:
    """Return the mean power of a square window at the highest and at the middle frequencies."""
    fade = torch.hann_window(len(y), periodic=False, dtype=y.dtype)
    weights = fade[:, None] * fade
    power = torch.fft.fft2((y - y.mean()) * weights).abs().square() / weights.square().sum()
    frequency = torch.fft.fftfreq(len(y)).abs() * 2
    larger = torch.maximum(frequency[:, None], frequency)
    fine, middle = power[larger >= 0.75], power[(larger >= 0.25) & (larger < 0.45)]
    return float(fine.mean()), float(middle.mean())
