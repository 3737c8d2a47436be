"""`srkd plot`: the curves of runs as a PNG picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.training.run_files import METRICS
from srkd.charts import NothingToDraw, draw_charts
from srkd.options.function import public
from srkd.options.shared import path_of
from srkd.options.values import output_file, require_png, run_folders
from srkd.options.verbs import PlotOptions
from srkd.reports.curves import CURVES, charts_of, read_runs


@dataclass(frozen=True)
class PlotReport:
    """The path of the picture, the runs in it, and the last step of each run by name."""

    path: Path
    runs: tuple[Path, ...]
    steps: Mapping[str, int]


def run_plot(options: PlotOptions, context: Context) -> PlotReport:
    """Draw the curves of a run, or of several over one another: quality, loss, learning rate.

    An unfinished run is drawn up to its last step. For a plan, all of its runs are drawn.

        >>> srkd.plot("runs/small", out="curves.png")
    """
    folders = run_folders(options.runs)
    path = output_file(path_of(options.out), folders, CURVES, require_png)
    runs = [metrics for folder in folders for metrics in read_runs(folder)]
    names = [run.name for run in runs]
    # Runs whose folders have one name are named by their paths.
    runs = [run if names.count(run.name) == 1 else replace(run, name=str(run.path)) for run in runs]
    try:
        picture = draw_charts(charts_of(runs))
    except NothingToDraw as error:
        raise SrkdError(f"{runs[0].path / METRICS} holds no number to draw") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)
    return PlotReport(path, tuple(run.path for run in runs), {run.name: run.last_step for run in runs})


plot = public(PlotOptions, PlotOptions, run_plot, "plot")
