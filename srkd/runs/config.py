"""All decisions before the first step of a run, as one frozen object.

`RunNetworks` holds the recipe, teacher and student, which need no images; `RunConfig` adds the images and the execution
mode. Every mistake in the options is reported here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch

from compressor.base.cache_folder import parse_bytes
from compressor.base.choices import Goal, Precision
from compressor.base.context import Context, Note, no_note
from compressor.base.errors import SrkdError, UsageError, reason_of
from compressor.base.machine import total_memory
from compressor.base.processes import Rank
from compressor.data.batches import View
from compressor.data.label_margin import LabelMargin, given_margin, measure_margin
from compressor.data.prepare import Data, DataChoice, ValidationFolder, prepare_data
from compressor.data.teacher_cache import TeacherCache
from compressor.inference.teacher_check import TeacherCheck, check_teacher, format_options
from compressor.models.networks.base import Network
from compressor.runtimes.torch_runtime import torch_device
from compressor.teachers.teacher import Teacher
from compressor.training.distributed import process_device
from compressor.training.footprint import BatchShape, Footprint, footprint
from compressor.training.method import (
    HasTeacherViews,
    Method,
    TrainsJointly,
    fit_methods,
    kind_of,
    teacher_views,
)
from compressor.training.speed import PLAIN_MODE, ExecutionMode, SpeedOptions, choose_execution_mode
from compressor.training.stage import Stage
from compressor.training.validation import Validation
from recipes.catalogue import FOR_FILMS, PIXEL_ONLY, teacher_needs
from recipes.config.preset import Preset
from recipes.config.reading import recipe_label
from recipes.terms.features import describe_taps
from recipes.terms.phi import PhiSource, bind_phi
from srkd.options.compress import CompressOptions
from srkd.options.degradation import degradation_of
from srkd.options.shared import originals_and_lr_only, path_of
from srkd.options.values import as_tuple, split_name
from srkd.record.run_file import RunFile
from srkd.runs.recipe import (
    choose_phi,
    fit_batch,
    load_recipe,
    needs_teacher,
    phi_of,
    read_phi,
    recipe_for_looks,
    repeats_published,
    trains_teacher,
    tunes_teacher,
    use_embedded_phi,
    with_pace_of_start,
)
from srkd.runs.student import StudentInit, choose_student, quantise_student, require_inside, whole_teacher
from srkd.runs.teacher import fit_sizes, load_given_teacher, require_fit

T = TypeVar("T")


IMPOSSIBLE = (RuntimeError, NotImplementedError, TypeError)
"""What torch raises where tensors without values do not do."""


class UnknownCost(SrkdError):
    """The methods cannot run on shapes alone, so the cost of a step is unknown."""


class SharedInputs:
    """What runs read before their first step, read once for all runs of a process that ask for the same."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], object] = {}

    def once(self, *key: object, read: Callable[[], T]) -> T:
        """The value of `read` for this key. An object of which a key has the `id` must be held by a value."""
        if key not in self._found:
            self._found[key] = read()
        return cast(T, self._found[key])


