"""Plans of runs: the points of a sweep and their baselines over several seeds, continued after any interruption.

The folder of a plan holds run.json, a run folder for each trial, and the best student by validation, of no baseline.
Without a sweep there is one point, the recipe as it is.

A baseline is the same student without distillation, from random weights, from a slice of the teacher and, if the recipe
starts from a fit, from the same fit: L1 to the ground truth is the only loss. Beside a recipe that distils, `logits` is
one too, from the recipe's own first weights. A baseline is an ordinary run with the recipe's whole schedule, its
student, seed, images and device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from compressor.base.choices import BaselineName, Init
from compressor.base.context import Context, Note, no_note
from compressor.base.errors import SrkdError, UsageError
from compressor.degradation.names import NONE
from compressor.models.fitting.fit import require_solvable
from compressor.models.networks.slices import student_cuts
from compressor.models.students.students import student_text
from compressor.training.method import quantisation_of
from compressor.training.run_files import read_metrics
from compressor.training.run_folder import JOINT_TEACHER, SHEET, STUDENT
from recipes.catalogue import FOR_FILMS, PIXEL_ONLY
from recipes.config.reading import load_preset
from srkd.options.compress import CompressOptions
from srkd.options.sweep import Point, points
from srkd.record.result import CompressReport
from srkd.record.run_file import RunFile, TrainingMode, find_run_file
from srkd.record.trials import Outcome, SameBatches, TrialsReport
from srkd.runs.config import RunConfig, RunNetworks, SharedInputs, data_choice
from srkd.runs.recipe import (
    OFFSET_RATE,
    needs_teacher,
    offsets_of,
    repeats_published,
    schedule_settings,
)
from srkd.runs.run import margin_entry, phi_entry
from srkd.runs.run_plan import PlannedRun, RunPlan, in_folder

TOP_FILES = (STUDENT, SHEET, JOINT_TEACHER)
"""Files of the chosen trial that are copied to the plan's folder, so that verbs accept it as a run folder."""

HASHES = ("batches", "first_pixels")
"""Keys of hashes of the batches in a row of metrics.jsonl."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A point or a baseline: its label for a person, the name of its folders, its options, and the point's config."""

    label: str
    name: str
    options: CompressOptions
    config: RunConfig


@dataclass(frozen=True)
class Trial(PlannedRun):
    """A variant with one seed."""

    variant: Variant

    @property
    def seed(self) -> int:
        return self.options.training.seed


