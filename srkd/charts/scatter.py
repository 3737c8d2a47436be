"""A picture of labelled points on two axes, the x axis logarithmic, drawn with Pillow alone.

`srkd profile --pareto` and `srkd plan --out` draw it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from srkd.charts.curves import LEVEL_DASH
from srkd.charts.pen import Pen, Sheet, format_tick, logarithmic_ticks, printable, round_ticks

SHEET = Sheet(1000, 640)
RIGHT, BOTTOM = 40, 64
TITLE_HEIGHT, LABEL_HEIGHT = 32, 32
RADIUS = 6
LONGEST_LABEL = 60
LINE_HEIGHT = 16
MOVES = (0, *(sign * step for step in range(4, 200, 4) for sign in (-1, 1)))
"""Distances in pixels by which a label is moved up or down, the smallest first."""


@dataclass(frozen=True)
class ScatterPoint:
    """A point; points of one `group` share a colour. A smaller `x` and a larger `y` are better."""

    label: str
    x: float
    y: float
    group: str = ""
    marked: bool = False
    """True draws a ring around the point."""


@dataclass(frozen=True)
class Scatter:
    """Points with title and axis labels. `limit` is a value of x at which a red line is drawn; `levels` are values of
    y with names, at which dashed lines are drawn."""

    title: str
    x_label: str
    y_label: str
    points: tuple[ScatterPoint, ...]
    limit: float | None = None
    logarithmic_y: bool = False
    levels: tuple[tuple[str, float], ...] = ()

    @property
    def groups(self) -> list[str]:
        """The groups in the order of their colours."""
        return list(dict.fromkeys(point.group for point in self.points))


def pareto_front(points: Sequence[ScatterPoint]) -> list[ScatterPoint]:
    """The Pareto front, smallest `x` first; a point is left out if another has no larger x and no smaller y."""
    front: list[ScatterPoint] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def draw_scatter(chart: Scatter, sheet: Sheet = SHEET) -> Image.Image:
    """The picture: labelled points, with their Pareto front as a line.

    Points that are not finite, or not positive on a logarithmic axis, are left out; at least one must remain.
    """
    drawable = [
        point
        for point in chart.points
        if point.x > 0
        and math.isfinite(point.x)
        and math.isfinite(point.y)
        and (point.y > 0 or not chart.logarithmic_y)
    ]
    if not drawable:
        raise ValueError("no point can be drawn")
    plot = _ScatterPlot(chart, drawable, sheet)
    plot.draw_axes()
    front = [plot.place(point.x, point.y) for point in pareto_front(drawable)]
    plot.pen.line(front, plot.look.quiet, 2)
    plot.draw_points()
    return plot.pen.picture()


class _ScatterPlot:
    """The plot on its pen, in its coordinates."""

    def __init__(self, chart: Scatter, points: Sequence[ScatterPoint], sheet: Sheet) -> None:
        self.chart, self.points, self.sheet, self.look = chart, points, sheet, sheet.look
        self.pen = Pen(sheet)
        self.top = LABEL_HEIGHT + (TITLE_HEIGHT if sheet.titled else 0)
        self.start, self.end, self.bottom = sheet.left, sheet.width - RIGHT, sheet.height - BOTTOM
        self.occupied: list[tuple[float, float, float]] = []
        limits = [] if chart.limit is None else [chart.limit]
        logarithms = [math.log10(x) for x in (*(point.x for point in points), *limits)]
        margin = max(0.12 * (max(logarithms) - min(logarithms)), 0.08)
        self.left, self.right = min(logarithms) - margin, max(logarithms) + 2 * margin
        values = [self.scaled(y) for y in (*(point.y for point in points), *(y for _, y in chart.levels))]
        margin = max(0.1 * (max(values) - min(values)), 1e-3 * max(map(abs, values)), 1e-6)
        self.low, self.high = min(values) - margin, max(values) + margin

    def scaled(self, y: float) -> float:
        return math.log10(y) if self.chart.logarithmic_y else y

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self.place_x(math.log10(x)), self.place_y(y)

    def place_x(self, logarithm: float) -> float:
        return self.start + (logarithm - self.left) / (self.right - self.left) * (self.end - self.start)

    def place_y(self, y: float) -> float:
        return self.bottom - (self.scaled(y) - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def draw_axes(self) -> None:
        chart = self.chart
        if self.sheet.titled:
            self.pen.text((self.start, 14), printable(chart.title), bold=True)
        self.pen.text((self.start, self.top - 24), printable(chart.y_label))
        x_label = printable(chart.x_label)
        self.pen.text((self.end - self.pen.width_of(x_label), self.sheet.height - 26), x_label)
        ticks = logarithmic_ticks if chart.logarithmic_y else round_ticks
        for value in ticks(self.low, self.high):
            y = self.place_y(value)
            self.pen.line([(self.start, y), (self.end, y)], self.look.grid, 1)
            label = format_tick(value) if chart.logarithmic_y else f"{round(value, 6):g}"
            self.pen.text((self.start - 8 - self.pen.width_of(label), y - 9), label)
        for value in logarithmic_ticks(self.left, self.right):
            x = self.place_x(math.log10(value))
            self.pen.line([(x, self.top), (x, self.bottom)], self.look.grid, 1)
            label = f"{value:g}"
            self.pen.text((x - self.pen.width_of(label) / 2, self.bottom + 6), label)
        self.pen.line([(self.start, self.bottom), (self.end, self.bottom)], self.look.ink, 1)
        if chart.limit is not None:
            x = self.place_x(math.log10(chart.limit))
            self.pen.line([(x, self.top), (x, self.bottom)], self.look.mark, 2)
            self.pen.text((x + 5, self.top - 2), "target")
        for name, value in chart.levels:
            y, width = self.place_y(value), self.pen.width_of(name)
            self.pen.line([(self.start, y), (self.end, y)], self.look.quiet, 1, dash=LEVEL_DASH)
            self.pen.text((self.end - width, y - 18), name)
            self.occupied.append((self.end - width, self.end, y - 9))

    def draw_points(self) -> None:
        """Draw each point with its label beside it; move labels that would cover a point or another label."""
        groups = self.chart.groups
        places = [self.place(point.x, point.y) for point in self.points]
        self.occupied += [(x - RADIUS, x + RADIUS, y) for x, y in places]

        def is_free(start: float, end: float, height: float) -> bool:
            return self.top <= height <= self.bottom - LINE_HEIGHT / 2 and not any(
                abs(height - other) < LINE_HEIGHT and start < right and left < end
                for left, right, other in self.occupied
            )

        for point in sorted(self.points, key=lambda point: (-point.y, point.x)):
            x, y = self.place(point.x, point.y)
            label = printable(point.label)[:LONGEST_LABEL]
            width = self.pen.width_of(label)
            start = x + RADIUS + 5
            if start + width > self.sheet.width - 4:
                start = x - RADIUS - 5 - width
            height = next((y + move for move in MOVES if is_free(start, start + width, y + move)), y)
            if abs(height - y) > RADIUS:
                self.pen.line([(x, y), (max(start, min(x, start + width)), height)], self.look.quiet, 1)
            self.occupied.append((start, start + width, height))
            self.pen.text((start, height - 9), label)
        for point, (x, y) in zip(self.points, places, strict=True):
            colour = self.look.colours[groups.index(point.group) % len(self.look.colours)]
            self.pen.dot((x, y), self.look.paper, RADIUS + 1)
            self.pen.dot((x, y), colour, RADIUS)
            if point.marked:
                self.pen.ring((x, y), self.look.mark, 2 * RADIUS)