@dataclass(frozen=True)
class RunNetworks:
    """The recipe, its teacher and its student."""

    options: CompressOptions
    preset: Preset
    methods: tuple[Method, ...]
    teacher: Teacher | None
    student_init: StudentInit
    goal: Goal = "original"
    """What the student is judged by."""
    labels: Goal = "original"
    """What the student learns to give: the original images or the teacher's."""
    check: TeacherCheck | None = None
    """The check of the teacher on a photo, if it was made to choose the goal."""
    loaded_teacher: Teacher | None = None
    """The teacher as it was loaded, for other runs; `teacher` may be turned for the student inside it."""

    @property
    def runs_teacher(self) -> bool:
        """Whether a step runs the teacher."""
        return self.labels == "teacher" or needs_teacher(self.methods)

    @property
    def runs_teacher_on_patches(self) -> bool:
        """Whether a step runs the teacher, as it came, on the patches of the batch."""
        if self.teacher is None or any(map(trains_teacher, self.methods)):
            return False
        return self.labels == "teacher" or any(
            method.name not in PIXEL_ONLY
            and teacher_needs(method) != "nothing"
            and (not isinstance(method, HasTeacherViews) or "whole" in method.teacher_views)
            for method in self.methods
        )

    @property
    def compares_unshuffled(self) -> bool:
        """Whether a method takes features of a teacher that unshuffles its image: they have no exact crop."""
        network = None if self.teacher is None else self.teacher.network
        is_unshuffled = network is not None and getattr(network.spec, "unshuffle", 1) > 1
        return is_unshuffled and any(teacher_needs(method) == "network" for method in self.methods)

    @property
    def sees_windows(self) -> bool:
        """Whether the teacher can run on windows around patches, and its images of them be cropped."""
        takes_any = self.teacher is not None and self.teacher.own_sizes.fixed_size is None
        return takes_any and self.runs_teacher_on_patches and not self.compares_unshuffled

    @property
    def cached_views(self) -> tuple[View, ...]:
        """The views whose teacher outputs `--teacher-cache` keeps; refuse it for a recipe without any."""
        training = self.options.training
        return views_to_cache(training.recipe, self.methods, labels=self.labels) if training.teacher_cache else ()

    def require_used(self) -> None:
        """Refuse a teacher cache that keeps nothing, and a margin where the teacher sees no windows around patches."""
        views, given = self.cached_views, self.options.training.label_margin
        if not given:
            return
        if self.teacher is not None and self.teacher.own_sizes.fixed_size is not None:
            reason = "the teacher takes images of one size only"
        elif "whole" in views:
            reason = "with --teacher-cache the teacher sees whole images"
        elif not self.runs_teacher_on_patches:
            reason = f"recipe {self.recipe} does not run a frozen teacher on patches"
        elif self.compares_unshuffled:
            reason = (
                f"recipe {self.recipe} compares features of a teacher that unshuffles its image, and they cannot be "
                "cropped to patches"
            )
        else:
            return
        raise UsageError(f"--label-margin {given}: {reason}; leave it out")

    @property
    def measures_margin(self) -> bool:
        """Whether a new run measures the margin that its teacher needs around patches."""
        training = self.options.training
        is_asked = training.label_margin is None and not training.teacher_cache
        return is_asked and self.sees_windows and not repeats_published(training.recipe)

    @property
    def teacher_side(self) -> int | None:
        """The side of the windows around the patches on which the teacher runs; None: it runs on the patches."""
        margin = self.options.training.label_margin
        return self.preset.schedule.lr_patch + 2 * margin if margin and self.sees_windows else None

    @property
    def student(self) -> Network:
        return self.student_init.network

    @property
    def recipe(self) -> str:
        """The recipe's name as it is written in the run's files."""
        return recipe_label(self.options.training.recipe)

    @property
    def phi(self) -> PhiSource | None:
        """The source of φ, the network whose features contrastive methods compare."""
        return phi_of(self.methods)

    def stages(self, mode: ExecutionMode | None = None) -> tuple[Stage, ...]:
        """The stages of the run in order; the learning rate depends on how the student starts."""
        return self.preset.stages(self.methods, mode, is_fitted=self.student_init.is_computed)

    def speed_options(self) -> SpeedOptions:
        """The preset's speed options; a foreign teacher computes in fp32 unless the preset says otherwise."""
        options = self.preset.speed_options()
        is_foreign = self.teacher is not None and self.teacher.network is None
        if is_foreign and options.teacher_precision == "auto":
            return replace(options, teacher_precision="fp32")
        return options

    def step_footprints(self, *, batch: int | None = None) -> tuple[Footprint, ...]:
        """The cost of a step of each stage, run on shapes alone; raise `UnknownCost` if the last one cannot.

        An earlier stage that reads values, as PAMS's calibration does, counts as the last one.
        """
        *earlier, last = self.preset.stages(self.methods)
        try:
            step = self._footprint(last, batch)
        except IMPOSSIBLE as error:
            names = ", ".join(method.name for method in self.methods)
            raise UnknownCost(f"{names} cannot run on shapes alone ({reason_of(error, first=True)})") from error
        steps = []
        for stage in earlier:
            try:
                steps.append(self._footprint(stage, batch))
            except IMPOSSIBLE:
                steps.append(step)
        return (*steps, step)

    def _footprint(self, stage: Stage, batch: int | None) -> Footprint:
        rule = self.preset.schedule
        teacher = self.teacher if self.runs_teacher else None
        shape = BatchShape(batch or rule.batch, rule.lr_patch, self.labels == "original", self.teacher_side)
        return footprint(stage, self.student.spec, teacher, shape, quantisation=self.student.quantisation)

    @classmethod
    def choose(
        cls,
        options: CompressOptions,
        context: Context,
        *,
        shared: RunConfig | None = None,
        began: RunFile | None = None,
        inputs: SharedInputs | None = None,
        download: bool = True,
    ) -> RunNetworks:
        """Read the recipe, load the teacher, build the student, and refuse combinations that do not fit.

        `shared` is another run of the same plan, `began` the run.json of a continued run; their φ is used again.
        Without `download` φ is named but not downloaded.
        """
        processes, inputs = context.processes, inputs or SharedInputs()
        lines: list[str] = []
        preset = processes.run_on_all(lambda: load_recipe(options, lines.append))
        if shared is not None:
            phi = shared.phi
        elif began is not None:
            phi = read_phi(began)
        else:
            phi = choose_phi(preset, options, context, download=download)

        def choose() -> RunNetworks:
            methods = bind_phi(fit_batch(preset, context.note), phi)
            teacher = None
            if shared is not None:
                teacher = shared.loaded_teacher
            elif (
                options.teacher.teacher is not None
                or options.student.student is None
                or needs_teacher(methods)
                or "teacher" in (options.teacher.goal, options.data.labels)
                or (began is not None and began.teacher is not None)  # that of its plan
                or not data_choice(options).has_labels
            ):
                teacher = inputs.once(
                    "teacher",
                    repr(options.teacher),
                    read=lambda: load_given_teacher(options.teacher, context.note),
                )
                require_fit(teacher, options.training.recipe, methods)
            loaded, methods = teacher, use_embedded_phi(methods, teacher, context.note)
            start = choose_student(teacher, preset, options, context.note)
            goal, check = choose_goal(options, teacher, shared, began, inputs, context.note)
            labels = choose_labels(options, methods, goal, context.note)
            scaled, network = preset.at_scale(start.network.spec.scale), None if teacher is None else teacher.network
            scaled = with_pace_of_start(scaled, start, options, context.note)
            if teacher is not None and (labels == "teacher" or needs_teacher(methods)):
                methods = fit_sizes(methods, teacher, scaled.schedule.lr_patch, context.note)
            start = quantise_student(start, methods, teacher)
            methods = fit_methods(methods, network, start.network)
            for method in methods:
                if isinstance(method, TrainsJointly):
                    require_inside(start, method.name, has_labels=labels == "original")
                    teacher = None if teacher is None else whole_teacher(teacher, start)
            rank, rule = processes.rank, scaled.schedule
            batch, count = len(rank.share(rule.batch)), rank.world_size
            for line in describe_taps(
                methods, network, start.network, batch=batch, lr_patch=rule.lr_patch, processes=count
            ):
                context.note(line)
            for line in lines:
                context.note(line)
            return cls(options, scaled, methods, teacher, start, goal, labels, check, loaded)

        return processes.run_on_all(choose)


