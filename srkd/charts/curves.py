"""Charts of curves over steps, drawn with Pillow one below the other on one picture; and their `Pen`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

WIDTH, HEIGHT = 1000, 340
"""Size of one chart in pixels."""
LEFT, RIGHT, BOTTOM = 84, 24, 34
"""Margins around the curves in pixels: numbers at the left, steps below. Above are the title and the names."""
TITLE_HEIGHT, NAMES_HEIGHT = 36, 22
FINER = 2
"""Charts are drawn this many times larger and then shrunk, which smooths their lines."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5C4B8A", "#7A7A7A")
"""Colours that colour-blind people can distinguish (Okabe and Ito, 2008), and two more."""
INK, GRID, MARK = "#222222", "#E3E3E3", "#C62828"
LARGEST = 1e15
"""Largest number that is drawn; larger ones, infinity and NaN are left out."""
LONGEST_TEXT = 100
"""Largest number of characters of a name or title that fits in the picture."""
MOST_POINTS = 800
"""Largest number of points of a curve; of longer curves, means of neighbouring points are drawn."""


@dataclass(frozen=True)
class Curve:
    """A line through points (step, value); those that cannot be drawn are left out."""

    name: str
    points: tuple[Point, ...]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves on common axes. `marks` are steps that get a red line from top to bottom."""

    title: str
    curves: tuple[Curve, ...]
    logarithmic: bool = False
    marks: tuple[float, ...] = ()


class NothingToDraw(Exception):
    """No curve has a point that can be drawn."""


def draw_charts(charts: Sequence[Chart]) -> Image.Image:
    """Return a picture of all charts with curves, one below the other over the same steps."""
    plots = [(chart, curves) for chart in charts if (curves := drawable(chart))]
    if not plots:
        raise NothingToDraw
    steps = [x for _, curves in plots for curve in curves for x, _ in curve.points]
    pen = Pen(WIDTH, HEIGHT * len(plots))
    for index, (chart, curves) in enumerate(plots):
        _CurvePlot(pen, index * HEIGHT, chart, curves, (min(steps), max(steps))).draw()
    return pen.picture()


def drawable(chart: Chart) -> list[Curve]:
    """Return the curves with the points that the chart can show, at most MOST_POINTS each; empty ones are left out."""
    curves = []
    for curve in chart.curves:
        finite = [(x, y) for x, y in curve.points if abs(x) <= LARGEST and abs(y) <= LARGEST]
        points = [(x, y) for x, y in finite if not chart.logarithmic or y >= 1 / LARGEST]
        if points:
            curves.append(Curve(printable(curve.name), tuple(_thinned(points)), curve.dashed))
    return curves


def printable(text: str) -> str:
    """Return a name as one line: it may come from a file that another program wrote."""
    return "".join(character if character.isprintable() else " " for character in text)[:LONGEST_TEXT]


def _thinned(points: Sequence[Point]) -> Iterator[Point]:
    size = -(-len(points) // MOST_POINTS)
    for start in range(0, len(points), size):
        group = points[start : start + size]
        yield math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group)


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def format_tick(value: float) -> str:
    """Return a number of an axis as text, without digits of rounding errors."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{round(value, 6):,g}" if abs(value) < 1000 else f"{value:,.0f}"


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """Return at most eight round numbers from 10 to the `low` to 10 to the `high`."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // 8)] if ticks else [10 ** ((low + high) / 2)]


class Pen:
    """A white picture of `width` × `height` to draw on, in its coordinates; drawn larger and shrunk to smooth lines."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height
        self.canvas = Image.new("RGB", (width * FINER, height * FINER), "white")
        self.draw = ImageDraw.Draw(self.canvas)
        self.plain, self.bold = ImageFont.load_default(14 * FINER), ImageFont.load_default(16 * FINER)

    def picture(self) -> Image.Image:
        """Return the finished picture."""
        return self.canvas.resize(self.size, Image.Resampling.LANCZOS)

    def width_of(self, words: str) -> float:
        """Return the width of a text in pixels."""
        return self.plain.getlength(words) / FINER

    def text(self, place: Point, words: str, *, bold: bool = False) -> None:
        font = self.bold if bold else self.plain
        self.draw.text((place[0] * FINER, place[1] * FINER), words, fill=INK, font=font)

    def dot(self, place: Point, colour: str, radius: float = 3) -> None:
        self.draw.ellipse(_around(place, radius), fill=colour)

    def ring(self, place: Point, colour: str, radius: float) -> None:
        self.draw.ellipse(_around(place, radius), outline=colour, width=2 * FINER)

    def line(self, points: Sequence[Point], colour: str, width: int, *, dashed: bool = False) -> None:
        places = [(x * FINER, y * FINER) for x, y in points]
        if not dashed:
            self.draw.line(places, fill=colour, width=width * FINER, joint="curve")
            return
        for start, end in _dashes(places, 8 * FINER, 5 * FINER):
            self.draw.line([start, end], fill=colour, width=width * FINER)


