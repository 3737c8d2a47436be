"""`srkd compress`: a run or a plan of runs begins or continues; from its run.json on, both take the same path."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compressor.base.context import Context, Progress, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import require_writable_folder
from compressor.base.interrupts import StopRequest
from compressor.base.machine import torch_threads, usable_cores
from compressor.base.processes import Processes, Rank
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import ImageModel
from compressor.training.distributed import open_processes
from compressor.training.run_folder import FACTS, STUDENT, lock_run, require_new
from compressor.training.trackers import import_wandb
from recipes.config.by_class import find_method, is_open_class
from recipes.config.reading import recipe_label
from srkd.options.compress import CompressOptions
from srkd.options.degradation import measured
from srkd.options.models import ModelFile, file_of, refuse_file_options
from srkd.record.result import CompressReport
from srkd.record.run_file import RunFile, find_run_file, read_run_file, read_spec_file, write_run_file
from srkd.runs.code import require_same_files
from srkd.runs.decide import decide
from srkd.runs.plan import RunPlan
from srkd.runs.run import new_run_file, train
from srkd.runs.second import plan_two_recipes
from srkd.runs.target import check_target
from srkd.runs.trial_steps import decide_for_minutes
from srkd.runs.trials import plan_trials


def run_compress(options: CompressOptions, context: Context) -> CompressReport:
    """Train a student of a teacher by a recipe; no teacher means the embedded one, no data the embedded photos.

    `with_baseline` also trains the same student on the same batches without distillation; `seeds` repeats it all. A
    teacher that is an open network is written beside the run folder (`small-teacher.safetensors` beside `small`), so
    that the run can be continued, and profiled against it. `recipe` may be a method of one's own, `SobelKD(lam=0.1)`.

        >>> report = srkd.compress("edsr.pt", data="photos", width=0.5, steps=2000, out="runs/small")
    """
    folder = options.run.folder
    if "wandb" in options.run.track:
        import_wandb()  # before any work is done
    with _all_processes(context) as context, _teacher_file(options, context) as options:
        group = context.processes
        restarts = max(group.gather_objects(group.rank.restarts))
        if restarts > 0 and group.broadcast((folder / FACTS).is_file()):
            context.note(f"started again by torchrun: continuing {folder}")
            return _resume(folder, context, ResumeOptions())
        group.from_leader(lambda: require_new(folder))
        with lock_run(folder, context):
            return _train(folder, group.from_leader(lambda: begin(options, context)), context)


def run_spec(file: Path, folder: Path, context: Context) -> CompressReport:
    """Train what another run's run.json decided (the file, or its folder), in a folder of its own."""

    def begin_again() -> RunFile:
        require_new(folder)
        contents = read_spec_file(file)
        return new_run_file(contents.spec, trials=contents.trials)

    with _all_processes(context) as context:
        contents = context.processes.from_leader(begin_again)
        with lock_run(folder, context):
            return _train(folder, contents, context)


