"""Several runs in one folder, trained one after another or side by side, and continued after any interruption.

    folder/run.json          the spec of every run: all that `--resume` needs
    folder/NAME/             an ordinary run folder for each of them
    folder/student.safetensors, comparison.png, ...   of the chosen run, so that verbs accept the folder as a run

Finished runs are skipped, the one that was interrupted continues, the others begin.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.base.interrupts import Interrupted, StopRequest, resume_command, signal_handlers
from compressor.training.run_folder import FACTS, LOG, lock_run
from srkd.record.result import CompressReport
from srkd.record.run_file import PlannedRun, PlannedRuns, RunFile, find_run_file, read_run_file, write_run_file
from srkd.record.run_spec import RunSpec
from srkd.runs.on_ray import ray_slots
from srkd.runs.run import STOPPING, new_run_file, train
from srkd.runs.second import decide_second, summarise_second
from srkd.runs.trials import require_same_batches, summarise_trials
from srkd.runs.workers import BegunRun, SideBySide, local_slots


@dataclass(frozen=True)
class RunPlan:
    """The runs of a folder whose run.json holds `contents`."""

    folder: Path
    contents: RunFile
    context: Context
    accept_changed_code: bool = False

    @property
    def planned(self) -> PlannedRuns:
        assert self.contents.trials is not None
        return self.contents.trials

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        return self.planned.runs

    @property
    def is_two_recipes(self) -> bool:
        """Whether the runs are those of `--then`, not trials that are compared."""
        return self.contents.options.training.then is not None

    def train(self) -> CompressReport:
        group, results, how = self.context.processes, list[RunFile](), self.contents.options.run
        group.from_leader(lambda: write_run_file(self.folder, self.contents))
        stop = group.stop_request
        stop.acknowledge = lambda: self.context.note(STOPPING)
        with signal_handlers(stop.handlers):
            if how.is_side_by_side:
                self._train_side_by_side(stop)
            for number, run in enumerate(self.runs, start=1):
                title = f"run {number} of {len(self.runs)}"
                results.append(self._finish(run, title, results))
                if not self.is_two_recipes:
                    group.from_leader(lambda: require_same_batches(self.folder, self.planned, len(results)))
                if number < len(self.runs) and any(group.gather_objects(stop.received)):
                    raise Interrupted(f"interrupted after {title}; continue with: {resume_command(self.folder)}")
        shown = group.from_leader(lambda: self._summarise(results))
        assert shown.result is not None
        return shown.result

    def _summarise(self, results: Sequence[RunFile]) -> RunFile:
        """Write the contents of run.json with the result, after the files that the folder shows."""
        if self.is_two_recipes:
            report, shown, files = summarise_second(self.folder, self.planned, results)
        else:
            report, shown, files = summarise_trials(self.folder, self.planned, results)
        for name, source in files.items():
            if source.is_file():
                with atomic_path(self.folder / name) as temporary:
                    shutil.copyfile(source, temporary)
        finished = shown.updated(
            options=self.contents.options,
            plan=self.contents.plan,
            trials=self.planned,
            recipe=report.recipe,
            result=report,
        )
        write_run_file(self.folder, finished)
        return finished

    def _spec_of(self, run: PlannedRun, results: Sequence[RunFile]) -> RunSpec:
        """The run's spec; that of a second recipe is decided when its turn comes, or was when it began."""
        if run.spec is not None:
            return run.spec

        def decided() -> RunSpec:
            began = find_run_file(self.folder / run.name)
            if began is not None:
                return began.spec
            return decide_second(self.folder, self.contents, results[-1], self.context)

        return self.context.processes.from_leader(decided)

    def _finish(self, run: PlannedRun, title: str, results: Sequence[RunFile]) -> RunFile:
        """Start or continue a run unless it is finished, and return its run.json."""
        group, folder = self.context.processes, self.folder / run.name
        began = group.from_leader(lambda: _read_or_discard(folder))
        if began is not None and began.is_finished:
            if not self.contents.options.run.is_side_by_side:
                self.context.note(f"{title}: {run.title} (finished before)")
            return began
        self.context.note(f"{title}: {run.title}")

        def progress(work: str, done: int, total: int) -> None:
            self.context.progress(f"{title}: {work}", done, total)

        titled = replace(self.context, progress=progress)
        try:
            with lock_run(folder, titled):
                train(
                    self._spec_of(run, results),
                    folder,
                    titled,
                    part_of=self.folder,
                    accept_changed_code=self.accept_changed_code,
                )
        except Interrupted as error:
            raise Interrupted(f"{title}: {error}") from error
        return group.from_leader(lambda: read_run_file(folder))

    def _train_side_by_side(self, stop: StopRequest) -> None:
        """Begin all runs, and let workers train those that are not finished."""
        how, resume = self.contents.options.run, resume_command(self.folder)
        begun = [
            self._begin(run, run.spec, number)
            for number, run in enumerate(self.runs, start=1)
            if run.spec is not None and not self._is_finished(run)
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
            line = f"interrupted: {done} of {len(self.runs)} runs are done; continue with: {resume}"
            raise Interrupted(line) from error
        if training.failures:
            (title, reason), *others = training.failures.items()
            log = next(run.folder for run in begun if run.title == title) / LOG
            also = "".join(f"; {title} failed too" for title, _ in others)
            raise SrkdError(
                f"{len(training.failures)} of {len(self.runs)} runs failed: {title}: {reason} ({log}){also}; "
                f"the others are done; continue with: {resume}"
            )

    def _begin(self, run: PlannedRun, spec: RunSpec, number: int) -> BegunRun:
        """Write the run.json of a run, from which a worker trains it, unless it has begun before."""
        folder = self.folder / run.name
        with lock_run(folder, self.context):
            if _read_or_discard(folder) is None:
                write_run_file(folder, new_run_file(spec))
        return BegunRun(
            title=f"run {number} of {len(self.runs)}: {run.title}",
            folder=folder,
            steps=sum(stage.schedule.steps for stage in spec.preset.stages(spec.preset.build_methods())),
            job={
                "run": str(folder.resolve()),
                "plan": str(self.folder),
                "accept_changed_code": self.accept_changed_code,
            },
        )

    def _is_finished(self, run: PlannedRun) -> bool:
        contents = find_run_file(self.folder / run.name) if self.context.processes.is_leader else None
        return contents is not None and contents.is_finished


def _read_or_discard(run: Path) -> RunFile | None:
    """run.json of a run of a plan that was started. A folder without one is deleted; return None."""
    if (run / FACTS).is_file():
        return read_run_file(run)
    if run.is_dir():
        shutil.rmtree(run)
    return None