@dataclass(frozen=True)
class Trials(RunPlan):
    """The points of a sweep and their baselines over several seeds."""

    configs: tuple[RunConfig, ...]
    """The config of each point with the first seed; without a sweep that of the recipe."""

    @classmethod
    def decide_points(cls, options: CompressOptions, context: Context, began: RunFile | None = None) -> Trials:
        """Decide every point, so that a mistake in one shows before the first run; `began` is the plan's run.json."""
        group, inputs, configs = context.processes, SharedInputs(), list[RunConfig]()
        for point in points(options):
            if not point.name:
                configs.append(RunConfig.decide(point.options, context, began=began))
                continue
            (before,) = group.broadcast([_first_run(point) if group.is_leader else None])
            told = replace(context, note=no_note) if configs else context
            try:
                configs.append(RunConfig.decide(point.options, told, began=before, inputs=inputs))
            except SrkdError as error:
                if type(error) not in (SrkdError, UsageError):
                    raise
                raise type(error)(f"--sweep, at {point.label}: {error}") from error
        return cls(options, context, tuple(configs))

    @cached_property
    def points(self) -> tuple[Variant, ...]:
        return tuple(
            Variant(point.label or config.recipe, point.name or config.recipe, point.options, config)
            for point, config in zip(points(self.options), self.configs, strict=True)
        )

    @cached_property
    def baselines_of(self) -> Mapping[str, tuple[Variant, ...]]:
        """The baselines of each point, by its label. Points whose baselines have equal options share these."""
        if not self.options.run.has_baselines:
            return {point.label: () for point in self.points}
        wanted = {point.label: baselines(point.config, self.context.note) for point in self.points}
        found: list[Variant] = []
        chosen: dict[str, tuple[Variant, ...]] = {}
        for point in self.points:
            own = []
            for start, options in wanted[point.label].items():
                same = next((variant for variant in found if variant.options == options), None)
                if same is None:
                    is_shared = all(others.get(start) == options for others in wanted.values())
                    label, name = (start, start) if is_shared else (f"{start}, {point.label}", f"{start}-{point.name}")
                    found.append(same := Variant(label, name, options, point.config))
                own.append(same)
            chosen[point.label] = tuple(own)
        return chosen

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """The trials seed by seed, so that a plan that is stopped early has pairs to compare."""
        options, variants = self.options, dict[str, Variant]()
        for point in self.points:
            for variant in (point, *self.baselines_of[point.label]):
                variants.setdefault(variant.name, variant)
        return tuple(
            Trial(
                f"{variant.label}, seed {seed}",
                in_folder(
                    replace(variant.options, training=replace(variant.options.training, seed=seed)),
                    self.folder / f"{variant.name}-seed{seed}",
                ),
                variant,
            )
            for seed in range(options.training.seed, options.training.seed + options.run.seeds)
            for variant in variants.values()
        )

    @cached_property
    def compared(self) -> tuple[tuple[Trial, ...], ...]:
        """Trials that must see the same batches: those of a point and its baselines with one seed."""
        seeds = dict.fromkeys(trial.seed for trial in self.trials)
        return tuple(
            tuple(
                trial
                for trial in self.trials
                if trial.seed == seed and trial.variant in (point, *self.baselines_of[point.label])
            )
            for seed in seeds
            for point in self.points
        )

    def list_runs(self) -> tuple[Trial, ...]:
        return self.trials

    def decide(self, run: PlannedRun, results: Sequence[RunFile], context: Context, began: RunFile | None) -> RunConfig:
        """The config of a trial, with the teacher, images, validation and mode of its point."""
        quiet, point = replace(context, note=no_note), self._config_of(run)
        config = RunConfig.decide(run.options, quiet, shared=point, began=began)
        if config.preset.with_schedule(fit_rate=None).schedule != point.preset.with_schedule(fit_rate=None).schedule:
            raise SrkdError(f"{run.title} would not run the recipe's schedule: this is a fault of srkd")
        if config.student.spec != point.student.spec:
            raise SrkdError(f"{run.title} would not train the recipe's student: this is a fault of srkd")
        return config

    def require_same_inputs(self, run: PlannedRun, before: RunFile) -> None:
        """Refuse to continue a plan if a finished trial had other images or another teacher."""
        config = self._config_of(run)
        teacher = config.teacher
        origin = None if teacher is None else teacher.origin
        old_digest = None if before.data is None else before.data.digest
        old_sha256 = None if before.teacher is None else before.teacher.sha256
        compared = {
            "data": (old_digest, config.data.train.digest()),
            "teacher": (old_sha256, None if origin is None else origin.sha256),
        }
        for key, (old, new) in compared.items():
            if old != new:
                raise SrkdError(
                    f"--resume {self.folder}: its {key} is not what it was when {run.name} ran "
                    "(run.json has it); put it back, or start a new run"
                )

    @staticmethod
    def _config_of(run: PlannedRun) -> RunConfig:
        assert isinstance(run, Trial)
        return run.variant.config

    def require_comparable(self, results: Sequence[RunFile]) -> None:
        """Refuse trials that did not see the same batches as the newest one."""
        newest, finished = self.trials[len(results) - 1], self.trials[: len(results)]
        for trials in self.compared:
            if newest in trials:
                _same_batches([trial for trial in trials if trial in finished])

    def contents(self) -> RunFile:
        contents, (config, *others) = super().contents(), self.configs
        if others:
            return contents
        mode = TrainingMode(**asdict(config.mode))
        return contents.changed(execution_mode=mode, phi=phi_entry(config), label_margin=margin_entry(config))

    def copies(self, report: CompressReport) -> Mapping[str, Path]:
        assert report.trials is not None
        return {name: self.folder / report.trials.chosen.run / name for name in TOP_FILES}

    def summarise(self, results: Sequence[RunFile]) -> tuple[CompressReport, RunFile]:
        """The report of the trial that is best by validation, with the gains over all of them."""
        outcomes = []
        for trial, contents in zip(self.trials, results, strict=True):
            result = contents.result
            assert result is not None
            student = result.student
            outcomes.append(
                Outcome(
                    run=trial.name,
                    variant=trial.variant.label,
                    seed=trial.seed,
                    psnr_y=student.psnr_y,
                    seconds=result.seconds,
                    psnr_y_teacher=student.psnr_y_teacher,
                    cost=student.cost,
                )
            )
        group = self.context.processes
        batches = group.broadcast(
            group.run_on_all(lambda: [_same_batches(trials) for trials in self.compared] if group.is_leader else None)
        )
        names = {label: [variant.label for variant in found] for label, found in self.baselines_of.items()}
        trials = TrialsReport.of(outcomes, batches, self.configs[0].goal, baselines_of=names)
        chosen = results[outcomes.index(trials.chosen)]
        assert chosen.result is not None
        report = replace(
            chosen.result,
            run=self.folder,
            student_path=self.folder / STUDENT,
            seconds=sum(outcome.seconds for outcome in trials.runs),
            trials=trials,
        )
        return report, chosen


