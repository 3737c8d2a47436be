"""The lock on a run folder: only one run writes to it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import no_empty_folder, unwritable_folder
from compressor.base.locks import LockedElsewhere, hold_lock
from compressor.training.run_folder import LOCK, remove_leftovers


@contextmanager
def lock_run(run: Path, context: Context, option: str = "--out", *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock on a run folder within the block; the folder is created, and removed again if it stays empty.

    `option` named the folder, for the error; `wait_seconds` is the time for another process to release it.
    """
    with ExitStack() as stack:

        def take() -> None:
            try:
                stack.enter_context(no_empty_folder(run))
                run.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold_lock(run / LOCK, wait_seconds=wait_seconds))
                remove_leftovers(run)
            except LockedElsewhere as error:
                raise SrkdError(
                    f"{run} is being written by {error.owner}: wait until that run ends, or end it with Ctrl-C there"
                ) from None
            except OSError as error:
                raise unwritable_folder(run, option, error) from error

        context.processes.from_leader(take)
        yield
