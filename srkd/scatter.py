"""A picture of points with labels on two axes, the lower one logarithmic, drawn with Pillow alone.

Both verbs that weigh what is gained against milliseconds draw it: `srkd profile --pareto` and `srkd plan --picture`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from srkd.chart import COLOURS, FINER, GRID, INK, MARK, format_tick, logarithmic_ticks, round_ticks

WIDTH, HEIGHT = 1000, 640
LEFT, RIGHT, TOP, BOTTOM = 84, 40, 64, 64
RADIUS = 6
FRONT = "#7A7A7A"
LONGEST_LABEL = 60
LINE_HEIGHT = 16
MOVES = (0, *(sign * step for step in range(4, 200, 4) for sign in (-1, 1)))
"""Pixels by which a label is moved up or down, the least first."""


@dataclass(frozen=True)
class ScatterPoint:
    """A point; those of one `group` have one colour. A smaller `x` and a larger `y` are better."""

    label: str
    x: float
    y: float
    group: str = ""
    marked: bool = False
    """It has a ring around it."""


@dataclass(frozen=True)
class Scatter:
    """Points and the words around them. `limit` is a value of x that gets a red line."""

    title: str
    x_label: str
    y_label: str
    points: tuple[ScatterPoint, ...]
    limit: float | None = None
    logarithmic_y: bool = False


def pareto_front(points: Sequence[ScatterPoint]) -> list[ScatterPoint]:
    """Return the points that no other is at least as good as in both, and better in one; the smallest `x` first."""
    front: list[ScatterPoint] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def draw_scatter(chart: Scatter) -> Image.Image:
    """Return the picture: labelled points, their Pareto front as a line, milliseconds or the like on a log axis.

    Points that are not finite, or not positive on a logarithmic axis, are left out; one must remain.
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
    plot = _Plot(chart, drawable)
    plot.draw_axes()
    plot.draw_front(pareto_front(drawable))
    plot.draw_points()
    return plot.picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


class _Plot:
    """The picture, larger than it will be; coordinates are those of the finished one."""

    def __init__(self, chart: Scatter, points: Sequence[ScatterPoint]) -> None:
        self.chart, self.points = chart, points
        self.picture = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), "white")
        self.pen = ImageDraw.Draw(self.picture)
        self.font, self.bold = ImageFont.load_default(14 * FINER), ImageFont.load_default(17 * FINER)
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
        self.text((LEFT, 14), chart.title, self.bold)
        self.text((LEFT, 40), chart.y_label)
        width = self.font.getlength(chart.x_label) / FINER
        self.text((WIDTH - RIGHT - width, HEIGHT - 26), chart.x_label)
        for value in self.y_ticks():
            _, y = self.place(1.0, value)
            self.line([(LEFT, y), (WIDTH - RIGHT, y)], GRID)
            label = format_tick(value) if chart.logarithmic_y else f"{round(value, 6):g}"
            self.text((LEFT - 8 - self.font.getlength(label) / FINER, y - 9), label)
        for value in logarithmic_ticks(self.left, self.right):
            x = LEFT + (math.log10(value) - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)
            self.line([(x, TOP), (x, HEIGHT - BOTTOM)], GRID)
            label = f"{value:g}"
            self.text((x - self.font.getlength(label) / FINER / 2, HEIGHT - BOTTOM + 6), label)
        self.line([(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], INK)
        if chart.limit is not None:
            x, _ = self.place(chart.limit, self.points[0].y)
            self.line([(x, TOP), (x, HEIGHT - BOTTOM)], MARK, 2)
            self.text((x + 5, TOP - 2), "target")

    def y_ticks(self) -> Sequence[float]:
        logarithmic = self.chart.logarithmic_y
        return logarithmic_ticks(self.low, self.high) if logarithmic else list(round_ticks(self.low, self.high))

    def draw_front(self, front: Sequence[ScatterPoint]) -> None:
        self.line([self.place(point.x, point.y) for point in front], FRONT, 2)

    def draw_points(self) -> None:
        """Draw each point with its label beside it, moved where it would cover a point or another label."""
        groups = list(dict.fromkeys(point.group for point in self.points))
        places = [self.place(point.x, point.y) for point in self.points]
        taken = [(x - RADIUS, x + RADIUS, y) for x, y in places]

        def is_free(start: float, end: float, height: float) -> bool:
            return not any(
                abs(height - other) < LINE_HEIGHT and start < right and left < end for left, right, other in taken
            )

        for point in sorted(self.points, key=lambda point: (-point.y, point.x)):
            x, y = self.place(point.x, point.y)
            label = "".join(letter if letter.isprintable() else " " for letter in point.label)[:LONGEST_LABEL]
            width = self.font.getlength(label) / FINER
            start = x + RADIUS + 5
            if start + width > WIDTH - 4:
                start = x - RADIUS - 5 - width
            height = next((y + move for move in MOVES if is_free(start, start + width, y + move)), y)
            if abs(height - y) > RADIUS:
                self.line([(x, y), (max(start, min(x, start + width)), height)], FRONT)
            taken.append((start, start + width, height))
            self.text((start, height - 9), label)
        for point, (x, y) in zip(self.points, places, strict=True):
            colour = COLOURS[groups.index(point.group) % len(COLOURS)]
            box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
            self.pen.ellipse([side * FINER for side in box], fill=colour)
            if point.marked:
                ring = (x - 2 * RADIUS, y - 2 * RADIUS, x + 2 * RADIUS, y + 2 * RADIUS)
                self.pen.ellipse([side * FINER for side in ring], outline=MARK, width=2 * FINER)

    def text(
        self, place: tuple[float, float], words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont | None = None
    ) -> None:
        self.pen.text((place[0] * FINER, place[1] * FINER), words, fill=INK, font=font or self.font)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int = 1) -> None:
        self.pen.line([(x * FINER, y * FINER) for x, y in points], fill=colour, width=width * FINER, joint="curve")
