"""Runs of a plan side by side: each is trained by a process of its own, from its run folder alone.

A worker gets the folder of a run that has begun, continues it from its newest state, and leaves the result in its
run.json. So a run whose worker died goes on in another one, wherever that sees the folder.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from compressor.base.child import Child, ChildFailed
from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.interrupts import Interrupted, StopRequest
from compressor.training.run_files import newest_step
from compressor.training.run_folder import LOCK

MOST_DEATHS = 3
"""A run whose worker died this often has failed."""
LOOK_SECONDS, REPORT_SECONDS = 0.1, 1.0

WORKER = "srkd.runs.compression:RunWorker"
"""What a worker executes, by name: this module imports nothing of a plan."""


@dataclass(frozen=True)
class BegunRun:
    """A run that has a run.json and is not finished; `title` names it for a person."""

    title: str
    folder: Path
    steps: int
    job: Mapping[str, Any]
    """What its worker is given, as JSON values."""


class Slot(ABC):
    """A place where runs are trained one after another. A thread waits for it; another one may stop it."""

    @abstractmethod
    def train(self, run: BegunRun) -> None:
        """Train a run to its end. If its process died, this raises `ChildFailed` with `crashed`."""

    @abstractmethod
    def stop(self) -> None:
        """Ask the run to save its state and to end, as the first Ctrl-C does."""

    @abstractmethod
    def kill(self) -> None:
        """End the run at once."""


class LocalSlot(Slot):
    """A process of this machine; after it died, the next run starts another one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._child: Child | None = None

    def train(self, run: BegunRun) -> None:
        try:
            if self._child is None:
                self._child = Child(WORKER, {}, what="its worker", environment=self._environment)
                self._child.result()
            self._child.call("train", **run.job)
        except ChildFailed:
            if self._child is not None:
                self._child.close()
            self._child = None
            raise

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if (child := self._child) is not None:
            child.signal(number)


def local_slots(jobs: int, threads: int | None, device: str) -> list[Slot]:
    """Workers on this machine, each with its threads and, where there are several, a GPU of its own."""
    gpus = [""] * jobs
    if device == "cuda":
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible is not None else list(map(str, range(torch.cuda.device_count() or 1)))
        gpus = [names[number % len(names)] for number in range(jobs)]
    of_threads = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return [LocalSlot(of_threads | ({} if gpu == "" else {"CUDA_VISIBLE_DEVICES": gpu})) for gpu in gpus]


class SideBySide:
    """The training of several runs by several workers at once; one line reports on all."""

    def __init__(self, runs: Sequence[BegunRun], workers: Sequence[Slot], context: Context, stop: StopRequest) -> None:
        self.runs, self.workers, self.context, self.stop = runs, workers, context, stop
        self.waiting, self.running, self.announced = deque(runs), set[str](), set[str]()
        self.failures: dict[str, str] = {}
        """The reason of each run that failed, by its title."""
        self.notes: SimpleQueue[str] = SimpleQueue()
        self.steps = {run.title: newest_step(run.folder) for run in runs}
        self.before = sum(self.steps.values())
        self.reported = -REPORT_SECONDS
        self.first: tuple[float, int] | None = None
        """The time and the number of steps from which the speed is measured: when the first worker trains."""

    def train(self) -> None:
        """Train all runs; some may end among `failures`. A stop request stops all, and raises `Interrupted`."""
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers]
        is_stopping = False
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(LOOK_SECONDS)
                self._report()
                if self.stop.must_stop and not is_stopping:
                    is_stopping = True
                    self.waiting.clear()
                    for worker in self.workers:
                        worker.stop()
        finally:
            for worker in self.workers:
                worker.kill()
        self._report()
        if is_stopping:
            raise Interrupted("")

    def _work(self, worker: Slot) -> None:
        while True:
            try:
                run = self.waiting.popleft()
            except IndexError:
                return
            self.running.add(run.title)
            try:
                self._train(worker, run)
            except SrkdError as error:
                if self.stop.must_stop:
                    return
                self.failures[run.title] = str(error)
                self.notes.put(f"{run.title}: failed: {error}")
            else:
                self.notes.put(f"{run.title}: done")
            finally:
                self.running.discard(run.title)

    def _train(self, worker: Slot, run: BegunRun) -> None:
        """Train a run, again from its newest state after its worker died."""
        for deaths in range(1, MOST_DEATHS + 1):
            try:
                worker.train(run)
            except ChildFailed as error:
                if self.stop.must_stop or not error.crashed:
                    raise
                if deaths == MOST_DEATHS:
                    raise SrkdError(f"{error}, for the {deaths}. time") from error
                self.notes.put(f"{run.title}: {error}; the run goes on from its newest state")
            else:
                return

    def _report(self) -> None:
        """Tell the notes of all runs and, from time to time, how far they are."""
        with suppress(Empty):
            while True:
                self.context.note(self.notes.get_nowait())
        at_work = {run.title for run in self.runs if run.title in self.running and (run.folder / LOCK).exists()}
        for title in at_work - self.announced:
            self.context.note(title)
        self.announced |= at_work
        now = time.monotonic()
        if now - self.reported < REPORT_SECONDS:
            return
        self.reported = now
        for run in self.runs:
            if run.title in self.running:
                self.steps[run.title] = newest_step(run.folder)
        left = len(self.waiting) + len(self.running)
        done, total = sum(self.steps.values()), sum(run.steps for run in self.runs)
        self.context.progress("steps of all runs", done, total)
        if self.first is None and done > self.before:
            self.first = now, done
        began, before = self.first or (now, done)
        if self.context.status is not None and done > before:
            seconds = (now - began) / (done - before) * (total - done)
            finished = len(self.runs) - left - len(self.failures)
            failed = f", {len(self.failures)} failed" if self.failures else ""
            self.context.status(f"{finished} of {len(self.runs)} runs done, {len(at_work)} running{failed}", seconds)
