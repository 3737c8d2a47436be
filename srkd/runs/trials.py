"""Plans of runs: a recipe and its baselines over several seeds, which can be continued after any interruption.

The folder of a plan holds run.json, a run folder for each trial, and the recipe's best student by validation.

A baseline is the same student without distillation, from random weights, from a slice of the teacher and, if the recipe
starts from a fit, from the same fit. It is an ordinary run with the recipe's whole schedule, its student, seed, images
and device, with L1 to the ground truth as the only loss.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from compressor.base.choices import Init
from compressor.base.context import Context, Note, no_note
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path
from compressor.base.interrupts import Interrupted, StopRequest, catch_signals
from compressor.base.machine import machine_facts
from compressor.models.students.students import student_cuts, student_text
from compressor.training.events import Reference
from compressor.training.run_files import read_metrics
from compressor.training.run_folder import (
    JOINT_TEACHER,
    SHEET,
    STUDENT,
)
from recipes.config.reading import load_preset
from srkd.options.declare import to_json
from srkd.options.verbs import CompressOptions
from srkd.record.result import CompressReport
from srkd.record.run_file import (
    MachineFacts,
    PlannedRuns,
    RunFile,
    TrainingMode,
    read_run_file,
    write_run_file,
)
from srkd.record.trials import Outcome, SameBatches, TrialsReport
from srkd.runs.config import RunConfig, schedule_settings
from srkd.runs.run import STOPPING, phi_entry, plan_entry, read_or_discard_started, train_part
from srkd.version import __version__

TOP_FILES = (STUDENT, SHEET, JOINT_TEACHER)
"""Files of the chosen trial that are copied to the plan's folder, so that verbs accept it as a run folder."""

PIXEL_ONLY = frozenset({"scratch", "inherit"})
"""Methods whose only loss is L1 to the ground truth; they differ in the student's start."""

HASHES = ("batches", "first_pixels")
"""Keys of hashes of the batches in a row of metrics.jsonl."""


