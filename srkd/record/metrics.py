"""The rows of metrics.jsonl as typed values: only numbers that can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.training.run_files import read_metrics
from srkd.record.reading import LARGEST_NUMBER, printable


@dataclass(frozen=True)
class MetricsRow:
    """One row: its kind (`train`, `validation`, `skipped`, `flag`), its step, and its numbers by name."""

    kind: str
    step: int
    numbers: Mapping[str, float]


def read_rows(run: Path) -> tuple[MetricsRow, ...]:
    """The rows of a run folder in the order of their steps; anything else in the file is left out."""
    rows = []
    for _, values in read_metrics(run):
        numbers = {  # without NaN, of which each comparison is False
            printable(name): value
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER
        }
        if "step" in numbers:
            rows.append(MetricsRow(str(values.get("kind")), values["step"], numbers))
    return tuple(sorted(rows, key=lambda row: row.step))