def _first_run(point: Point) -> RunFile | None:
    """run.json of the first run of a point, which keeps what was decided for it."""
    return find_run_file(point.options.run.folder / f"{point.name}-seed{point.options.training.seed}")


def _same_batches(trials: Sequence[Trial]) -> SameBatches:
    return compare_batches(trials[0].seed, [trial.folder for trial in trials])


# Baselines.


def baselines(networks: RunNetworks, note: Note) -> dict[str, CompressOptions]:
    """The options of each baseline by its name: those that were chosen, or the usual ones without those that equal the
    recipe or are impossible.
    """
    options = networks.options
    starts = list(options.run.baselines) or _usual_baselines(networks, note)
    for start in starts:
        _require_possible(start, networks)
    if not data_choice(options).has_labels:
        raise UsageError(
            "--with-baseline: without HR images the teacher is the only label, and nothing can be trained without it"
        )
    if set(networks.cached_views) - {"whole"}:
        raise UsageError(
            "--with-baseline: the teacher cache of this recipe moves patches to other places than the baselines'; "
            "leave out --teacher-cache"
        )
    return {
        f"{start}-baseline" if start == networks.recipe else start: _baseline_options(start, networks)
        for start in starts
    }


def _usual_baselines(networks: RunNetworks, note: Note) -> list[BaselineName]:
    """The baselines of `--with-baseline`."""
    options, starts = networks.options, list[BaselineName](["scratch"])
    obstacle = _cutting_obstacle(networks)
    if obstacle is None:
        starts.append("inherit")
    else:
        note(f"--with-baseline: only from random weights, not inherited: {obstacle}")
    if networks.student_init.init == "fit":
        starts.append("fit")
    if options.student.init_from is not None:
        starts.append("init-from")
    methods = {rule.name for rule in networks.preset.methods}
    if methods <= PIXEL_ONLY:
        names: Mapping[Init, BaselineName] = {"random": "scratch", "inherit": "inherit", "fit": "fit"}
        recipe_start = "init-from" if options.student.init_from is not None else names[networks.student_init.init]
        starts = list[BaselineName](start for start in starts if start != recipe_start)
    elif (
        needs_teacher(networks.methods)
        and methods - {FOR_FILMS} != {"logits"}
        and quantisation_of(networks.methods) is None
    ):
        starts.append("logits")
    if not starts:
        raise UsageError(
            f"--with-baseline: recipe {options.training.recipe} from these weights is itself the only baseline there "
            "is; leave it out, or name a teacher to cut the student from"
        )
    return starts


