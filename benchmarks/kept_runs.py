"""Training runs of benchmarks that are kept with their figures, and scores of several models as figures."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import srkd
from compressor.base.choices import Goal
from compressor.inference.evaluation import Evaluation
from compressor.inference.metric_table import METRICS

AT_THE_END = ("schedule.validate_every=1000000",)
WARM_UP = 20
"""Steps by which the time of a step is measured."""


class StepClock:
    """A run's callback for progress, which notes the processor time at its steps."""

    def __init__(self) -> None:
        self.ends: dict[int, float] = {}

    def __call__(self, title: str, done: int, total: int) -> None:
        if title == "training":
            self.ends.setdefault(done, time.process_time())

    def training_seconds(self) -> float:
        """Return the processor time of all steps, in seconds: as many as there were, at the mean of those that were
        seen.
        """
        return self.step_seconds() * max(self.ends)

    def step_seconds(self) -> float:
        """Return the processor time of a step, in seconds."""
        first, last = min(self.ends), max(self.ends)
        return (self.ends[last] - self.ends[first]) / max(1, last - first)


def file_name(student: str) -> str:
    """Return a student as the name of a file or folder."""
    return student.replace(":", "-").replace(",", "-")


def run(folder: Path, options: argparse.Namespace, shape: str, **words: Any) -> dict[str, Any]:
    """Train a run, or read it if it is finished, and return its figures."""
    kept = folder.with_name(f"{folder.name}.json")
    if kept.exists():
        facts: dict[str, Any] = json.loads(kept.read_text())
        return facts
    shutil.rmtree(folder, ignore_errors=True)  # a run that was interrupted
    clock = StepClock()
    before: dict[str, list[float]] = {"fit": [], "degrading": [], "teacher on": []}

    def progress(title: str, done: int, total: int) -> None:
        clock(title, done, total)
        for work in before:
            if title.startswith(work):
                before[work].append(time.process_time())

    report = srkd.compress(
        options.teacher, student=shape, data=options.photos, val=[options.val], out=folder, announce=lambda line: None,
        progress=progress, **{"cache_size": 0, **words},
    )  # fmt: skip
    facts = {
        "psnr_teacher": report.student.psnr_y_teacher,
        "step_seconds": clock.step_seconds(),
        "seconds_before": sum(times[-1] - times[0] for times in before.values() if times),
    }
    kept.write_text(json.dumps(facts))
    return facts


def figures_of(scored: Evaluation, measures: Sequence[str], *, to: Goal) -> list[dict[str, float]]:
    """Return the figures of the only set: of bicubic, Lanczos and then each model in turn, without the teacher."""
    sets = [next(iter(by_set.values())) for label, by_set in scored.models.items() if label != scored.teacher]
    return [{name: float(figures[METRICS[name].key_to(to)]) for name in measures} for figures in sets]
