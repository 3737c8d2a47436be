"""A run folder: run.json, metrics.jsonl, TensorBoard events, log.txt, checkpoints/, student.safetensors; its lock."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressor.base.choices import DEFAULT_TRACKERS, TrackerName
from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError, Unwritable, UsageError, report_unwritable
from compressor.base.files import append, flush_file, no_empty_folder, temporary_files, unwritable_folder, write_text
from compressor.base.interrupts import resume_command
from compressor.base.locks import LockedElsewhere, hold_lock
from compressor.models.checkpoints.header import FAITHFUL, RUN_FOLDER_FACTS, RUN_FOLDER_WEIGHTS, TEXTURED
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.training.guard import SkippedStep
from compressor.training.run_files import METRICS, read_metrics, write_facts
from compressor.training.state import DamagedState, State
from compressor.training.trackers import TRACKER_TYPES, Tracker, TrackerLost, as_png

KEPT_STATES = 3
FACTS, LOG, LOCK = RUN_FOLDER_FACTS, "log.txt", ".lock"
STUDENT, SHEET = RUN_FOLDER_WEIGHTS, "comparison.png"
FLOAT_STUDENT = "student-float.safetensors"
"""The distilled float student, kept beside the quantised one."""
JOINT_TEACHER = "teacher_joint.safetensors"
"""The teacher that was trained jointly with the student inside it; students of other widths can be cut from it."""
REPLACED_FILES = (FACTS, METRICS, STUDENT, SHEET, JOINT_TEACHER, FLOAT_STUDENT, FAITHFUL, TEXTURED)
"""Files that are written under a temporary name first."""


class RunFolder:
    """The folder of everything that a run writes. An existing run is never overwritten, only continued.

    `part_of` is the folder of the plan that the run belongs to; `trackers` also receive its numbers. Without `writes`
    nothing is written or read: only the leading process has a folder, perhaps on another machine, while every process
    runs the same code.
    """

    program = "srkd"

    def __init__(
        self,
        path: Path,
        *,
        resumed: bool = False,
        part_of: Path | None = None,
        writes: bool = True,
        trackers: Sequence[TrackerName] = DEFAULT_TRACKERS,
        sends_pictures: bool = False,
    ) -> None:
        self.path, self._plan, self.writes = path, part_of or path, writes
        self._sends_pictures = sends_pictures
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.safetensors"
        self.states = SavedStates(self.checkpoints, is_leader=writes)
        self._trackers: list[Tracker] = [TRACKER_TYPES[name](path) for name in trackers] if writes else []
        if not writes:
            return
        if not resumed:
            require_new(path)
        with report_unwritable(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write run.json: the request, all decisions derived from it, and at the end the result."""
        if self.writes:
            write_facts(self.path, facts)
        for tracker in self._trackers:
            tracker.begin(facts)

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Tell the trackers at the end of the block whether the run is finished."""
        finished = False
        try:
            yield
            finished = True
        finally:
            for tracker in self._trackers:
                try:
                    tracker.end(finished=finished)
                except SrkdError as error:
                    self.log(str(error))

    def save_best(self, network: Network) -> None:
        if self.writes:
            save_network(network, self.best, metadata={})

    def save(self, state: State) -> None:
        """Save a state, after flushing the log lines of its steps to the disk."""
        if not self.writes:
            return
        for name in (METRICS, LOG):
            if (self.path / name).is_file():
                with report_unwritable(self.path / name):
                    flush_file(self.path / name)
        self.states.save(state)

    def describe_safe_state(self) -> str:
        """Return which state is saved, for the line that ends a run."""
        newest = self.states.newest()
        return "no state was saved yet" if newest is None else f"the last good state is {newest}"

    @property
    def resume_command(self) -> str:
        """The command that resumes this run, or the plan that it is part of."""
        return resume_command(self._plan, self.program)

    @contextmanager
    def report_unwritable(self) -> Iterator[None]:
        """Turn a write error within the block into a line about what is saved and how to continue."""
        try:
            yield
        except Unwritable as error:
            advice = f"{self.describe_safe_state()}; once that is mended, continue with: {self.resume_command}"
            if not (self.path / FACTS).is_file():
                advice = f"the run had not begun: once that is mended, remove {self.path} and start it again"
            raise SrkdError(f"{error}; {advice}") from error

    def drop_metrics_after(self, done: int) -> None:
        """Remove metrics of steps that will be repeated, and a line that a crash cut short."""
        if not self.writes:
            return
        lines = [line for line, row in read_metrics(self.path) if row["step"] <= done]
        write_text(self.path / METRICS, "".join(f"{line}\n" for line in lines))

    def metrics(
        self, kind: str, done: int, numbers: Mapping[str, float], words: Mapping[str, str] | None = None
    ) -> None:
        """Append a row to metrics.jsonl, and send its numbers to the trackers."""
        self._append(METRICS, json.dumps({"kind": kind, "step": done, **numbers, **(words or {})}))
        self._track(done, lambda tracker: tracker.scalars(kind, done, numbers))

    @property
    def takes_pictures(self) -> bool:
        return any(map(self._may_show, self._trackers))

    def _may_show(self, tracker: Tracker) -> bool:
        """Images leave this machine only if they were asked for."""
        return tracker.is_local or self._sends_pictures

    def pictures(self, done: int, pictures: Mapping[str, torch.Tensor]) -> None:
        """Give the trackers images in bytes, each (1,3,H,W), by their names."""
        files = {name: as_png(image_u8) for name, image_u8 in pictures.items()}
        self._track(done, lambda tracker: tracker.pictures(done, files) if self._may_show(tracker) else None)

    def _track(self, done: int, send: Callable[[Tracker], None]) -> None:
        """Send something to every tracker; a service that failed is left out from then on."""
        for tracker in tuple(self._trackers):
            try:
                send(tracker)
            except TrackerLost as error:
                self._trackers.remove(tracker)
                self.log(f"step {done}: {error}")

    def log_skip(self, done: int, skipped: SkippedStep) -> None:
        loss = skipped.loss if math.isfinite(skipped.loss) else None
        facts = {"terms": skipped.terms, "why": skipped.why, "loss": loss, "in_a_row": skipped.in_a_row}
        self._append(METRICS, json.dumps({"kind": "skipped", "step": done, **facts}))
        self.log(f"step {done} skipped: {skipped.why}")

    def flag(self, done: int, why: str) -> None:
        """Record a warning about the run's result in metrics.jsonl and log.txt."""
        self._append(METRICS, json.dumps({"kind": "flag", "step": done, "why": why}))
        self.log(f"step {done}: {why}")

    def flags(self) -> tuple[str, ...]:
        """Return all warnings so far, also those from before the run was resumed."""
        rows = [row for _, row in read_metrics(self.path)] if self.writes else []
        return tuple(f"step {row['step']}: {row.get('why')}" for row in rows if row.get("kind") == "flag")

    def log(self, line: str) -> None:
        self._append(LOG, line)

    def _append(self, name: str, line: str) -> None:
        if self.writes:
            append(self.path / name, (line + "\n").encode())