def _around(place: Point, radius: float) -> tuple[float, float, float, float]:
    x, y = place
    return ((x - radius) * FINER, (y - radius) * FINER, (x + radius) * FINER, (y + radius) * FINER)


class _CurvePlot:
    """One chart at its place in the picture; coordinates are those of the finished picture."""

    def __init__(self, pen: Pen, top: int, chart: Chart, curves: Sequence[Curve], steps: tuple[float, float]) -> None:
        self.chart, self.curves, self.steps = chart, curves, steps
        self.pen = pen
        self.left, self.right = LEFT, WIDTH - RIGHT
        self.top = top
        self.names = self.place_names()
        self.above, self.below = self.names[-1][1] + NAMES_HEIGHT + 8, top + HEIGHT - BOTTOM
        self.scale: Callable[[float], float] = math.log10 if chart.logarithmic else float
        values = [self.scale(y) for curve in curves for _, y in curve.points]
        # An axis with almost no range could not be numbered.
        margin = max((max(values) - min(values)) * 0.06, max(map(abs, values)) * 1e-4) or 1.0
        self.low, self.high = min(values) - margin, max(values) + margin

    def draw(self) -> None:
        self.pen.text((self.left, self.top + 8), printable(self.chart.title), bold=True)
        self.draw_grid()
        for step in self.chart.marks:
            self.pen.line([(self.x(step), self.above), (self.x(step), self.below)], MARK, 1)
        self.draw_curves()

    def place_names(self) -> list[tuple[float, float]]:
        """Return the position of each curve's name: side by side, in as many lines as needed."""
        places: list[tuple[float, float]] = []
        x, y = float(self.left), float(self.top + TITLE_HEIGHT)
        for curve in self.curves:
            width = 28 + self.pen.width_of(curve.name)
            if places and x + width > self.right:
                x, y = float(self.left), y + NAMES_HEIGHT
            places.append((x, y))
            x += width + 22
        return places

    def x(self, step: float) -> float:
        first, last = self.steps
        share = (step - first) / (last - first) if last > first else 0.5
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        share = (self.scale(value) - self.low) / (self.high - self.low)
        return self.below - share * (self.below - self.above)

    def draw_grid(self) -> None:
        for value in self.value_ticks():
            y = self.y(value)
            self.pen.line([(self.left, y), (self.right, y)], GRID, 1)
            label = format_tick(value)
            self.pen.text((self.left - 8 - self.pen.width_of(label), y - 9), label)
        first, last = self.steps
        for step in round_ticks(first, last, 8) if last > first else [first]:
            label = format_tick(step)
            self.pen.line([(self.x(step), self.below), (self.x(step), self.below + 4)], INK, 1)
            self.pen.text((self.x(step) - self.pen.width_of(label) / 2, self.below + 6), label)
        self.pen.line([(self.left, self.below), (self.right, self.below)], INK, 1)

    def value_ticks(self) -> list[float]:
        if not self.chart.logarithmic:
            return round_ticks(self.low, self.high)
        return logarithmic_ticks(self.low, self.high)

    def draw_curves(self) -> None:
        for index, (curve, (x, y)) in enumerate(zip(self.curves, self.names, strict=True)):
            colour = COLOURS[index % len(COLOURS)]
            points = [(self.x(step), self.y(value)) for step, value in curve.points]
            self.pen.line(points, colour, 2, dashed=curve.dashed)
            if len(points) <= 40 and not curve.dashed:
                for place in points:
                    self.pen.dot(place, colour)
            self.pen.line([(x, y + 9), (x + 22, y + 9)], colour, 3, dashed=curve.dashed)
            self.pen.text((x + 28, y), curve.name)


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
