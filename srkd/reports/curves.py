"""`srkd plot`: the curves of one run or several, from the rows of their metrics.jsonl, as a PNG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError
from compressor.images.scores import GOAL_WORDS
from compressor.inference import metric_table
from compressor.training.run_files import METRICS, read_metrics
from srkd.charts import Chart, Curve
from srkd.record.reading import LARGEST_NUMBER, printable
from srkd.record.run_file import find_run_file, require_run_folder

CURVES = "curves.png"
LOSS_TITLE = "Loss, over steps"


@dataclass(frozen=True)
class MetricsRow:
    """One row: its kind (`train`, `validation`, `skipped`, `flag`), its step, and its numbers by name."""

    kind: str
    step: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Metrics:
    """The rows of one run, in the order of their steps."""

    name: str
    path: Path
    rows: tuple[MetricsRow, ...]

    @classmethod
    def read(cls, run: Path) -> Metrics | None:
        """The rows of a run folder with the numbers that can be drawn; None if there are none yet."""
        rows = []
        for _, values in read_metrics(run):
            numbers = {  # without NaN, of which each comparison is False
                printable(name): value
                for name, value in values.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER
            }
            if "step" in numbers:
                rows.append(MetricsRow(str(values.get("kind")), values["step"], numbers))
        return cls(run.resolve().name, run, tuple(sorted(rows, key=lambda row: row.step))) if rows else None

    @property
    def last_step(self) -> int:
        return self.rows[-1].step

    def curve(self, kind: str, key: str, name: str) -> Curve:
        rows = [row for row in self.rows if row.kind == kind and key in row.numbers]
        return Curve(name, tuple((row.step, row.numbers[key]) for row in rows))

    def level(self, key: str, name: str) -> Curve:
        """A horizontal line from the first to the last step, at a score that all validations share."""
        score = self.curve("validation", key, name)
        ends = (self.rows[0].step, self.last_step)
        return Curve(name, tuple((step, value) for step in ends for _, value in score.points[-1:]), dashed=True)


def read_runs(folder: Path) -> list[Metrics]:
    require_run_folder(folder)
    file = None if (folder / METRICS).is_file() else find_run_file(folder)
    folders = [folder] if file is None else [folder / name for name in file.run_names] or [folder]
    runs = [metrics for place in folders if (metrics := Metrics.read(place)) is not None]
    if not runs:
        raise SrkdError(f"{folder} has no curves yet: no row in {METRICS}; is it a run folder of srkd compress?")
    return runs


def charts_of(runs: Sequence[Metrics]) -> list[Chart]:
    """The charts of a run, or of several over one another; levels are those that the students are compared with."""
    run = runs[0]
    qualities = [_quality_chart(runs, goal) for goal in get_args(Goal)]
    if len(runs) > 1:
        losses = [each.curve("train", "loss", each.name) for each in runs]
        return [*qualities, Chart(LOSS_TITLE, tuple(losses), logarithmic=True)]
    keys = dict.fromkeys(key for row in run.rows if row.kind == "train" for key in row.numbers)
    terms = [key for key in keys if key.startswith("weighted/")]
    losses = [run.curve("train", "loss", "loss")]
    if len(terms) > 1:
        losses += [run.curve("train", key, key.removeprefix("weighted/")) for key in terms]
    skipped = tuple(row.step for row in run.rows if row.kind == "skipped")
    title = f"{LOSS_TITLE}; red: skipped steps" if skipped else LOSS_TITLE
    return [
        *qualities,
        Chart(title, tuple(losses), logarithmic=True, marks=skipped),
        Chart("Learning rate, over steps", (run.curve("train", "rate", "rate"),)),
    ]


def _quality_chart(runs: Sequence[Metrics], goal: Goal) -> Chart:
    """The scores by one goal; without any it has nothing to draw, and is left out."""
    run, key = runs[0], metric_table.METRICS["psnr"].key_to(goal)
    scores = [each.curve("validation", f"student_{key}", each.name) for each in runs]
    scores.append(run.curve("validation", f"tuned_teacher_{key}", "teacher being tuned"))
    levels = (run.level(f"{name}_{key}", name) for name in ("teacher", "bicubic", "input"))
    return Chart(f"Y-PSNR in dB {GOAL_WORDS[goal]}, validation images, over steps", (*scores, *levels))
