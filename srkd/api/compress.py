"""`srkd compress`: a student trained by a recipe; and the continuation of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compressor.base.context import Note, Progress
from srkd.options.compress import CompressKeywords, CompressOptions
from srkd.options.function import public
from srkd.record.result import CompressReport
from srkd.runs.compression import run_compress, run_resume
from srkd.terminal.console import context_for_python

__all__ = ["CompressReport", "compress", "resume"]

compress = public(CompressKeywords, CompressOptions, run_compress, "compress")


def resume(
    run: str | Path, *, progress: Progress | Literal[False] | None = None, announce: Note | None = None
) -> CompressReport:
    """Continue an unfinished run, or a plan of runs, from the last saved state, as if it had never stopped.

    `progress` and `announce` are those of `compress`: bars and notes in a terminal or a notebook, and `False` for none.
    """
    with context_for_python(progress, announce) as context:
        return run_resume(Path(run), context)
