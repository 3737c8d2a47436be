"""`srkd compress`: start or continue a run or a plan of runs; from the config on, both take the same path."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.base.context import Context, Note
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import require_writable_folder
from compressor.base.machine import count_threads, machine_facts, torch_threads, usable_cores
from compressor.base.processes import Rank
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import ImageModel
from compressor.training.distributed import open_processes
from compressor.training.run_folder import FACTS, require_new
from compressor.training.run_lock import lock_run
from compressor.training.trackers import require_trackers
from recipes.config.by_class import is_open_class
from recipes.config.reading import recipe_label
from srkd.options.compress import CompressOptions
from srkd.options.degradation import measured
from srkd.options.models import ModelFile, file_of, refuse_file_options
from srkd.options.option import from_json, to_json
from srkd.options.sweep import points
from srkd.record.result import CompressReport
from srkd.record.run_file import MachineFacts, RunFile, find_run_file, read_run_file, write_run_file
from srkd.runs.code import require_same_files
from srkd.runs.config import RunConfig, SharedInputs
from srkd.runs.run import read_unfinished, train_run
from srkd.runs.targeted import check_target, plan_student, refuse_contradictions
from srkd.runs.then import Then
from srkd.runs.trials import Trials


def run_compress(options: CompressOptions, context: Context) -> CompressReport:
    """Train a student of a teacher by a recipe; no teacher means the embedded one, no data the embedded photos.

    `with_baseline` also trains the same student on the same batches without distillation; `seeds` repeats it all. A
    teacher that is an open network is written beside the run folder (`small-teacher.safetensors` beside `small`), so
    that the run can be continued, and profiled against it. `recipe` may be a method of one's own, `SobelKD(lam=0.1)`.

        >>> report = srkd.compress("edsr.pt", data="photos", width=0.5, steps=2000, out="runs/small")
    """
    path, options = options.run.folder, with_measured_degradation(with_worker_threads(options), context.note)
    for point in points(options):
        refuse_contradictions(point.options)
    with _all_processes(context) as context, _teacher_file(options, context) as options:
        group = context.processes
        restarts = max(group.gather_objects(group.rank.restarts))
        if restarts > 0 and group.broadcast(_holds_run_of(path, options)):
            context.note(f"started again by torchrun: continuing {path}")
            return _resume(path, context, ResumeOptions())
        group.run_on_all(lambda: require_new(path) if group.is_leader else None)
        with lock_run(path, context):
            return _run(options, context)


@contextmanager
def _teacher_file(options: CompressOptions, context: Context) -> Iterator[CompressOptions]:
    """Yield options whose teacher is a file: an open network is written beside the run folder.

    If no run is written, the file is removed.
    """
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

    file, is_new = group.broadcast(group.run_on_all(lambda: write() if group.is_leader else None))
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
    """Continue a run with all of its processes."""
    with _all_processes(context) as context:
        return _resume(run, context, given)


def _resume(run: Path, context: Context, given: ResumeOptions) -> CompressReport:
    began = read_unfinished(run, context.processes)  # refuse other folders before they are locked
    if given.recipe is not None:
        recipe, recorded = CompressOptions.of(recipe=given.recipe).training.recipe, began.request.get("recipe")
        if recipe != recorded:
            raise SrkdError(f"--resume {run}: its recipe is {recorded}, not {recipe}: give that, or start a new run")
    with lock_run(run, context, "--resume"):
        _require_recorded_files(run, context, accepted=given.accept_changed_code)
        began = read_unfinished(run, context.processes)
        plan = None if began.plan is None else began.plan.model_dump(mode="json")
        decided = {"out": run, "plan": plan, "accept_changed_code": given.accept_changed_code}
        options = from_json(CompressOptions, began.request, f"--resume {run}", **decided)
        if (given.jobs, given.on) != (None, None):
            options = dataclasses.replace(options, run=dataclasses.replace(options.run, jobs=given.jobs, on=given.on))
            refuse_side_by_side(options)
        with _threads_of(began, context.note):
            return _run(options, context, began)


def continue_planned(
    run: Path,
    plan: Path,
    context: Context,
    inputs: SharedInputs,
    *,
    accept_changed_code: bool = False,
    wait_seconds: float = 0.0,
) -> None:
    """Continue a run of a plan to its end, in a process of its own; a finished run stays as it is.

    `wait_seconds` is the time for another process to leave the run: one whose machine was lost may still have its lock.
    """
    with lock_run(run, context, "--resume", wait_seconds=wait_seconds):
        _require_recorded_files(run, context, accepted=accept_changed_code)
        began = read_run_file(run)
        if began.is_finished:
            return
        decided = {"out": run, "accept_changed_code": accept_changed_code}
        options = from_json(CompressOptions, began.request, f"--resume {plan}", **decided)
        with _threads_of(began, context.note):
            config = RunConfig.decide(options, context, began=began, inputs=inputs)
            train_run(config, context, began=began, part_of=plan)


def _require_recorded_files(run: Path, context: Context, *, accepted: bool) -> None:
    """Refuse files of the user with which neither the run nor a run of the plan trained, before they are imported."""
    group = context.processes

    def check() -> None:
        if group.is_leader and not accepted:
            files = [find_run_file(folder) for folder in (run, *sorted(run.iterdir())) if folder.is_dir()]
            codes = [file.code for file in files if file is not None and file.code is not None]
            require_same_files(codes, f"--resume {run}")

    group.run_on_all(check)


@contextmanager
def _threads_of(began: RunFile, note: Note) -> Iterator[None]:
    """Compute with the run's original number of threads: another number adds in another order and gives other bytes.

    A note names a changed processor, GPU or version of torch, which cannot be restored.
    """
    machine, now = began.machine, MachineFacts.model_validate(machine_facts())
    before, threads = torch.get_num_threads(), machine.torch_threads
    processor = "gpu" if (began.device or "cpu").startswith("cuda") else "cpu"
    compared = {name: (getattr(machine, name), getattr(now, name)) for name in (processor, "torch")}
    changes = [f"{name} {old}, now {new}" for name, (old, new) in compared.items() if old not in (None, new)]
    if changes:
        note(
            "the result may differ in its bytes from that of a run that never stopped: "
            f"it began on {'; '.join(changes)}"
        )
    if threads is None or threads < 1 or threads == before:
        yield
        return
    note(f"continuing with {count_threads(threads)}, as the run began, not {before}: the bytes depend on the number")
    with torch_threads(threads):
        yield


def _run(options: CompressOptions, context: Context, began: RunFile | None = None) -> CompressReport:
    """Start the run of the options or, with the run.json of a run that `began`, continue that."""
    require_trackers(options.run.track)
    with torch_threads(options.run.threads):
        if began is None and options.target.is_given:
            options = plan_student(options, context)
        return _with_target(_train(options, context, began), options, context)


def refuse_side_by_side(options: CompressOptions) -> None:
    """Refuse workers for a single run, and under torchrun."""
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


def with_worker_threads(options: CompressOptions) -> CompressOptions:
    """Options with the threads of each worker, if runs are trained side by side and none were given."""
    refuse_side_by_side(options)
    run = options.run
    if not run.is_side_by_side or run.threads is not None:
        return options
    threads = 1 if run.on is not None else max(1, (usable_cores() or 1) // (run.jobs or 1))
    return dataclasses.replace(options, run=dataclasses.replace(run, threads=threads))


def with_measured_degradation(options: CompressOptions, note: Note) -> CompressOptions:
    """Options with the steps that were measured in place of --degrade like:DIR: a continued run does not measure."""
    text = measured(options.data.degrade, note)
    if text == options.data.degrade:
        return options
    return dataclasses.replace(options, data=dataclasses.replace(options.data, degrade=text))


def _train(options: CompressOptions, context: Context, began: RunFile | None) -> CompressReport:
    """Train one run, or those of a plan."""
    if options.training.then is not None:
        return Then(options, context).train()
    if options.is_compared:
        return Trials.decide_points(options, context, began).train()
    return train_run(RunConfig.decide(options, context, began=began), context, began=began)


def _with_target(report: CompressReport, options: CompressOptions, context: Context) -> CompressReport:
    """Time the file of a finished student if a target decided it, and write the result to run.json."""
    if options.plan is None or not context.processes.is_leader:
        return report
    target = check_target(report.student_path, options, context)
    write_run_file(report.run, read_run_file(report.run).changed(target=target))
    return dataclasses.replace(report, target=target)


@contextmanager
def _all_processes(context: Context) -> Iterator[Context]:
    """Join the processes that torchrun started; only the leading one reports progress and notes."""
    with open_processes(Rank.from_environment()) as group:
        yield dataclasses.replace(context, processes=group) if group.is_leader else Context(processes=group)


def _holds_run_of(run: Path, options: CompressOptions) -> bool:
    """Whether the folder holds a run of these options."""
    try:
        return read_run_file(run).request == to_json(options)
    except SrkdError:
        return False
