"""The picture of `srkd profile --pareto`: quality against speed, with a point for each row."""

from __future__ import annotations

from pathlib import Path

from compressor.base.context import Note
from compressor.base.errors import UsageError
from compressor.base.files import atomic_path
from compressor.base.machine import count_threads
from compressor.images.scores import GOAL_WORDS
from export.profile.report import ProfileReport
from srkd.charts import Scatter, ScatterPoint, draw_scatter
from srkd.options.values import require_png
from srkd.options.verbs import ProfileOptions


def check_pareto(options: ProfileOptions) -> Path | None:
    """The path of the picture, checked before the long measurement; None without one."""
    if options.pareto is None:
        return None
    path = Path(options.pareto)
    if not options.quality:
        raise UsageError("--pareto shows quality: leave out --no-quality")
    require_png(path, "--pareto")
    return path


def points_of(report: ProfileReport) -> list[ScatterPoint]:
    """A point for each row of the first size and batch whose quality is known."""
    first = report.rows[0]
    points = []
    for row in report.rows:
        quality = report.quality_of(row)
        judged = None if quality is None else quality.scores.by(report.goal)
        if (row.lr_size, row.batch) == (first.lr_size, first.batch) and judged is not None:
            label = f"{row.model}, {row.runtime} {row.precision}"
            points.append(ScatterPoint(label, row.latency_ms.p50, judged, row.model))
    return points


def write_pareto(report: ProfileReport, path: Path, note: Note) -> None:
    """Write the picture to `path`; if there is nothing to draw, a note says so: the table is worth having alone."""
    points, row = points_of(report), report.rows[0]
    if not points:
        note(f"{path} is not drawn: no model has both a time and a quality")
        return
    title = f"Quality against speed: LR {row.lr_size}, batch {row.batch}, {row.device}, {count_threads(row.threads)}"
    y_label = f"Y-PSNR in dB {GOAL_WORDS[report.goal]}, on the embedded validation photos"
    picture = draw_scatter(Scatter(title, "ms a batch, median", y_label, tuple(points)))
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)
