"""Charts of curves over steps, drawn with Pillow one below the other on one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from srkd.charts.pen import Dash, Pen, Point, Sheet, format_tick, logarithmic_ticks, printable, round_ticks

SHEET = Sheet(1000, 340)
"""Size of one chart."""
RIGHT, BOTTOM = 24, 34
"""Margins around the curves in pixels: steps below, above the title and the names, numbers at the left."""
TITLE_HEIGHT, NAMES_HEIGHT, GAP = 36, 22, 8
LARGEST = 1e15
"""Largest number that is drawn; larger ones, infinity and NaN are left out."""
MOST_POINTS = 800
"""Largest number of points of a curve; of longer curves, means of neighbouring points are drawn."""
LEVEL_DASH: Dash = (8, 5)
DASHES: tuple[Dash | None, ...] = (None, (2, 3), (14, 4))


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


def draw_charts(charts: Sequence[Chart], sheet: Sheet = SHEET) -> Image.Image:
    """A picture of all charts with curves, one below the other over the same steps; each is a sheet."""
    plots = [(chart, curves) for chart in charts if (curves := drawable(chart))]
    if not plots:
        raise NothingToDraw
    steps = [x for _, curves in plots for curve in curves for x, _ in curve.points]
    pen = Pen(sheet, sheet.height * len(plots))
    for index, (chart, curves) in enumerate(plots):
        _CurvePlot(pen, sheet, index * sheet.height, chart, curves, (min(steps), max(steps))).draw()
    return pen.picture()


def drawable(chart: Chart) -> list[Curve]:
    """The curves with the points that the chart can show, at most MOST_POINTS each; empty ones are left out."""
    curves = []
    for curve in chart.curves:
        finite = [(x, y) for x, y in curve.points if abs(x) <= LARGEST and abs(y) <= LARGEST]
        points = [(x, y) for x, y in finite if not chart.logarithmic or y >= 1 / LARGEST]
        if points:
            curves.append(Curve(printable(curve.name), tuple(_thinned(points)), curve.dashed))
    return curves


def style_of(index: int, curve: Curve, colours: int) -> tuple[int, Dash | None]:
    """The number of a curve's colour among `colours`, and its dash: after the last colour comes another dash."""
    again, colour = divmod(index, colours)
    return colour, LEVEL_DASH if curve.dashed else DASHES[again % len(DASHES)]


def _thinned(points: Sequence[Point]) -> Iterator[Point]:
    size = -(-len(points) // MOST_POINTS)
    for start in range(0, len(points), size):
        group = points[start : start + size]
        yield math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group)


class _CurvePlot:
    """One chart at its place in the picture, in the pen's coordinates."""

    def __init__(
        self, pen: Pen, sheet: Sheet, top: int, chart: Chart, curves: Sequence[Curve], steps: tuple[float, float]
    ) -> None:
        self.chart, self.curves, self.steps = chart, curves, steps
        self.pen, self.look = pen, sheet.look
        self.left, self.right = sheet.left, sheet.width - RIGHT
        self.top = top
        self.names = self.place_names() if sheet.titled else []
        self.above = (self.names[-1][1] + NAMES_HEIGHT if self.names else top) + GAP
        self.below = top + sheet.height - BOTTOM
        self.scale: Callable[[float], float] = math.log10 if chart.logarithmic else float
        values = [self.scale(y) for curve in curves for _, y in curve.points]
        # An axis with almost no range could not be numbered.
        margin = max((max(values) - min(values)) * 0.06, max(map(abs, values)) * 1e-4) or 1.0
        self.low, self.high = min(values) - margin, max(values) + margin

    def draw(self) -> None:
        if self.names:
            self.pen.text((self.left, self.top + GAP), printable(self.chart.title), bold=True)
        self.draw_grid()
        for step in self.chart.marks:
            self.pen.line([(self.x(step), self.above), (self.x(step), self.below)], self.look.mark, 1)
        self.draw_curves()

    def place_names(self) -> list[tuple[float, float]]:
        """The position of each curve's name: side by side, in as many lines as needed."""
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
        ticks = logarithmic_ticks if self.chart.logarithmic else round_ticks
        for value in ticks(self.low, self.high):
            y = self.y(value)
            self.pen.line([(self.left, y), (self.right, y)], self.look.grid, 1)
            label = format_tick(value)
            self.pen.text((self.left - 8 - self.pen.width_of(label), y - 9), label)
        first, last = self.steps
        for step in round_ticks(first, last, 8) if last > first else [first]:
            label = format_tick(step)
            self.pen.line([(self.x(step), self.below), (self.x(step), self.below + 4)], self.look.ink, 1)
            self.pen.text((self.x(step) - self.pen.width_of(label) / 2, self.below + 6), label)
        self.pen.line([(self.left, self.below), (self.right, self.below)], self.look.ink, 1)

    def draw_curves(self) -> None:
        for index, curve in enumerate(self.curves):
            number, dash = style_of(index, curve, len(self.look.colours))
            colour = self.look.colours[number]
            points = [(self.x(step), self.y(value)) for step, value in curve.points]
            self.pen.line(points, colour, 2, dash=dash)
            if len(points) <= 40 and not curve.dashed:
                for place in points:
                    self.pen.dot(place, colour)
            if self.names:
                x, y = self.names[index]
                self.pen.line([(x, y + 9), (x + 22, y + 9)], colour, 3, dash=dash)
                self.pen.text((x + 28, y), curve.name)