def _require_possible(start: BaselineName, networks: RunNetworks) -> None:
    """Refuse a baseline that cannot be trained with this student."""
    reason, teacher = None, networks.teacher
    if teacher is None and start in ("inherit", "fit", "logits"):
        reason = "there is no teacher"
    elif start == "inherit":
        reason = _cutting_obstacle(networks)
    elif start == "fit" and teacher is not None:
        try:
            require_solvable(teacher, networks.student.spec)
        except SrkdError as error:
            reason = str(error)
    if start == "init-from" and networks.options.student.init_from is None:
        reason = "there is no --init-from"
    if reason is not None:
        raise UsageError(f"--baselines {start}: {reason}")


def _cutting_obstacle(networks: RunNetworks) -> str | None:
    """Why no student of this shape can be cut from the teacher; None if it can."""
    teacher = networks.teacher
    if teacher is None:
        return "there is no teacher"
    if teacher.network is None:
        return f"the {teacher.backend} teacher gives outputs only"
    try:
        student_cuts(teacher.network.spec.deployed, networks.student.spec.deployed)
    except SrkdError as error:
        return str(error)
    return None


def _baseline_options(start: BaselineName, networks: RunNetworks) -> CompressOptions:
    """The recipe's options with only the methods and, but for logits, the starting weights changed."""
    options, teacher, student, rule = networks.options, networks.teacher, networks.student_init, networks.preset.student
    has_spec = options.student.student is not None
    inits: Mapping[BaselineName, Init] = {"scratch": "random", "inherit": "inherit", "fit": "fit"}
    init = inits.get(start, student.init)
    weights = [method.weights.get(FOR_FILMS, 0.0) for method in networks.methods if method.name == FOR_FILMS]
    calm = next((weight for weight in weights if isinstance(weight, float)), 0.0)
    is_cached, margin = options.training.teacher_cache, options.training.label_margin
    if margin is None and repeats_published(options.training.recipe):
        margin = 0
    # Every field is set, so that the baseline's preset changes none of them.
    schedule = dict(sorted(networks.preset.schedule.model_dump(mode="json").items()))
    if start == "fit" and not schedule_settings(options) & {"rate", "fit_rate"}:
        # L1 alone needs a lower rate than most methods: with theirs it would end below its best quality.
        share = OFFSET_RATE if offsets_of(student) else 1.0
        schedule["fit_rate"] = share * load_preset("scratch").schedule.rate_of(is_fitted=True)
    return replace(
        options,
        teacher=replace(
            options.teacher, teacher=teacher.origin.path if teacher is not None and teacher.origin is not None else None
        ),
        student=replace(
            options.student,
            width=None if has_spec else options.student.width or rule.width,
            depth=None if has_spec else options.student.depth or rule.depth,
            student=student_text(student.network.spec) if has_spec else None,
            init=init,
            select=student.select if init == "inherit" else None,
            init_from=options.student.init_from if start in ("init-from", "logits") else None,
        ),
        data=replace(
            options.data,
            labels=options.data.labels if start == "logits" else "original",
            degrade_once=options.data.degrade_once or (is_cached and options.data.degrade != NONE),
        ),
        training=replace(
            options.training,
            calm=calm if start == "logits" else 0.0,
            recipe=start if start in ("inherit", "logits") else "scratch",
            steps=None,
            batch=None,
            lr_patch=None,
            rate=None,
            settings=tuple(f"schedule.{name}={json.dumps(value).strip(chr(34))}" for name, value in schedule.items()),
            teacher_cache=is_cached and start == "logits",
            label_margin=margin if start == "logits" else None,
            phi_weights=None,
        ),
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
    """The hashes of a run's metrics by step and kind."""
    hashes: dict[tuple[int, str], str] = {}
    for _, row in read_metrics(run):
        hashes.update({(row["step"], name): row[name] for name in HASHES if name in row})
    return hashes