@dataclass(frozen=True)
class Trial:
    """One run of the plan: the recipe or a baseline, with one seed."""

    variant: str
    options: CompressOptions

    @property
    def folder(self) -> Path:
        return self.options.run_folder

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Trials:
    """A plan of runs; `config` is that of the recipe with the first seed."""

    config: RunConfig
    context: Context

    @property
    def folder(self) -> Path:
        return self.config.options.run_folder

    @cached_property
    def plan(self) -> tuple[Trial, ...]:
        """Return the trials seed by seed, so that a plan that is stopped early has pairs to compare."""
        options = self.config.options
        variants = {self.config.recipe: options}
        if options.with_baseline:
            variants |= baselines(self.config, self.context.note)
        return tuple(
            Trial(
                variant,
                dataclasses.replace(
                    chosen, seed=seed, with_baseline=False, seeds=1, out=self.folder / f"{variant}-seed{seed}"
                ),
            )
            for seed in range(options.seed, options.seed + options.seeds)
            for variant, chosen in variants.items()
        )

    def run(self) -> CompressReport:
        """Run the unfinished trials, and return the report from the run.json files of all trials."""
        plan = self.plan
        write_run_file(self.folder, self._facts())
        results: list[RunFile] = []
        batches: dict[int, SameBatches] = {}
        with catch_signals(StopRequest(acknowledge=lambda: self.context.note(STOPPING))) as stop:
            for number, trial in enumerate(plan, start=1):
                title = f"run {number} of {len(plan)}"
                self._complete(trial, title, results, runs_left=len(plan) - number + 1)
                results.append(read_run_file(trial.folder))
                seed = trial.options.seed
                batches[seed] = compare_batches(seed, [t.folder for t in plan[:number] if t.options.seed == seed])
                if number < len(plan) and stop.received:
                    raise Interrupted(f"interrupted after {title}; continue with: srkd compress --resume {self.folder}")
        return self._finish(results, tuple(batches.values()))

    def _complete(self, trial: Trial, title: str, results: Sequence[RunFile], *, runs_left: int) -> None:
        """Start or continue a trial; skip a finished one."""
        line = f"{title}: {trial.variant}, seed {trial.options.seed}"
        began = read_or_discard_started(trial.folder)
        if began is not None and began.is_finished:
            self._require_same_inputs(began, trial)
            self.context.note(f"{line} (finished before)")
            return
        self.context.note(line)
        decide = partial(self._decide, trial, results)
        train_part(title, trial.folder, decide, self.context, began=began, plan=self.folder, runs_left=runs_left)

    def _decide(self, trial: Trial, results: Sequence[RunFile], context: Context) -> RunConfig:
        """Decide a trial with the teacher, images and mode of the plan, and the scores of its first result."""
        quiet, plan = dataclasses.replace(context, note=no_note), self.config
        config = RunConfig.decide(trial.options, quiet, shared=plan)
        if config.preset.with_own_rate().schedule != plan.preset.with_own_rate().schedule:
            raise SrkdError(f"{trial.variant} would not run the recipe's schedule: this is a fault of srkd")
        if config.student.spec != plan.student.spec:
            raise SrkdError(f"{trial.variant} would not train the recipe's student: this is a fault of srkd")
        if not results:
            return config
        # The first trial has measured bicubic and the teacher, which are the same for all.
        first = results[0].result
        assert first is not None
        teacher_psnr_y = None if first.teacher is None else first.teacher.psnr_y
        return dataclasses.replace(config, reference=Reference(first.bicubic.psnr_y, teacher_psnr_y))

    def _require_same_inputs(self, before: RunFile, trial: Trial) -> None:
        """Refuse to continue a plan if a finished trial had other images or another teacher."""
        teacher = self.config.teacher
        origin = None if teacher is None else teacher.origin
        old_digest = None if before.data is None else before.data.digest
        old_sha256 = None if before.teacher is None else before.teacher.sha256
        compared = {
            "data": (old_digest, self.config.data.train.digest()),
            "teacher": (old_sha256, None if origin is None else origin.sha256),
        }
        for key, (old, new) in compared.items():
            if old != new:
                raise SrkdError(
                    f"--resume {self.folder}: its {key} is not what it was when {trial.name} ran "
                    "(run.json has it); put it back, or start a new run"
                )

    def _facts(self) -> RunFile:
        """Return run.json of the plan, with all that `--resume` needs."""
        options = self.config.options
        return RunFile(
            srkd_version=__version__,
            machine=MachineFacts.model_validate(machine_facts()),
            request=to_json(options),
            plan=plan_entry(options),
            execution_mode=TrainingMode(**dataclasses.asdict(self.config.mode)),
            phi=phi_entry(self.config),
            trials=PlannedRuns(
                runs=tuple(trial.name for trial in self.plan),
                with_baseline=options.with_baseline,
                seeds=options.seeds,
            ),
        )

    def _finish(self, results: Sequence[RunFile], batches: Sequence[SameBatches]) -> CompressReport:
        """Copy the chosen student and its facts to the plan's folder, which is then like any run folder."""
        outcomes = []
        for trial, contents in zip(self.plan, results, strict=True):
            result = contents.result
            assert result is not None
            seed, psnr_y = trial.options.seed, result.student.psnr_y
            outcomes.append(Outcome(trial.name, trial.variant, seed, psnr_y, result.seconds))
        trials = TrialsReport.of(outcomes, batches)
        chosen = results[outcomes.index(trials.chosen)]
        for name in TOP_FILES:
            source = self.folder / trials.chosen.run / name
            if source.is_file():
                with atomic_path(self.folder / name) as temporary:
                    shutil.copyfile(source, temporary)
        assert chosen.result is not None
        report = dataclasses.replace(
            chosen.result,
            run=self.folder,
            student_path=self.folder / STUDENT,
            seconds=sum(outcome.seconds for outcome in trials.runs),
            trials=trials,
        )
        write_run_file(self.folder, chosen.updated(self._facts()).changed(result=report))
        return report


# Baselines.


