"""Small plans whose runs are trained by other processes, and what happens to these at their first saved state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from srkd import compress
from srkd.record.result import CompressReport
from tests.support.small_runs import SMALL


def plan(ground: Path, out: Path, **words: object) -> CompressReport:
    settings = (*SMALL, "schedule.validate_every=100")
    small = {"data": ground / "photos", "goal": "original", "init": "inherit", "settings": settings, "threads": 1}
    return compress(ground / "teacher.safetensors", out=out, **{**small, **words})  # type: ignore[arg-type]


@contextmanager
def at_first_state(run: Path, act: Callable[[int], None]) -> Iterator[list[int]]:
    """Call `act` with the process that trains a run, once that has saved a state; yield the list of these processes."""
    done = list[int]()

    def watch() -> None:
        while not any((run / "checkpoints").glob("state-*.pt")) or not (run / ".lock").is_file():
            time.sleep(0.02)
        done.append(int((run / ".lock").read_text().split()[1]))
        act(done[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield done
    thread.join(60)
