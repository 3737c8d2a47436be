"""Data of a report's charts: curves over steps, and quality against cost. The page's script draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compressor.base.machine import count_threads
from srkd.charts.curves import Chart, drawable
from srkd.charts.scatter import pareto_front
from srkd.reports.contents import Contents, Score
from srkd.reports.curves import Metrics, charts_of
from srkd.reports.speed import SpeedTable

SCATTER_Y = "Y-PSNR in dB"


@dataclass(frozen=True)
class Point:
    """A network in the chart of quality against cost."""

    name: str
    role: str
    x: float
    y: float


@dataclass(frozen=True)
class ReportScatter:
    """A chart of points, with horizontal lines at the scores of bicubic."""

    title: str
    x_label: str
    points: tuple[Point, ...]
    levels: tuple[tuple[str, float], ...]

    @property
    def front(self) -> list[tuple[float, float]]:
        """Return the Pareto front, in order of cost: the points that no other beats in both quality and cost."""
        return [(point.x, point.y) for point in pareto_front(self.points)]


def curves(metrics: Sequence[Metrics]) -> list[dict[str, Any]]:
    """Return the charts of a run's curves, without empty ones."""
    if not metrics:
        return []
    charts = [(chart, drawable(chart)) for chart in charts_of(metrics)]
    return [_lines(chart, some) for chart, some in charts if some]


def _lines(chart: Chart, some: Sequence[Any]) -> dict[str, Any]:
    title, _, y_label = chart.title.partition(", over steps")
    return {
        "kind": "lines",
        "title": title.rpartition(": ")[2] + y_label,
        "x": "step",
        "logarithmic": chart.logarithmic,
        "marks": list(chart.marks),
        "series": [{"name": curve.name, "dashed": curve.dashed, "points": curve.points} for curve in some],
    }


def scatter(chart: ReportScatter) -> dict[str, Any]:
    """Return a chart of points in the form of the page's script."""
    points = [{"name": point.name, "role": point.role, "x": point.x, "y": point.y} for point in chart.points]
    levels = [{"name": name, "y": y} for name, y in chart.levels]
    # Later points are drawn on top.
    points.sort(key=lambda point: ("baseline", "teacher", "student").index(str(point["role"])))
    return {
        "kind": "points",
        "title": chart.title,
        "x": chart.x_label,
        "y": SCATTER_Y,
        "points": points,
        "levels": levels,
        "front": chart.front,
    }


def against_macs(scores: Sequence[Score]) -> ReportScatter | None:
    """Return the chart of quality against multiply-accumulates; None if fewer than two networks have both."""
    points = tuple(
        Point(score.name, score.role, score.macs / 1e9, score.psnr_y)
        for score in scores
        if score.macs and score.psnr_y is not None and score.role != "start"
    )
    title = "Quality against work; the line joins the best at each cost"
    return _scatter(title, "GMAC at LR 256x256", points, scores)


def against_time(contents: Contents, speed: SpeedTable) -> ReportScatter | None:
    """Return the chart of quality against time at the first size of the profile; None with fewer than two points."""
    size = speed.timings[0].lr_size
    points = []
    for timing in speed.timings:
        score = contents.score("teacher" if timing.is_teacher else "student")
        if timing.lr_size == size and not timing.unbounded and score is not None and score.psnr_y is not None:
            role = "teacher" if timing.is_teacher else "student"
            points.append(Point(f"{timing.runtime} {timing.precision}", role, timing.ms, score.psnr_y))
    first = speed.timings[0]
    label = f"ms an image of LR {size}, {first.device}, {count_threads(first.threads)}"
    return _scatter("Quality against time; the line joins the best at each cost", label, tuple(points), contents.scores)


def _scatter(title: str, x_label: str, points: tuple[Point, ...], scores: Sequence[Score]) -> ReportScatter | None:
    if len(points) < 2:
        return None
    levels = tuple(
        (score.name, score.psnr_y) for score in scores if score.role == "bicubic" and score.psnr_y is not None
    )
    return ReportScatter(title, x_label, points, levels[:1])
