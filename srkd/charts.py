"""Charts as PNG or SVG, drawn with matplotlib: curves over steps, and labelled points with their Pareto front."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Point = tuple[float, float]
PictureKind = Literal["png", "svg"]

LARGEST = 1e15
"""Largest number that is drawn; larger ones, infinity and NaN are left out."""
MOST_POINTS = 300
"""Largest number of points of a curve; of longer curves, means of neighbouring points are drawn."""
LONGEST_NAME = 40
CURVES_INCHES, POINTS_INCHES = (10.0, 3.4), (10.0, 6.4)
PIXELS_PER_INCH = 100
LEVEL = (0, (6, 4))
"""The dash of levels, which no curve has."""


PAPER, INK, QUIET, GRID, MARK = "#ffffff", "#1a1c1f", "#7a7a7a", "#e3e3e3", "#c2003c"
COLOURS = ("#0a6cb0", "#c04f00", "#007a5a", "#a8437f", "#2c7fa8", "#946200", "#5c4b8a", "#666666")
"""Colours of curves and points, which colour-blind people can distinguish (after Okabe and Ito, 2008) and which have a
contrast of at least 3 to the paper."""


def _style() -> dict[str, Any]:
    """The settings of matplotlib for these colours; the same numbers give the same bytes."""
    from matplotlib.rcsetup import cycler

    return {
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlesize": "medium",
        "axes.prop_cycle": cycler(linestyle=["-", ":", "-."]) * cycler(color=COLOURS),
        "axes.formatter.useoffset": False,
        "legend.frameon": False,
        "text.parse_math": False,  # names may have a $
        "svg.fonttype": "none",
        "svg.hashsalt": "srkd",
    }


class NothingToDraw(Exception):
    """No curve or point can be drawn."""


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

    def drawable(self) -> list[Curve]:
        """The curves with the points that can be drawn, at most MOST_POINTS each; empty ones are left out."""
        curves = []
        for curve in self.curves:
            finite = [(x, y) for x, y in curve.points if abs(x) <= LARGEST and abs(y) <= LARGEST]
            points = [(x, y) for x, y in finite if not self.logarithmic or y >= 1 / LARGEST]
            if points:
                curves.append(Curve(printable(curve.name), tuple(_thinned(points)), curve.dashed))
        return curves


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
    """Points with title and axis labels, the x axis logarithmic. `limit` is a value of x at which a red line is drawn;
    `levels` are values of y with names, at which dashed lines are drawn."""

    title: str
    x_label: str
    y_label: str
    points: tuple[ScatterPoint, ...]
    limit: float | None = None
    logarithmic_y: bool = False
    levels: tuple[tuple[str, float], ...] = ()

    def drawable(self) -> list[ScatterPoint]:
        """The points that are finite, and positive on a logarithmic axis."""
        return [
            point
            for point in self.points
            if 1 / LARGEST <= point.x <= LARGEST
            and abs(point.y) <= LARGEST
            and (point.y >= 1 / LARGEST or not self.logarithmic_y)
        ]


def pareto_front(points: Sequence[ScatterPoint]) -> list[ScatterPoint]:
    """The Pareto front, smallest `x` first; a point is left out if another has no larger x and no smaller y."""
    front: list[ScatterPoint] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def draw_charts(charts: Sequence[Chart], kind: PictureKind = "png") -> bytes:
    """A picture of all charts with curves, one below the other over the same steps."""
    plots = [(chart, curves) for chart in charts if (curves := chart.drawable())]
    if not plots:
        raise NothingToDraw
    width, height = CURVES_INCHES
    with _figure((width, height * len(plots))) as figure:
        figure.set_layout_engine("constrained")
        panels = figure.subplots(len(plots), sharex=True, squeeze=False)[:, 0]
        for axes, (chart, curves) in zip(panels, plots, strict=True):
            axes.set_title(printable(chart.title))
            axes.tick_params(labelbottom=True)
            if chart.logarithmic:
                _make_logarithmic(axes.yaxis, [y for curve in curves for _, y in curve.points])
            for step in chart.marks:
                axes.axvline(step, color=MARK, linewidth=1)
            for curve in curves:
                few = len(curve.points) <= 40 and not curve.dashed
                (line,) = axes.plot(*zip(*curve.points, strict=True), marker="." if few else "", label=curve.name)
                if curve.dashed:
                    line.set_linestyle(LEVEL)
            # A legend leaves out lines whose names begin with an underscore, unless they are named here.
            names = [curve.name[:LONGEST_NAME] for curve in curves]
            axes.legend(axes.get_lines()[-len(curves) :], names, loc="upper left", bbox_to_anchor=(1, 1))
        return _saved(figure, kind)


def draw_scatter(chart: Scatter, kind: PictureKind = "png") -> bytes:
    """A picture of labelled points, with their Pareto front as a line; refuse a chart without points."""
    points = chart.drawable()
    if not points:
        raise NothingToDraw
    with _figure(POINTS_INCHES) as figure:
        figure.subplots_adjust(left=0.09, right=0.97, bottom=0.09, top=0.92)
        axes = figure.subplots()
        axes.set(title=printable(chart.title), xlabel=printable(chart.x_label), ylabel=printable(chart.y_label))
        _make_logarithmic(axes.xaxis, [*(point.x for point in points), *([chart.limit] if chart.limit else [])])
        if chart.logarithmic_y:
            _make_logarithmic(axes.yaxis, [point.y for point in points])
        axes.margins(x=0.12, y=0.1)
        front = pareto_front(points)
        axes.plot([point.x for point in front], [point.y for point in front], "-", color=QUIET, zorder=1)
        groups = list(dict.fromkeys(point.group for point in chart.points))
        for point in points:
            colour = COLOURS[groups.index(point.group) % len(COLOURS)]
            axes.plot(point.x, point.y, "o", color=colour, markeredgecolor=PAPER, markersize=8)
            if point.marked:
                axes.plot(point.x, point.y, "o", color="none", markeredgecolor=MARK, markersize=16)
        if chart.limit is not None:
            axes.axvline(chart.limit, color=MARK)
            axes.annotate(
                "target", (chart.limit, 1), (3, -9), xycoords=("data", "axes fraction"), textcoords="offset points"
            )
        for name, y in chart.levels:
            axes.axhline(y, color=QUIET, linestyle=LEVEL, linewidth=1)
            axes.annotate(
                name, (1, y), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right"
            )
        _write_labels(axes, points)
        return _saved(figure, kind)


def _write_labels(axes: Axes, points: Sequence[ScatterPoint]) -> None:
    """Write each label beside its point, moved up or down where it would cover a point or another label."""
    character, line, radius = 5.6, 11.0, 5.0  # points of 1/72 inch
    axes.autoscale_view()
    right = axes.bbox.x1
    places = {point: axes.transData.transform((point.x, point.y)) for point in points}
    taken = [(x - radius, x + radius, y) for x, y in places.values()]
    moves = [0, *(sign * step for step in range(3, 200, 3) for sign in (-1, 1))]
    for point in sorted(points, key=lambda point: (-point.y, point.x)):
        label = printable(point.label)[: 2 * LONGEST_NAME]
        (x, y), width = places[point], character * len(label)
        start = x + radius + 3 if x + radius + width < right else x - radius - 3 - width

        def is_free(height: float, start: float = start, width: float = width) -> bool:
            return all(abs(height - other) >= line or b <= start or a >= start + width for a, b, other in taken)

        height = next((y + move for move in moves if is_free(y + move)), y)
        taken.append((start, start + width, height))
        arrow = None if height == y else {"arrowstyle": "-", "color": QUIET, "relpos": (0 if start > x else 1, 0.5)}
        axes.annotate(
            label, (point.x, point.y), (start, height), textcoords="figure points", va="center", arrowprops=arrow
        )


def _make_logarithmic(axis: Axis, values: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    is_long = max(values) > 1e3 * min(values)
    axis.set_major_locator(LogLocator(subs=(1.0,) if is_long else (1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


@contextmanager
def _figure(inches: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure in which a pixel is a point of 1/72 inch, whatever the user's settings of matplotlib are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(_style(), after_reset=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font does not have
        yield Figure(inches, dpi=72)


def _saved(figure: Figure, kind: PictureKind) -> bytes:
    stream = io.BytesIO()
    # Neither the date nor the version of matplotlib.
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(stream, format=kind, dpi=PIXELS_PER_INCH, metadata=metadata)
    return stream.getvalue()


def printable(text: str) -> str:
    """A name as one line of at most 100 characters: it may come from a file that another program wrote."""
    return "".join(character if character.isprintable() else " " for character in text)[:100]


def _thinned(points: Sequence[Point]) -> Iterator[Point]:
    size = -(-len(points) // MOST_POINTS)
    for start in range(0, len(points), size):
        group = points[start : start + size]
        yield math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group)