def baselines(config: RunConfig, note: Note) -> dict[str, CompressOptions]:
    """Return the options of each baseline by its name, without those that equal the recipe or are impossible."""
    options = config.options
    if config.data.train.hr is None:
        raise UsageError(
            "--with-baseline: without HR images the teacher is the only label, and nothing can be trained without it"
        )
    if config.cache is not None and any(view.shrink > 1 for view in config.cache.views):
        raise UsageError(
            "--with-baseline: the teacher cache of this recipe moves patches to other places than the baselines'; "
            "leave out --teacher-cache"
        )
    starts = ["scratch"]
    obstacle = _cutting_obstacle(config)
    if obstacle is None:
        starts.append("inherit")
    else:
        note(f"--with-baseline: only from random weights, not inherited: {obstacle}")
    if config.student_init.init == "fit":
        starts.append("fit")
    if options.init_from is not None:
        starts.append("init-from")
    if {rule.name for rule in config.preset.methods} <= PIXEL_ONLY:
        names = {"random": "scratch", "inherit": "inherit", "fit": "fit"}
        recipe_start = "init-from" if options.init_from is not None else names[config.student_init.init]
        starts = [start for start in starts if start != recipe_start]
    if not starts:
        raise UsageError(
            f"--with-baseline: recipe {options.recipe} from these weights is itself the only baseline there is; "
            "leave it out, or name a teacher to cut the student from"
        )
    return {
        f"{start}-baseline" if start == config.recipe else start: _baseline_options(start, config) for start in starts
    }


def _cutting_obstacle(config: RunConfig) -> str | None:
    """Return why no student of this shape can be cut from the teacher; None if it can."""
    teacher = config.teacher
    if teacher is None:
        return "there is no teacher"
    if teacher.network is None:
        return f"the {teacher.backend} teacher gives outputs only"
    try:
        student_cuts(teacher.network.spec, config.student.spec)
    except SrkdError as error:
        return str(error)
    return None


def _baseline_options(start: str, config: RunConfig) -> CompressOptions:
    """Return the recipe's options with only the methods and the starting weights changed."""
    options, teacher, student, rule = config.options, config.teacher, config.student_init, config.preset.student
    has_spec = options.student is not None
    inits: Mapping[str, Init] = {"scratch": "random", "inherit": "inherit", "fit": "fit", "init-from": student.init}
    init = inits[start]
    # Every field is set, so that the baseline's preset changes none of them.
    schedule = dict(sorted(config.preset.schedule.model_dump(mode="json").items()))
    if start == "fit" and not schedule_settings(options) & {"rate", "fit_rate"}:
        # L1 alone needs a lower rate than most methods: with theirs it would end below its best quality.
        schedule["fit_rate"] = load_preset("scratch").schedule.fit_rate
    return dataclasses.replace(
        options,
        recipe="inherit" if start == "inherit" else "scratch",
        teacher=teacher.origin.path if teacher is not None and teacher.origin is not None else None,
        width=None if has_spec else options.width or rule.width,
        depth=None if has_spec else options.depth or rule.depth,
        student=student_text(student.network.spec) if has_spec else None,
        init=init,
        select=student.select if init == "inherit" else None,
        init_from=options.init_from if start == "init-from" else None,
        steps=None,
        batch=None,
        lr_patch=None,
        rate=None,
        settings=tuple(f"schedule.{name}={json.dumps(value).strip(chr(34))}" for name, value in schedule.items()),
        teacher_cache=False,
        phi_weights=None,
    )


# Evidence that runs of one seed were trained on the same batches: hashes in the rows of their metrics.


def compare_batches(seed: int, runs: Sequence[Path]) -> SameBatches:
    """Compare the hashes that all runs have; a difference is an error, as a gain would have no meaning.

    A row that one run lacks, because a machine failed before it was on disk, is not compared.
    """
    hashes_of = {run.name: batch_hashes(run) for run in runs}
    (first, hashes), *others = hashes_of.items()
    shared = sorted(set(hashes).intersection(*(other for _, other in others)))
    for key in shared:
        for name, other in others:
            if other[key] != hashes[key]:
                step, kind = key
                raise SrkdError(
                    f"{first} and {name} did not see the same batches up to step {step} "
                    f"({kind} {hashes[key]} and {other[key]}): their difference would not be the recipe's"
                )
    if not shared:
        raise SrkdError(f"{', '.join(hashes_of)}: no metrics.jsonl row has hashes of batches to compare")
    digest = hashlib.blake2b("".join(hashes[key] for key in shared).encode(), digest_size=16).hexdigest()
    return SameBatches(seed, digest, len({step for step, _ in shared}), shared[-1][0], tuple(hashes_of))


def batch_hashes(run: Path) -> Mapping[tuple[int, str], str]:
    """Return the hashes of a run's metrics by step and kind."""
    hashes: dict[tuple[int, str], str] = {}
    for _, row in read_metrics(run):
        hashes.update({(row["step"], name): row[name] for name in HASHES if name in row})
    return hashes
