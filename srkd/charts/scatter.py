"""A picture of labelled points on two axes, the x axis logarithmic, drawn with Pillow alone.

`srkd profile --pareto` and `srkd plan --out` draw it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from PIL import Image

from srkd.charts.curves import COLOURS, GRID, INK, MARK, Pen, format_tick, logarithmic_ticks, printable, round_ticks

WIDTH, HEIGHT = 1000, 640
LEFT, RIGHT, TOP, BOTTOM = 84, 40, 64, 64
RADIUS = 6
FRONT = "#7A7A7A"
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
    """Points with title and axis labels. `limit` is a value of x at which a red line is drawn."""

    title: str
    x_label: str
    y_label: str
    points: tuple[ScatterPoint, ...]
    limit: float | None = None
    logarithmic_y: bool = False


class HasPlace(Protocol):
    """A point of a picture in which a smaller `x` and a larger `y` are better."""

    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...


PointT = TypeVar("PointT", bound=HasPlace)


def pareto_front(points: Sequence[PointT]) -> list[PointT]:
    """Return the Pareto front, smallest `x` first; a point is left out if another has no larger x and no smaller y."""
    front: list[PointT] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def draw_scatter(chart: Scatter) -> Image.Image:
    """Return the picture: labelled points, with their Pareto front as a line.

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
    plot = _ScatterPlot(chart, drawable)
    plot.draw_axes()
    plot.draw_front(pareto_front(drawable))
    plot.draw_points()
    return plot.pen.picture()


class _ScatterPlot:
    """The plot on its pen; coordinates are those of the finished picture."""

    def __init__(self, chart: Scatter, points: Sequence[ScatterPoint]) -> None:
        self.chart, self.points = chart, points
        self.pen = Pen(WIDTH, HEIGHT)
        limits = [] if chart.limit is None else [chart.limit]
        logarithms = [math.log10(x) for x in (*(point.x for point in points), *limits)]
        margin = max(0.12 * (max(logarithms) - min(logarithms)), 0.08)
        self.left, self.right = min(logarithms) - margin, max(logarithms) + 2 * margin
        values = [self.height_of(point.y) for point in points]
        margin = max(0.1 * (max(values) - min(values)), 1e-3 * max(map(abs, values)), 1e-6)
        self.low, self.high = min(values) - margin, max(values) + margin

    def height_of(self, y: float) -> float:
        return math.log10(y) if self.chart.logarithmic_y else y

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - self.left) / (self.right - self.left)
        up = (self.height_of(y) - self.low) / (self.high - self.low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def draw_axes(self) -> None:
        chart = self.chart
        self.pen.text((LEFT, 14), chart.title, bold=True)
        self.pen.text((LEFT, 40), chart.y_label)
        width = self.pen.width_of(chart.x_label)
        self.pen.text((WIDTH - RIGHT - width, HEIGHT - 26), chart.x_label)
        for value in self.y_ticks():
            _, y = self.place(1.0, value)
            self.pen.line([(LEFT, y), (WIDTH - RIGHT, y)], GRID, 1)
            label = format_tick(value) if chart.logarithmic_y else f"{round(value, 6):g}"
            self.pen.text((LEFT - 8 - self.pen.width_of(label), y - 9), label)
        for value in logarithmic_ticks(self.left, self.right):
            x = LEFT + (math.log10(value) - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)
            self.pen.line([(x, TOP), (x, HEIGHT - BOTTOM)], GRID, 1)
            label = f"{value:g}"
            self.pen.text((x - self.pen.width_of(label) / 2, HEIGHT - BOTTOM + 6), label)
        self.pen.line([(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], INK, 1)
        if chart.limit is not None:
            x, _ = self.place(chart.limit, self.points[0].y)
            self.pen.line([(x, TOP), (x, HEIGHT - BOTTOM)], MARK, 2)
            self.pen.text((x + 5, TOP - 2), "target")

    def y_ticks(self) -> list[float]:
        ticks = logarithmic_ticks if self.chart.logarithmic_y else round_ticks
        return ticks(self.low, self.high)

    def draw_front(self, front: Sequence[ScatterPoint]) -> None:
        self.pen.line([self.place(point.x, point.y) for point in front], FRONT, 2)

    def draw_points(self) -> None:
        """Draw each point with its label beside it; move labels that would cover a point or another label."""
        groups = list(dict.fromkeys(point.group for point in self.points))
        places = [self.place(point.x, point.y) for point in self.points]
        occupied = [(x - RADIUS, x + RADIUS, y) for x, y in places]

        def is_free(start: float, end: float, height: float) -> bool:
            return not any(
                abs(height - other) < LINE_HEIGHT and start < right and left < end for left, right, other in occupied
            )

        for point in sorted(self.points, key=lambda point: (-point.y, point.x)):
            x, y = self.place(point.x, point.y)
            label = printable(point.label)[:LONGEST_LABEL]
            width = self.pen.width_of(label)
            start = x + RADIUS + 5
            if start + width > WIDTH - 4:
                start = x - RADIUS - 5 - width
            height = next((y + move for move in MOVES if is_free(start, start + width, y + move)), y)
            if abs(height - y) > RADIUS:
                self.pen.line([(x, y), (max(start, min(x, start + width)), height)], FRONT, 1)
            occupied.append((start, start + width, height))
            self.pen.text((start, height - 9), label)
        for point, (x, y) in zip(self.points, places, strict=True):
            colour = COLOURS[groups.index(point.group) % len(COLOURS)]
            self.pen.dot((x, y), colour, RADIUS)
            if point.marked:
                self.pen.ring((x, y), MARK, 2 * RADIUS)
