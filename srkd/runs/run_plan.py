"""Several runs in one folder: derived from one base by replacing groups of its options, and run one after another.

    folder/run.json          names the runs, and has all that `--resume` needs
    folder/NAME/             an ordinary run folder for each of them
    folder/student.safetensors, comparison.png, ...   of the chosen run, so that verbs accept the folder as a run

A plan is started and continued in the same way, by one process or by all those of torchrun: finished runs are skipped,
the one that was interrupted continues, the others begin.
"""

from __future__ import annotations

import dataclasses
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.base.interrupts import Interrupted, StopRequest, catch_signals
from compressor.base.machine import machine_facts
from compressor.training.run_folder import LOG
from compressor.training.run_lock import lock_run
from srkd.options.compress import CompressOptions
from srkd.options.option import to_json
from srkd.record.result import CompressReport
from srkd.record.run_file import MachineFacts, PlannedRuns, RunFile, find_run_file, read_run_file, write_run_file
from srkd.runs.config import RunConfig
from srkd.runs.on_ray import ray_slots
from srkd.runs.run import STOPPING, plan_entry, read_or_discard_started, run_facts, train_run
from srkd.runs.workers import BegunRun, SideBySide, local_slots
from srkd.version import __version__


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: its name for a person, such as "logits, seed 10", and its options."""

    title: str
    options: CompressOptions

    @property
    def folder(self) -> Path:
        return self.options.run.folder

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name


@dataclass(frozen=True)
class RunPlan(ABC):
    """Runs that are derived from the base `options`."""

    options: CompressOptions
    context: Context

    @property
    def folder(self) -> Path:
        return self.options.run.folder

    @abstractmethod
    def list_runs(self) -> tuple[PlannedRun, ...]:
        """The runs in their order; the same ones for the same options."""

    @cached_property
    def runs(self) -> tuple[PlannedRun, ...]:
        return self.list_runs()

    @abstractmethod
    def summarise(self, results: Sequence[RunFile]) -> tuple[CompressReport, RunFile]:
        """The report of all runs, and the run.json of the run that the plan's folder shows."""

    @abstractmethod
    def copies(self, report: CompressReport) -> Mapping[str, Path]:
        """The files of runs that are copied to the plan's folder, by their names there."""

    def require_possible(self) -> None:  # noqa: B027
        """Refuse mistakes that would show only in a later run; called before the first one begins."""

    def decide(self, run: PlannedRun, results: Sequence[RunFile], context: Context, began: RunFile | None) -> RunConfig:
        """The config of a run; `results` are those of the runs before it."""
        return RunConfig.decide(run.options, context, began=began)

    def require_same_inputs(self, run: PlannedRun, before: RunFile) -> None:  # noqa: B027
        """Refuse to go on after a finished run that had other inputs."""

    def require_comparable(self, results: Sequence[RunFile]) -> None:  # noqa: B027
        """Refuse to go on if the finished runs cannot be compared."""

    def contents(self) -> RunFile:
        """The plan's run.json before its result: all that `--resume` needs."""
        run = self.options.run
        return RunFile(
            srkd_version=__version__,
            machine=MachineFacts.model_validate(machine_facts()),
            request=to_json(self.options),
            plan=plan_entry(self.options),
            trials=PlannedRuns(
                runs=tuple(run.name for run in self.runs), with_baseline=run.has_baselines, seeds=run.seeds
            ),
        )

    def train(self) -> CompressReport:
        """Train the unfinished runs, and return the report of all."""
        group, results = self.context.processes, list[RunFile]()
        if not any(group.broadcast([self._is_finished(run) for run in self.runs])):
            self.require_possible()
        self._write(self.contents())
        stop = group.stop_request
        stop.acknowledge = lambda: self.context.note(STOPPING)
        with catch_signals(stop):
            if self.options.run.is_side_by_side:
                self._train_side_by_side(stop)
            for number, run in enumerate(self.runs, start=1):
                title = f"run {number} of {len(self.runs)}"
                results.append(self._finish(run, title, results))
                group.run_on_all(lambda: self.require_comparable(results) if group.is_leader else None)
                if number < len(self.runs) and any(group.gather_objects(stop.received)):
                    raise Interrupted(f"interrupted after {title}; continue with: srkd compress --resume {self.folder}")
        report, shown = self.summarise(results)
        group.run_on_all(lambda: self._copy(report) if group.is_leader else None)
        self._write(shown.updated(self.contents()).changed(recipe=report.recipe, result=report))
        return report

    def _train_side_by_side(self, stop: StopRequest) -> None:
        """Begin all runs, and let workers train those that are not finished."""
        how, resume = self.options.run, f"srkd compress --resume {self.folder}"
        begun = [
            self._begin(run, number) for number, run in enumerate(self.runs, start=1) if not self._is_finished(run)
        ]
        if not begun:
            return
        count, on_gpu = min(how.jobs or len(begun), len(begun)), how.device.startswith("cuda")
        opened = (
            nullcontext(local_slots(count, how.threads, how.device))
            if how.on is None
            else ray_slots(how.on, count, folder=self.folder, threads=how.threads or 1, on_gpu=on_gpu)
        )
        try:
            with opened as slots:
                training = SideBySide(begun, slots, self.context, stop)
                training.train()
        except Interrupted as error:
            done = sum(map(self._is_finished, self.runs))
            raise Interrupted(
                f"interrupted: {done} of {len(self.runs)} runs are done; continue with: {resume}"
            ) from error
        if training.failures:
            (title, reason), *others = training.failures.items()
            log = next(run.folder for run in begun if run.title == title) / LOG
            also = "".join(f"; {title} failed too" for title, _ in others)
            raise SrkdError(
                f"{len(training.failures)} of {len(self.runs)} runs failed: {title}: {reason} ({log}){also}; "
                f"the others are done; continue with: {resume}"
            )

    def _begin(self, run: PlannedRun, number: int) -> BegunRun:
        """Write the run.json of a run, from which a worker trains it, unless it has begun before."""
        finished = [read_run_file(other.folder) for other in self.runs if self._is_finished(other)]
        with lock_run(run.folder, self.context):
            began = read_or_discard_started(run.folder)
            config = self.decide(run, finished, self.context, began)
            if began is None:
                write_run_file(run.folder, run_facts(config, self.context.processes))
        return BegunRun(
            title=f"run {number} of {len(self.runs)}: {run.title}",
            folder=run.folder,
            steps=sum(stage.schedule.steps for stage in config.stages(config.mode)),
            job={
                "run": str(run.folder.resolve()),
                "plan": str(self.folder),
                "accept_changed_code": self.options.accept_changed_code,
            },
        )

    def _finish(self, run: PlannedRun, title: str, results: Sequence[RunFile]) -> RunFile:
        """Start or continue a run unless it is finished, and return its run.json."""
        group = self.context.processes
        (began,) = group.broadcast(
            group.run_on_all(lambda: [read_or_discard_started(run.folder) if group.is_leader else None])
        )
        if began is not None and began.is_finished:
            before = began
            group.run_on_all(lambda: self.require_same_inputs(run, before))
            if not self.options.run.is_side_by_side:
                self.context.note(f"{title}: {run.title} (finished before)")
            return before
        self.context.note(f"{title}: {run.title}")

        def progress(work: str, done: int, total: int) -> None:
            self.context.progress(f"{title}: {work}", done, total)

        titled, runs_left = dataclasses.replace(self.context, progress=progress), len(self.runs) - len(results)
        try:
            with lock_run(run.folder, titled):
                config = self.decide(run, results, titled, began)
                train_run(config, titled, began=began, part_of=self.folder, runs_left=runs_left)
        except Interrupted as error:
            raise Interrupted(f"{title}: {error}") from error
        return group.broadcast(group.run_on_all(lambda: read_run_file(run.folder) if group.is_leader else None))

    def _is_finished(self, run: PlannedRun) -> bool:
        contents = find_run_file(run.folder) if self.context.processes.is_leader else None
        return contents is not None and contents.is_finished

    def _write(self, contents: RunFile) -> None:
        group = self.context.processes
        group.run_on_all(lambda: write_run_file(self.folder, contents) if group.is_leader else None)

    def _copy(self, report: CompressReport) -> None:
        for name, source in self.copies(report).items():
            if source.is_file():
                with atomic_path(self.folder / name) as temporary:
                    shutil.copyfile(source, temporary)


def in_folder(options: CompressOptions, folder: Path) -> CompressOptions:
    """Options of one run in a folder of its own."""
    run = dataclasses.replace(
        options.run, out=folder, with_baseline=False, baselines=(), seeds=1, sweep=(), jobs=None, on=None
    )
    return dataclasses.replace(options, run=run)