@dataclass(frozen=True)
class RunConfig(RunNetworks):
    """All decisions of a run: its networks, images, device and execution mode."""

    data: Data = field(kw_only=True)
    device: torch.device = field(kw_only=True)
    validation: Validation = field(kw_only=True)
    """The validation sets; the runs of a plan share it, so that the teacher enlarges their images once."""
    cache: TeacherCache | None = None
    label_margin: LabelMargin | None = None
    """None: the teacher does not run on patches, or as it did before there was a margin."""
    mode: ExecutionMode = PLAIN_MODE
    distilled: RunFile | None = None
    """run.json of the run that distilled what is quantised here: its teacher is that of the student."""

    @property
    def teacher_side(self) -> int | None:
        return self.label_margin.side if self.label_margin is not None and self.label_margin.pixels else None

    @classmethod
    def decide(
        cls,
        options: CompressOptions,
        context: Context,
        *,
        shared: RunConfig | None = None,
        began: RunFile | None = None,
        inputs: SharedInputs | None = None,
    ) -> RunConfig:
        """Decide the networks, read the images, choose the execution mode.

        A continued run keeps its mode (`began` is its run.json). A further run of a plan uses the teacher, images, φ,
        margin of labels and mode of `shared`; one that decides these itself reads again only what is not in `inputs`.
        """
        processes, inputs = context.processes, inputs or SharedInputs()
        device = processes.run_on_all(lambda: open_device(process_device(options.run.device, processes.rank)))
        choice = processes.run_on_all(lambda: data_choice(options))
        networks = RunNetworks.choose(options, context, shared=shared, began=began, inputs=inputs)
        processes.run_on_all(networks.require_used)
        if shared is None:
            processes.run_on_all(lambda: require_memory_for_step(networks, device, processes.rank))
        data, cache = processes.run_on_all(lambda: _prepare_images(networks, choice, context, shared, inputs))
        processes.run_on_all(lambda: require_tracked_images(options, len(data.validation_names)))

        def choose_margin() -> LabelMargin | None:
            if began is not None:
                return None if began.label_margin is None else LabelMargin(**began.label_margin.model_dump())
            if shared is not None and shared.label_margin is not None:
                return shared.label_margin if networks.sees_windows else None
            if not processes.is_leader:
                return None
            return choose_label_margin(networks, data, cache, device, inputs, context)

        margin = processes.broadcast((processes.run_on_all(choose_margin),))[0]

        def choose_mode() -> ExecutionMode | None:
            if shared is not None:
                return shared.mode
            if began is not None:
                return read_execution_mode(began)
            if not processes.is_leader:
                return None
            rule = networks.preset.schedule
            mode = choose_execution_mode(
                networks.student,
                steps=rule.steps,
                batch=rule.batch,
                lr_patch=rule.lr_patch,
                device=device,
                options=networks.speed_options(),
            )
            context.note(mode.line(rule.lr_patch))
            return mode

        mode = processes.broadcast(processes.run_on_all(choose_mode))
        scale, goal, teacher = networks.student.spec.scale, networks.goal, networks.teacher
        validation = (
            inputs.once(
                "validation",
                *(id(data), scale, goal, id(teacher)),
                read=lambda: Validation(data.validation, scale, goal, teacher, context),
            )
            if shared is None
            else shared.validation
        )
        return cls(
            **vars(networks),
            data=data,
            device=device,
            cache=cache,
            label_margin=margin,
            mode=mode,
            validation=validation,
        )


