"""`srkd compress`: a student trained by a recipe; and the continuation of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compressor.base.context import Note, Progress
from srkd.options.compress import CompressKeywords, CompressOptions
from srkd.options.function import public
from srkd.record.result import CompressReport
from srkd.runs.compression import ResumeOptions, run_compress, run_resume
from srkd.terminal.console import context_for_python

if TYPE_CHECKING:
    from compressor.training.method import Method

__all__ = ["CompressReport", "compress", "resume"]

compress = public(CompressKeywords, CompressOptions, run_compress, "compress")


def resume(
    run: str | Path,
    *,
    recipe: Method | type[Method] | str | None = None,
    accept_changed_code: bool = False,
    jobs: int | None = None,
    on: str | None = None,
    progress: Progress | Literal[False] | None = None,
    announce: Note | None = None,
) -> CompressReport:
    """Continue an unfinished run, or a plan of runs, from the last saved state, as if it had never stopped.

    A method or network whose source has changed since the run began is refused; with `accept_changed_code` the run goes
    on, and its run.json says from which step on the code was another. `recipe` is that of the run; a method of a
    notebook, which is in no file, must be given again: `srkd.resume("runs/edges", recipe=SobelKD(lam=0.1))`.
    `jobs` of a plan's runs are trained at the same time from now on, or all `on` a cluster; None: as before.
    `progress` and `announce` are those of `compress`: bars and notes in a terminal or a notebook, and `False` for none.
    """
    with context_for_python(progress, announce) as context:
        return run_resume(Path(run), context, ResumeOptions(accept_changed_code, recipe, jobs, on))