def begin(options: CompressOptions, context: Context) -> RunFile:
    """run.json of a new run, or of a plan of runs: all that is decided before the first step."""
    refuse_side_by_side(options)
    run, training = options.run, options.training
    if run.is_side_by_side and run.threads is None:
        threads = 1 if run.on is not None else max(1, (usable_cores() or 1) // (run.jobs or 1))
        run = dataclasses.replace(run, threads=threads)
    # What was measured stands in place of --degrade like:DIR: a continued run does not measure.
    degrade = measured(options.data.degrade, context)
    options = dataclasses.replace(options, run=run, data=dataclasses.replace(options.data, degrade=degrade))
    with torch_threads(run.threads):
        if training.then is not None:
            return plan_two_recipes(options, context)
        if options.is_compared:
            return plan_trials(options, context)
        decided = decide if training.minutes is None else decide_for_minutes
        return new_run_file(decided(options, context))


def _train(folder: Path, contents: RunFile, context: Context, *, accept_changed_code: bool = False) -> CompressReport:
    """Train the run or the plan of `contents` to its end; a target's student is timed then."""
    if contents.trials is None:
        report = train(contents.spec, folder, context, accept_changed_code=accept_changed_code)
    else:
        report = RunPlan(folder, contents, context, accept_changed_code).train()
    if contents.plan is None or not context.processes.is_leader:
        return report
    target = check_target(report.student_path, contents.spec, context)
    write_run_file(folder, read_run_file(folder).updated(target=target))
    return dataclasses.replace(report, target=target)


@contextmanager
def _teacher_file(options: CompressOptions, context: Context) -> Iterator[CompressOptions]:
    """Yield options whose teacher is a file: an open network is written beside the run folder, while there is one."""
    teacher, run, group = options.teacher.teacher, options.run.folder.resolve(), context.processes
    if not isinstance(teacher, ImageModel):
        yield options
        return
    refuse_file_options(options.teacher.scale, options.teacher.arch_options)
    path = run.with_name(f"{run.name}-teacher.safetensors")

    def write() -> tuple[ModelFile, bool]:
        require_writable_folder(options.run.folder, "--out")
        if path.exists() and teacher.network is not None:
            if load_checkpoint(path).network.fingerprint() != teacher.network.fingerprint():
                raise SrkdError(
                    f"{path} holds another network, and the teacher would be written there: choose another out"
                )
            return ModelFile(path), False
        file = file_of(teacher, path)
        if file.path == path:
            context.note(f"teacher: written to {path}")
        return file, file.path == path

    file, is_new = group.from_leader(write)
    try:
        given = dataclasses.replace(options.teacher, teacher=file.path, arch_options=file.options)
        yield dataclasses.replace(options, teacher=given)
    finally:
        if is_new and group.is_leader and not (run / FACTS).exists():
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class ResumeOptions:
    """What may be given when a run is continued; all else is as it began.

    `recipe` is its method, if no file holds that. From now on `jobs` processes, or those of the cluster `on`, train the
    runs of a plan.
    """

    accept_changed_code: bool = False
    recipe: object = None
    jobs: int | None = None
    on: str | None = None


def run_resume(run: Path, context: Context, given: ResumeOptions) -> CompressReport:
    with _all_processes(context) as context:
        return _resume(run, context, given)


def _resume(run: Path, context: Context, given: ResumeOptions) -> CompressReport:
    from_leader = context.processes.from_leader  # the only process that needs the folder
    began = from_leader(lambda: _read_unfinished(run))  # refuse other folders before they are locked
    if given.recipe is not None:
        recipe, recorded = CompressOptions.of(recipe=given.recipe).training.recipe, began.options.training.recipe
        if recipe != recorded:
            raise SrkdError(f"--resume {run}: its recipe is {recorded}, not {recipe}: give that, or start a new run")
    if is_open_class(began.options.training.recipe):
        find_method(began.options.training.recipe)  # refuses one whose program is not running
    with lock_run(run, context, "--resume"):
        _require_recorded_files(run, context, accepted=given.accept_changed_code)
        began = from_leader(lambda: _read_unfinished(run))
        if (given.jobs, given.on) != (None, None):
            options = began.options
            options = dataclasses.replace(options, run=dataclasses.replace(options.run, jobs=given.jobs, on=given.on))
            refuse_side_by_side(options)
            began = began.updated(options=options)
        return _train(run, began, context, accept_changed_code=given.accept_changed_code)


def _read_unfinished(run: Path) -> RunFile:
    """run.json of a run that can be continued."""
    began = read_run_file(run)
    if began.is_finished:
        raise SrkdError(f"--resume {run}: the run is finished; its student is {run / STUDENT}")
    return began


class RunWorker:
    """A process that trains runs of plans, one after another: it reads teacher and images once for all of its runs."""

    def __init__(self, progress: Progress = no_progress) -> None:
        self.context = Context()

    def train(self, run: str, plan: str, accept_changed_code: bool, wait_seconds: float = 0.0) -> None:
        """Continue a run that its plan has begun; before its first step and after its last one, SIGTERM ends the
        process at once. `wait_seconds`: for the lock of a process whose machine was lost.
        """
        processes, folder = Processes(), Path(run)
        # Ctrl-C in a terminal reaches this process, and its parent sends SIGTERM: the second one must do nothing.
        processes.stop_request = StopRequest(launched=True)
        context = dataclasses.replace(self.context, processes=processes)
        with lock_run(folder, context, "--resume", wait_seconds=wait_seconds):
            _require_recorded_files(folder, context, accepted=accept_changed_code)
            began = read_run_file(folder)
            if not began.is_finished:
                train(began.spec, folder, context, part_of=Path(plan), accept_changed_code=accept_changed_code)


def _require_recorded_files(run: Path, context: Context, *, accepted: bool) -> None:
    """Refuse files of the user with which neither the run nor a run of the plan trained, before they are imported."""

    def check() -> None:
        files = [find_run_file(folder) for folder in (run, *sorted(run.iterdir())) if folder.is_dir()]
        codes = [file.code for file in files if file is not None and file.code is not None]
        require_same_files(codes, f"--resume {run}")

    if not accepted:
        context.processes.from_leader(check)


def refuse_side_by_side(options: CompressOptions) -> None:
    run = options.run
    if not run.is_side_by_side:
        return
    flag = f"--jobs {run.jobs}" if run.on is None else f"--on {run.on}"
    if run.on is not None and run.jobs is not None:
        raise UsageError(f"{flag}: the cluster decides how many runs it trains at once; leave out --jobs {run.jobs}")
    if not options.is_compared:
        raise UsageError(f"{flag}: there is one run; add --seeds, --sweep or --with-baseline")
    if Rank.from_environment().world_size > 1:
        raise UsageError(f"{flag} starts its processes itself: start it without torchrun")
    if is_open_class(options.training.recipe):
        name = recipe_label(options.training.recipe)
        raise UsageError(f"{flag}: other processes cannot import {name}: put it into a file, mine.py:{name}")


@contextmanager
def _all_processes(context: Context) -> Iterator[Context]:
    """Join the processes that torchrun started; only the leading one reports progress and notes."""
    with open_processes(Rank.from_environment()) as group:
        yield dataclasses.replace(context, processes=group) if group.is_leader else Context(processes=group)
