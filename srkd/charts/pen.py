"""A picture to draw charts on with Pillow: lines, dots and texts in the colours of a light or a dark page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Dash = tuple[int, int]
"""Lengths of a dash and of the gap after it in pixels."""

FINER = 2
"""Charts are drawn this many times larger and then shrunk, which smooths their lines."""
LONGEST_TEXT = 100
"""Largest number of characters of a name or title that fits in the picture."""


@dataclass(frozen=True)
class Look:
    """The colours of a picture. `colours` are those of curves and points, which colour-blind people can distinguish
    (after Okabe and Ito, 2008) and which have a contrast of at least 3 to the paper."""

    paper: str
    ink: str
    quiet: str
    grid: str
    mark: str
    colours: tuple[str, ...]


LIGHT = Look(
    paper="#ffffff",
    ink="#1a1c1f",
    quiet="#7a7a7a",
    grid="#e3e3e3",
    mark="#c2003c",
    colours=("#0a6cb0", "#c04f00", "#007a5a", "#a8437f", "#2c7fa8", "#946200", "#5c4b8a", "#666666"),
)
DARK = Look(
    paper="#15171a",
    ink="#e8eaed",
    quiet="#8a919b",
    grid="#3a414b",
    mark="#ff7b72",
    colours=("#5fb0ee", "#ff9a52", "#3ccf9f", "#ee8fc6", "#8fd3f0", "#f0c04c", "#b7a5e8", "#b0b0b0"),
)


@dataclass(frozen=True)
class Sheet:
    """The size of a chart, and its look. Each of its pixels becomes `density` × `density` pixels of the picture.

    `titled` is False if the page around the picture has the title and the names of the curves.
    """

    width: int
    height: int
    left: int = 84
    """Width of the margin with the numbers of the y axis."""
    density: int = 1
    look: Look = LIGHT
    titled: bool = True


class Pen:
    """An empty picture of a sheet's width to draw on, in the sheet's coordinates."""

    def __init__(self, sheet: Sheet, height: int | None = None) -> None:
        self.look = sheet.look
        self.size = sheet.width * sheet.density, (height or sheet.height) * sheet.density
        self.zoom = sheet.density * FINER
        self.canvas = Image.new("RGB", (self.size[0] * FINER, self.size[1] * FINER), self.look.paper)
        self.draw = ImageDraw.Draw(self.canvas)
        self.plain, self.bold = ImageFont.load_default(14 * self.zoom), ImageFont.load_default(16 * self.zoom)

    def picture(self) -> Image.Image:
        """The finished picture."""
        return self.canvas.resize(self.size, Image.Resampling.LANCZOS)

    def width_of(self, words: str) -> float:
        """The width of a text in pixels of the sheet."""
        return self.plain.getlength(words) / self.zoom

    def text(self, place: Point, words: str, *, bold: bool = False) -> None:
        self.draw.text(self._scaled(place), words, fill=self.look.ink, font=self.bold if bold else self.plain)

    def dot(self, place: Point, colour: str, radius: float = 3) -> None:
        self.draw.ellipse(self._around(place, radius), fill=colour)

    def ring(self, place: Point, colour: str, radius: float) -> None:
        self.draw.ellipse(self._around(place, radius), outline=colour, width=2 * self.zoom)

    def line(self, points: Sequence[Point], colour: str, width: int, *, dash: Dash | None = None) -> None:
        places = [self._scaled(point) for point in points]
        if dash is None:
            self.draw.line(places, fill=colour, width=width * self.zoom, joint="curve")
            return
        for start, end in _dashes(places, dash[0] * self.zoom, dash[1] * self.zoom):
            self.draw.line([start, end], fill=colour, width=width * self.zoom)

    def _scaled(self, place: Point) -> Point:
        return place[0] * self.zoom, place[1] * self.zoom

    def _around(self, place: Point, radius: float) -> tuple[float, float, float, float]:
        return (
            *self._scaled((place[0] - radius, place[1] - radius)),
            *self._scaled((place[0] + radius, place[1] + radius)),
        )


def printable(text: str) -> str:
    """A name as one line: it may come from a file that another program wrote."""
    return "".join(character if character.isprintable() else " " for character in text)[:LONGEST_TEXT]


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """At most eight round numbers from 10 to the `low` to 10 to the `high`."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // 8)] if ticks else [10 ** ((low + high) / 2)]


def format_tick(value: float) -> str:
    """A number of an axis as text, without digits of rounding errors."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{round(value, 6):,g}" if abs(value) < 1000 else f"{value:,.0f}"


def _dashes(points: Sequence[Point], length: float, gap: float) -> Iterator[tuple[Point, Point]]:
    """Yield the pieces of a dashed line through the points."""
    travelled = 0.0
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        distance, place = math.hypot(next_x - x, next_y - y), 0.0
        while place < distance:
            within = travelled % (length + gap)
            piece = min((length if within < length else length + gap) - within, distance - place)
            piece = max(piece, 1e-6)
            if within < length:
                shares = (place / distance, (place + piece) / distance)
                start, end = ((x + (next_x - x) * share, y + (next_y - y) * share) for share in shares)
                yield start, end
            place, travelled = place + piece, travelled + piece