@dataclass(frozen=True)
class SavedStates:
    """The last few states of a run, checkpoints/state-00001000.pt and so on; the folder is the only record of them.

    On a shared disk only the leading process reads and removes them; others have none.
    """

    folder: Path
    is_leader: bool = True

    def paths(self) -> list[Path]:
        """Return the states, the oldest first."""
        files = self.folder.glob("state-*.pt") if self.is_leader else ()
        steps = {path: int(match[1]) for path in files if (match := re.fullmatch(r"state-(\d+)\.pt", path.name))}
        return sorted(steps, key=lambda path: steps[path])

    def newest(self) -> Path | None:
        return next(reversed(self.paths()), None)

    def save(self, state: State) -> Path:
        """Save a state, and only then remove the oldest."""
        path = self.folder / f"state-{state.done:08d}.pt"
        state.save(path)
        for old in self.paths()[:-KEPT_STATES]:
            with report_unwritable(old):
                old.unlink(missing_ok=True)
        return path

    def load_newest(self, load: Callable[[Path], None], note: Note) -> Path | None:
        """Load the newest readable state; None if none was ever saved. Damaged states are set aside."""
        damaged: dict[Path, DamagedState] = {}
        for path in reversed(self.paths()):
            try:
                load(path)
            except DamagedState as error:
                damaged[path] = error
                continue
            for bad, why in damaged.items():
                # Under its own name it would count as one of the last few and displace a good one.
                bad.replace(bad.with_suffix(".damaged"))
                note(f"{why}; it is set aside, and {path.name} is used instead")
            return path
        if damaged:
            raise SrkdError(
                f"none of the {len(damaged)} saved states can be read ({'; '.join(map(str, damaged.values()))}): "
                "start a new run, with --init-from checkpoints/best.safetensors if that is there"
            )
        return None

    def remove_unfinished(self) -> None:
        """Remove the partial files of a save that was killed."""
        for half in self.folder.glob(".*.*") if self.is_leader else ():
            half.unlink(missing_ok=True)


def require_new(path: Path) -> None:
    """Refuse a non-empty folder; leftovers of a start that was killed before run.json do not count."""
    if path.exists() and (not path.is_dir() or any(not _is_leftover(item) for item in path.iterdir())):
        raise UsageError(f"--out {path} exists and is not empty: choose another folder or remove it")


def _is_leftover(item: Path) -> bool:
    """Return True for the lock, temporary files and the empty folder of states."""
    if item.name == "checkpoints" and item.is_dir():
        return not any(item.iterdir())
    return item.name == LOCK or item in temporary_files(item.parent, REPLACED_FILES)


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
                for leftover in temporary_files(run, REPLACED_FILES):  # of a killed process
                    leftover.unlink(missing_ok=True)
            except LockedElsewhere as error:
                raise SrkdError(
                    f"{run} is being written by {error.owner}: wait until that run ends, or end it with Ctrl-C there"
                ) from None
            except OSError as error:
                raise unwritable_folder(run, option, error) from error

        context.processes.from_leader(take)
        yield