def require_memory_for_step(networks: RunNetworks, device: torch.device, rank: Rank) -> None:
    """Refuse a batch whose step needs over twice the device's memory: the estimate may be wrong by a factor of two."""
    rule = networks.preset.schedule
    if device.type not in ("cpu", "cuda"):
        return
    memory = total_memory() if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory
    batch = len(rank.share(rule.batch))
    try:
        peak = max(step.memory.peak for step in networks.step_footprints(batch=batch))
    except UnknownCost:
        return
    if peak > 2 * memory:
        raise UsageError(
            f"a step of {batch} patches of {rule.lr_patch}x{rule.lr_patch} needs about "
            f"{peak / 1e9:.0f} GB, and {device} has {memory / 1e9:.0f} GB: "
            "choose a smaller --batch or --lr-patch"
        )


def read_execution_mode(began: RunFile) -> ExecutionMode:
    """The mode in which a run began: another one would not give the same bits."""
    if began.execution_mode is None:
        raise SrkdError("run.json does not say in which execution mode the run trained (execution_mode is missing)")
    return ExecutionMode(**began.execution_mode.model_dump())


def open_device(name: str) -> torch.device:
    """The device, or refuse one that cannot be used here."""
    torch_device(name)  # refuses unknown names with a clearer error than torch's
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


# What the student is judged by, and learns to give.


