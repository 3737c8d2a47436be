"""Two files of a run folder: run.json, which is replaced as a whole, and metrics.jsonl, which grows by a row a step.

This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compressor.base.files import require_regular, write_text
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS

METRICS = "metrics.jsonl"
MOST_END_BYTES = 64 * 2**10
MOST_ROW_CHARACTERS = 10**6
"""The longest line of metrics.jsonl; a longer one is read in parts, none of which is a row."""


def read_metrics(run: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of metrics.jsonl, as text and as values; other lines (cut short by a crash) are skipped."""
    path = run / METRICS
    require_regular(path)
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as lines:
        while line := lines.readline(MOST_ROW_CHARACTERS):
            if (row := _row_of(line)) is not None:
                yield line.rstrip("\n"), row


def newest_step(run: Path) -> int:
    """The step of the newest row of metrics.jsonl, from the end of the file; 0 without one."""
    with suppress(OSError), open(run / METRICS, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - MOST_END_BYTES))
        for line in reversed(file.read().splitlines()):
            if (row := _row_of(line)) is not None:
                return int(row["step"])
    return 0


def _row_of(line: str | bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        row = json.loads(line)
        if isinstance(row, dict) and type(row.get("step")) is int:
            return row
    return None


def write_facts(run: Path, facts: Mapping[str, Any]) -> None:
    write_text(run / RUN_FOLDER_FACTS, json.dumps(facts, indent=1) + "\n")
