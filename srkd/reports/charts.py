"""Charts of a page: which curves and points they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from compressor.base.choices import Goal
from compressor.base.machine import count_threads
from compressor.images.scores import GOAL_WORDS
from srkd.charts import Scatter, ScatterPoint, draw_charts, draw_scatter
from srkd.record.measurements import ProfileFile
from srkd.record.scores import Score, ScoreRole, of_role
from srkd.reports.contents import Contents
from srkd.reports.curves import Metrics, charts_of

SCATTER_Y = "Y-PSNR in dB"
BEST = "the line joins the best at each cost"


Figure: TypeAlias = tuple[str, bytes]
"""The title of a chart, which stands above it as text, and its picture as SVG."""


def curve_figures(runs: Sequence[Metrics]) -> list[Figure]:
    """The charts of a run's curves, or of several runs' over one another, without empty ones."""
    charts = [chart for chart in charts_of(runs) if chart.drawable()] if runs else []
    return [
        (chart.title.removeprefix(f"{runs[0].name}: "), draw_charts([replace(chart, title="")], "svg"))
        for chart in charts
    ]


def point_figures(charts: Sequence[Scatter | None]) -> list[Figure]:
    return [(chart.title, draw_scatter(replace(chart, title=""), "svg")) for chart in charts if chart is not None]


def against_macs(scores: Sequence[Score], goal: Goal) -> Scatter | None:
    """The chart of quality against multiply-accumulates; None if fewer than two networks have both."""
    points = tuple(
        ScatterPoint(score.name, score.macs / 1e9, judged.mean, score.role)
        for score in scores
        if score.macs and score.role != "start" and (judged := score.by(goal)) is not None
    )
    return _scatter(f"Quality against work; {BEST}", "GMAC at LR 256x256", points, scores, goal)


def against_time(contents: Contents, profile: ProfileFile) -> Scatter | None:
    """The chart of quality against time at the first size and batch of the profile; None with fewer than two points."""
    first = profile.rows[0]
    points = []
    for row in profile.rows:
        role: ScoreRole = "teacher" if row.model == profile.teacher else "student"
        score = contents.score(role)
        judged = None if score is None else score.by(contents.goal)
        is_first = (row.lr_size, row.batch) == (first.lr_size, first.batch)
        if is_first and row.bounded is not False and judged is not None:
            points.append(ScatterPoint(f"{role}, {row.runtime} {row.precision}", row.ms, judged.mean, role))
    images = "an image" if first.batch == 1 else f"for {first.batch} images"
    label = f"ms {images} of LR {first.lr_size}, {first.device}, {count_threads(first.threads)}"
    return _scatter(f"Quality against time; {BEST}", label, tuple(points), contents.scores, contents.goal)


def _scatter(
    title: str, x_label: str, points: tuple[ScatterPoint, ...], scores: Sequence[Score], goal: Goal
) -> Scatter | None:
    if len(points) < 2:
        return None
    bicubic = of_role(scores, "bicubic")
    level = None if bicubic is None else bicubic.by(goal)
    levels = () if bicubic is None or level is None else ((bicubic.name, level.mean),)
    return Scatter(title, x_label, f"{SCATTER_Y} {GOAL_WORDS[goal]}", points, levels=levels)