def choose_goal(
    options: CompressOptions,
    teacher: Teacher | None,
    shared: RunConfig | None,
    began: RunFile | None,
    inputs: SharedInputs,
    note: Note,
) -> tuple[Goal, TeacherCheck | None]:
    """What the student is judged by, and the check of the teacher if that decides it."""
    if shared is not None:
        return shared.goal, shared.check
    if began is not None and began.goal is not None:
        return began.goal, None
    goal = options.teacher.goal
    if not data_choice(options).has_originals:
        if goal == "original":
            raise UsageError("--goal original: the images of --val-lr have no originals; give some with --val first")
        goal = "teacher"
    if teacher is None:
        if goal == "teacher":
            raise UsageError("--goal teacher: there is no teacher; add --teacher FILE")
        return "original", None
    check = None
    if goal == "auto":
        check = _check(teacher, options, inputs)
        goal = check.goal
    reason = "" if check is None or goal == "original" else f", as {check.why_teacher}"
    what = "the original images" if goal == "original" else "the teacher's images"
    note(f"goal {goal}: the student is judged by {what}{reason}")
    return goal, check


def _check(teacher: Teacher, options: CompressOptions, inputs: SharedInputs) -> TeacherCheck:
    def read() -> TeacherCheck:
        scale = teacher.descriptor.scale
        return check_teacher(teacher, data_choice(options).trial_pairs(scale) if scale == 1 else ())

    return inputs.once("check", repr(options.teacher), repr(options.data), read=read)


def choose_labels(options: CompressOptions, methods: Sequence[Method], goal: Goal, note: Note) -> Goal:
    """What the student learns to give. Recipes that do not use the teacher stay what they are, for comparison."""
    given = options.data.labels
    if not data_choice(options).has_labels:
        if given == "original":
            raise UsageError("--labels original: the images of --lr-only, or of a film, have no originals")
        return "teacher"
    if given is not None or goal == "original":
        return given or "original"
    joint = [method.name for method in methods if isinstance(method, TrainsJointly)]
    if joint:
        note(
            f"labels: the originals, as {joint[0]} trains its teacher on them, which moves both away from the teacher "
            "as it came; csd-lite and logits keep to its images"
        )
        return "original"
    is_comparison = not needs_teacher(methods) or {method.name for method in methods} - {FOR_FILMS} <= PIXEL_ONLY
    if is_comparison or repeats_published(options.training.recipe):
        return "original"
    note("labels: the teacher's images alone (--labels original: the originals)")
    return "teacher"


def require_sound_teacher(networks: RunNetworks, teacher: Teacher, inputs: SharedInputs, note: Note) -> None:
    """Check the teacher on a photo; refuse it if other settings improve it and the user has not chosen them."""
    options = networks.options
    check = networks.check or _check(teacher, options, inputs)
    for line in check.lines():
        note(line)
    compares_pixels = networks.labels == "teacher" and not any(
        kind_of(method) == "looks" for method in networks.methods
    )
    if check.is_for_looks and compares_pixels and not repeats_published(options.training.recipe):
        note(
            f"recipe {networks.recipe} compares pixels, so its student will be softer than this teacher: --recipe "
            f"{recipe_for_looks()} makes one that looks like it"
        )
    names = {name for choices in teacher.alternatives() for changes in choices for name in changes}
    if check.advice is None or names & set(options.teacher.arch_options or {}):
        return
    raise UsageError(
        f"{check.advice}: add that, or {format_options(teacher.settings())} to train towards it as it stands"
    )


# The images.


def data_choice(options: CompressOptions) -> DataChoice:
    """The choice of images; refuse contradictory options."""
    data, lr_only = originals_and_lr_only(options.data.data, options.data.lr_only)
    degradation = degradation_of(options.data.degrade, no_note)
    if options.data.degrade_once and degradation is None:
        raise UsageError("degrade_once: there is no --degrade whose images are degraded; add it, or leave this out")
    return DataChoice(
        data=data,
        lr=path_of(options.data.lr_images),
        val=(
            *(ValidationFolder(path, name) for name, path in map(split_name, map(str, as_tuple(options.data.val)))),
            *(
                ValidationFolder(path, name, True)
                for name, path in map(split_name, map(str, as_tuple(options.data.val_lr)))
            ),
        ),
        lr_border=options.data.lr_border,
        lr_only=lr_only,
        cache_size=parse_bytes(options.data.cache_size),
        degradation=degradation,
        degrades_once=options.data.degrade_once or options.training.teacher_cache,
    )


