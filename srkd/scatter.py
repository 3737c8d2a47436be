"""A chart of points on logarithmic axes, drawn with Pillow alone: what is gained against what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from srkd.chart import COLOURS, GRID, INK, MARK, WIDTH, Pen, format_tick, logarithmic_ticks, printable

HEIGHT = 560
LEFT, RIGHT, TOP, BOTTOM = 96, 130, 72, 40
MARGIN = 0.06
"""Share of an axis that stays free at each end."""


@dataclass(frozen=True)
class Point:
    """A point with its label; a marked one has a ring around it."""

    x: float
    y: float
    label: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points by the name of their group; `limit` is a value of x that gets a red line."""

    title: str
    groups: Mapping[str, Sequence[Point]]
    limit: float | None = None


def draw_scatter(chart: Scatter) -> Image.Image:
    """Return the chart as a picture; all values are above 0, and there is at least one point."""
    return _Scatter(chart).draw()


class _Axis:
    """Maps a logarithmic range to pixels."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        logs = [math.log10(value) for value in values]
        free = max((max(logs) - min(logs)) * MARGIN, 0.05)
        self.low, self.high, self.start, self.end = min(logs) - free, max(logs) + free, start, end

    def at(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return logarithmic_ticks(self.low, self.high)


class _Scatter:
    def __init__(self, chart: Scatter) -> None:
        self.chart = chart
        self.pen = Pen(WIDTH, HEIGHT)
        points = [point for group in chart.groups.values() for point in group]
        limits = [] if chart.limit is None else [chart.limit]
        self.x = _Axis([*(point.x for point in points), *limits], LEFT, WIDTH - RIGHT)
        self.y = _Axis([point.y for point in points], HEIGHT - BOTTOM, TOP)

    def draw(self) -> Image.Image:
        self.pen.text((LEFT, 10), printable(self.chart.title), bold=True)
        self.draw_axes()
        if self.chart.limit is not None:
            x = self.x.at(self.chart.limit)
            self.pen.line([(x, TOP), (x, HEIGHT - BOTTOM)], MARK, 2, dashed=True)
            self.pen.text((x + 5, TOP - 2), "target")
        place = float(LEFT)
        for index, (name, points) in enumerate(self.chart.groups.items()):
            colour = COLOURS[index % len(COLOURS)]
            self.pen.dot((place + 5, 46), colour, 4)
            self.pen.text((place + 16, 37), printable(name))
            place += 46 + self.pen.width_of(printable(name))
            for point in points:
                self.draw_point(point, colour)
        return self.pen.picture()

    def draw_axes(self) -> None:
        for value in self.y.ticks():
            y, label = self.y.at(value), format_tick(value)
            self.pen.line([(LEFT, y), (WIDTH - RIGHT, y)], GRID, 1)
            self.pen.text((LEFT - 8 - self.pen.width_of(label), y - 9), label)
        for value in self.x.ticks():
            x, label = self.x.at(value), format_tick(value)
            self.pen.line([(x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 4)], INK, 1)
            self.pen.text((x - self.pen.width_of(label) / 2, HEIGHT - BOTTOM + 8), label)
        self.pen.line([(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], INK, 1)

    def draw_point(self, point: Point, colour: str) -> None:
        place = self.x.at(point.x), self.y.at(point.y)
        if point.marked:
            self.pen.ring(place, MARK, 10)
        self.pen.dot(place, colour, 5)
        self.pen.text((place[0] + 13, place[1] - 9), printable(point.label))
