"""`srkd plot`: the curves of one run or several, from the rows of their metrics.jsonl, as a PNG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.errors import SrkdError
from compressor.training.run_files import METRICS
from srkd.charts import Chart, Curve
from srkd.record.metrics import MetricsRow, read_rows
from srkd.record.run_file import find_run_file, require_run_folder

CURVES = "curves.png"
SCORES = {"student_psnr_y": "student", "tuned_teacher_psnr_y": "teacher being tuned"}
"""Names of the curves by their keys in the rows of validations."""
QUALITY_TITLE = "Y-PSNR on the validation images in dB, over steps"
LOSS_TITLE = "Loss, over steps"


@dataclass(frozen=True)
class Metrics:
    """The rows of one run, in the order of their steps."""

    name: str
    path: Path
    rows: tuple[MetricsRow, ...]

    @classmethod
    def read(cls, run: Path) -> Metrics | None:
        """The rows of a run folder; None if there are none yet."""
        rows = read_rows(run)
        return cls(run.resolve().name, run, rows) if rows else None

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

    def keys(self, kind: str, start: str) -> list[str]:
        """The keys that begin with `start` in rows of a kind, in order of appearance."""
        rows = (row for row in self.rows if row.kind == kind)
        return list(dict.fromkeys(key for row in rows for key in row.numbers if key.startswith(start)))


def read_runs(folder: Path) -> list[Metrics]:
    require_run_folder(folder)
    file = None if (folder / METRICS).is_file() else find_run_file(folder)
    folders = [folder] if file is None else [folder / name for name in file.run_names] or [folder]
    runs = [metrics for place in folders if (metrics := Metrics.read(place)) is not None]
    if not runs:
        raise SrkdError(f"{folder} has no curves yet: no row in {METRICS}; is it a run folder of srkd compress?")
    return runs


def named_apart(runs: Sequence[Metrics]) -> list[Metrics]:
    """The runs; those whose folders have one name, by their paths."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else replace(run, name=str(run.path)) for run in runs]


def charts_of(runs: Sequence[Metrics]) -> list[Chart]:
    return _charts_of_one(runs[0]) if len(runs) == 1 else _charts_of_several(runs)


def _charts_of_one(run: Metrics) -> list[Chart]:
    terms = run.keys("train", "weighted/")
    losses = [run.curve("train", "loss", "loss")]
    if len(terms) > 1:
        losses += [run.curve("train", key, key.removeprefix("weighted/")) for key in terms]
    scores = [run.curve("validation", key, name) for key, name in SCORES.items()]
    skipped = tuple(row.step for row in run.rows if row.kind == "skipped")
    title = f"{LOSS_TITLE}; red: skipped steps" if skipped else LOSS_TITLE
    return [
        Chart(f"{run.name}: {QUALITY_TITLE}", (*scores, *_levels(run))),
        Chart(title, tuple(losses), logarithmic=True, marks=skipped),
        Chart("Learning rate, over steps", (run.curve("train", "rate", "rate"),)),
    ]


def _levels(run: Metrics) -> list[Curve]:
    """The curves of the teacher and bicubic or the input, with which the student is compared."""
    return [run.level(f"{name}_psnr_y", name) for name in ("teacher", "bicubic", "input")]


def _charts_of_several(runs: Sequence[Metrics]) -> list[Chart]:
    scores = [run.curve("validation", "student_psnr_y", run.name) for run in runs]
    losses = [run.curve("train", "loss", run.name) for run in runs]
    return [Chart(QUALITY_TITLE, (*scores, *_levels(runs[0]))), Chart(LOSS_TITLE, tuple(losses), logarithmic=True)]