def _prepare_images(
    networks: RunNetworks, choice: DataChoice, context: Context, shared: RunConfig | None, inputs: SharedInputs
) -> tuple[Data, TeacherCache | None]:
    """Check the teacher on a photo, decode the images, and plan the teacher cache."""
    rule, teacher = networks.preset.schedule, networks.teacher
    views = networks.cached_views
    if shared is not None:
        data = shared.data
    else:
        if teacher is not None and networks.runs_teacher:
            require_sound_teacher(networks, teacher, inputs, context.note)
        scale, lr_patch = networks.student.spec.scale, rule.lr_patch
        data = inputs.once(
            "images",
            *(choice, scale, lr_patch),
            read=lambda: prepare_data(choice, scale=scale, lr_patch=lr_patch, context=context),
        )
    if not views or teacher is None:
        return data, None
    folder = choice.cache()
    precision = cache_precision(networks.preset)
    cache = TeacherCache.plan(teacher, data.train, views, folder=folder, lr_patch=rule.lr_patch, precision=precision)
    return data, cache


def require_tracked_images(options: CompressOptions, count: int) -> None:
    """Refuse the number of a validation image that is not among `count`."""
    for number in as_tuple(options.run.track_images or ()):
        if number > count:
            raise UsageError(f"--track-images {number}: there are {count} validation images")


def choose_label_margin(
    networks: RunNetworks,
    data: Data,
    cache: TeacherCache | None,
    device: torch.device,
    inputs: SharedInputs,
    context: Context,
) -> LabelMargin | None:
    """The margin that the teacher sees around patches, given or measured, and announce it."""
    training, teacher, lr_patch = networks.options.training, networks.teacher, networks.preset.schedule.lr_patch
    given = training.label_margin
    has_cache = cache is not None and any(view.view == "whole" for view in cache.views)
    if teacher is None or has_cache or not networks.sees_windows:
        return None
    if given is None and repeats_published(training.recipe):
        return None
    if given is not None:
        margin = given_margin(given, teacher, data.train, lr_patch)
    else:
        margin = inputs.once(
            "margin",
            *(repr(networks.options.teacher), id(data), lr_patch, str(device)),
            read=lambda: measure_margin(teacher.move_to(device), data.train, lr_patch, context),
        )
    if given != 0:
        context.note(margin.line(lr_patch) + _margin_advice(networks, margin))
    return margin


def _margin_advice(networks: RunNetworks, margin: LabelMargin) -> str:
    """What a user can do about the price of a measured margin."""
    training = networks.options.training
    if not margin.pixels or training.label_margin is not None:
        return ""
    with suppress(UsageError):
        views_to_cache(training.recipe, networks.methods, labels=networks.labels)
        return " (--teacher-cache: it runs once over the whole images; --label-margin 0: no margin)"
    return " (--label-margin 0: no margin)"


def cache_precision(preset: Preset) -> Precision:
    """The precision in which the outputs of a teacher cache are computed.

    They are computed once for all steps, and perhaps for other runs: half precision would save little time.
    """
    return "bf16" if preset.schedule.teacher_precision == "bf16" else "fp32"


def views_to_cache(recipe: str, methods: Sequence[Method], *, labels: Goal) -> tuple[View, ...]:
    """The views whose teacher outputs `--teacher-cache` stores; refuse a recipe without any."""
    if repeats_published(recipe):
        raise UsageError(
            f"--teacher-cache changes what the teacher sees, and {recipe} repeats a published run: "
            "leave it out, or take the recipe without -paper or -code"
        )
    for method in methods:
        if tunes_teacher(method):
            raise UsageError(
                f"--teacher-cache keeps the outputs of the teacher as it came, and {method.name} tunes a copy of it "
                "that teaches: leave it out"
            )
    views: list[View] = ["whole"] if labels == "teacher" else []
    views += teacher_views(methods)
    if not views:
        has_teacher = any(teacher_needs(method) != "nothing" for method in methods)
        reason = "needs other things of its teacher" if has_teacher else "has no teacher"
        raise UsageError(f"--teacher-cache keeps a teacher's outputs, and recipe {recipe} {reason}: leave it out")
    return tuple(dict.fromkeys(views))
