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

from compressor.assets import embedded_teacher
from compressor.base.cache_folder import parse_bytes
from compressor.base.choices import Goal, Init, Precision, Select
from compressor.base.context import Context, Note, no_note
from compressor.base.errors import SrkdError, UsageError, reason_of
from compressor.base.machine import total_memory
from compressor.base.processes import Rank
from compressor.data.batches import View
from compressor.data.label_margin import LabelMargin, given_margin, measure_margin
from compressor.data.prepare import Data, DataChoice, ValidationFolder, prepare_data
from compressor.data.teacher_cache import TeacherCache
from compressor.inference.teacher_check import TeacherCheck, check_teacher, format_options
from compressor.models.fitting.fit import require_linear_plan
from compressor.models.networks.base import Network
from compressor.models.networks.registry import architecture, build, quantise
from compressor.models.students.init_from import initialise_from
from compressor.models.students.init_report import InitReport
from compressor.models.students.principal import can_be_turned
from compressor.models.students.students import (
    build_student,
    parse_student,
    reordered,
    student_cuts,
    student_of_spec,
    width_hint,
)
from compressor.runtimes.torch_runtime import torch_device
from compressor.teachers.teacher import Teacher, load_teacher
from compressor.training.distributed import process_device
from compressor.training.footprint import BatchShape, Footprint, footprint
from compressor.training.method import (
    FeedsOtherSizes,
    FitsBatch,
    HasEarlierStages,
    HasTeacherViews,
    Method,
    TrainsJointly,
    fit_methods,
    quantisation_of,
    teacher_views,
)
from compressor.training.speed import PLAIN_MODE, ExecutionMode, SpeedOptions, choose_execution_mode
from compressor.training.stage import Stage
from compressor.training.validation import Validation
from recipes.catalogue import RECIPES, teacher_needs
from recipes.config.by_class import is_class
from recipes.config.preset import SHORT_RUN_STEPS, Preset, StudentRule
from recipes.config.reading import is_recipe_file, load_preset, recipe_label
from recipes.terms.features import describe_taps
from recipes.terms.phi import PhiSource, UsesPerceptualNet, bind_phi, find_phi, lacks_vgg19
from srkd.options.compress import CompressOptions, TeacherOptions
from srkd.options.shared import path_of
from srkd.options.values import as_tuple, split_name
from srkd.record.run_file import RunFile, StudentStart

T = TypeVar("T")

EMBEDDED = "the embedded teacher"

PIXEL_ONLY = frozenset({"scratch", "inherit"})
"""Methods whose only loss is L1 to the label; they differ in the student's start."""


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
class StudentInit:
    """The student before its first step, and the origin of its weights."""

    network: Network
    init: Init
    select: Select
    init_from: InitReport | None = None
    plain_slice: Network | None = None
    """The leading slice of the teacher for comparison, if the student starts from a better one; else None."""

    def facts(self) -> StudentStart:
        """The entry `start` of run.json."""
        return StudentStart(init=self.init, select=self.select, init_from=self.init_from)


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
            teacher_needs(method) != "nothing"
            and (not isinstance(method, HasTeacherViews) or "whole" in method.teacher_views)
            for method in self.methods
        )

    @property
    def measures_margin(self) -> bool:
        """Whether a new run measures the margin that its teacher needs around patches."""
        training = self.options.training
        is_asked = training.label_margin is None and not training.teacher_cache
        return is_asked and self.runs_teacher_on_patches and not repeats_published(training.recipe)

    @property
    def teacher_side(self) -> int | None:
        """The side of the windows around the patches on which the teacher runs; None: it runs on the patches."""
        margin = self.options.training.label_margin
        return self.preset.schedule.lr_patch + 2 * margin if margin and self.runs_teacher_on_patches else None

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
        return self.preset.stages(self.methods, mode, is_fitted=self.student_init.plain_slice is not None)

    def speed_options(self) -> SpeedOptions:
        """The preset's speed options; a foreign teacher computes in fp32 unless the preset says otherwise."""
        options = self.preset.speed_options()
        is_foreign = self.teacher is not None and self.teacher.network is None
        if is_foreign and options.teacher_precision == "auto":
            return replace(options, teacher_precision="fp32")
        return options

    def step_footprint(self, *, batch: int | None = None) -> Footprint:
        """The cost of a step of the student's stage, run on shapes alone; raise `UnknownCost` if impossible."""
        rule = self.preset.schedule
        teacher = self.teacher if self.runs_teacher else None
        labels = self.labels == "original"
        shape = BatchShape(batch or rule.batch, rule.lr_patch, labels, self.teacher_side)
        try:
            stage, quantisation = self.preset.stage(self.methods), self.student.quantisation
            return footprint(stage, self.student.spec, teacher, shape, quantisation=quantisation)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            names = ", ".join(method.name for method in self.methods)
            raise UnknownCost(f"{names} cannot run on shapes alone ({reason_of(error, first=True)})") from error

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
                teacher = shared.teacher
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
            methods = use_embedded_phi(methods, teacher, context.note)
            start = choose_student(teacher, preset, options, context.note)
            goal, check = choose_goal(options, teacher, shared, began, inputs, context.note)
            labels = choose_labels(options, methods, goal, context.note)
            scaled, network = preset.at_scale(start.network.spec.scale), None if teacher is None else teacher.network
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
            return cls(options, scaled, methods, teacher, start, goal, labels, check)

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

        A continued run keeps its mode (`began` is its run.json). A further run of a plan uses the teacher, images, φ
        and mode of `shared`; one that decides these itself reads again only what is not in `inputs`.
        """
        processes, inputs = context.processes, inputs or SharedInputs()
        device = processes.run_on_all(lambda: open_device(process_device(options.run.device, processes.rank)))
        choice = processes.run_on_all(lambda: data_choice(options))
        networks = RunNetworks.choose(options, context, shared=shared, began=began, inputs=inputs)
        if shared is None:
            processes.run_on_all(lambda: require_memory_for_step(networks, device, processes.rank))
        data, cache = processes.run_on_all(lambda: _prepare_images(networks, choice, context, shared, inputs))
        processes.run_on_all(lambda: require_tracked_images(options, data))

        def choose_margin() -> LabelMargin | None:
            if shared is not None:
                return shared.label_margin
            if began is not None:
                return None if began.label_margin is None else LabelMargin(**began.label_margin.model_dump())
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
        peak = networks.step_footprint(batch=batch).memory.peak
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


# The recipe and φ.


RATE_SETTINGS = ("rate", "fit_rate", "decay", "milestones", "factor")
"""Keys of a schedule that decide the learning rate; if the user sets one, srkd does not change the rate."""


def load_recipe(options: CompressOptions, note: Note = no_note) -> Preset:
    """The recipe's preset with `--set` and `--steps` applied; a shortened recipe gets a suitable rate."""
    preset = load_preset(options.training.recipe, options.training.recipe_settings)
    for rule in preset.methods if is_recipe_file(options.training.recipe) else ():
        if is_class(rule.name):
            note(f"recipe: it runs the code of {rule.name}")
    keys = schedule_settings(options)
    if "rate" in keys and "fit_rate" not in keys:
        preset = preset.with_own_rate()  # the user's rate is for this student, also if it is fitted
    if options.training.steps is None:
        return preset
    scaled, before = preset.with_steps(options.training.steps), preset.schedule
    is_shortened = options.training.steps < SHORT_RUN_STEPS <= before.steps and before.decay == "milestones"
    if not is_shortened or repeats_published(options.training.recipe) or keys.intersection(RATE_SETTINGS):
        return scaled
    short = scaled.for_short_run()
    note(
        f"--steps {options.training.steps}: a short run, so the rate falls from {short.schedule.rate:g} along a "
        "cosine, "
        f"not from {before.rate:g} at milestones (--set schedule.decay=milestones keeps those)"
    )
    return short


def schedule_settings(options: CompressOptions) -> set[str]:
    """The keys of the schedule that the options set."""
    paths = [setting.partition("=")[0].split(".") for setting in options.training.recipe_settings]
    return {path[1] for path in paths if path[0] == "schedule" and len(path) > 1}


def repeats_published(recipe: str) -> bool:
    """Whether a recipe, by its name, repeats a published run; such a recipe is not adapted."""
    return recipe_label(recipe).endswith(("-paper", "-code"))


def needs_teacher(methods: Sequence[Method]) -> bool:
    """Whether the methods need a teacher; also the labels may be its images."""
    return any(teacher_needs(method) != "nothing" for method in methods)


def tunes_teacher(method: Method) -> bool:
    """Whether the method trains a copy of the teacher that teaches."""
    return isinstance(method, HasEarlierStages) and any(stage.tunes_teacher for stage in method.earlier_stages())


def trains_teacher(method: Method) -> bool:
    """Whether the teacher that teaches is not the one that came, but trained on patches, before or with the student."""
    return isinstance(method, TrainsJointly) or tunes_teacher(method)


def choose_phi(
    preset: Preset, options: CompressOptions, context: Context, *, download: bool = True
) -> PhiSource | None:
    """Φ and announce it; None for a recipe without. The leading process finds or downloads it for all."""
    processes = context.processes

    def find() -> PhiSource | None:
        if not processes.is_leader:
            return None
        weights = path_of(options.training.phi_weights)
        phi = find_phi(preset.build_methods(), weights, download=download, progress=context.progress)
        if phi is None:
            return None
        phi = phi.with_owner(EMBEDDED) if options.teacher.teacher is None else phi
        context.note(f"phi: {phi.how}")
        return phi

    # A tuple, because None is the value of a process that does not lead.
    return processes.broadcast((processes.run_on_all(find),))[0]


def phi_of(methods: Sequence[Method]) -> PhiSource | None:
    """The φ to which the methods are bound."""
    return next((method.phi_source for method in methods if isinstance(method, UsesPerceptualNet)), None)


def read_phi(began: RunFile) -> PhiSource | None:
    """The φ with which a run began: it continues with the same, even if the cache has changed."""
    return None if began.phi is None else PhiSource(**began.phi.model_dump())


def use_embedded_phi(methods: Sequence[Method], teacher: Teacher | None, note: Note) -> tuple[Method, ...]:
    """Bind the embedded teacher's blocks as φ if the run's own teacher gives outputs only."""
    phi = phi_of(methods)
    if phi is None or phi.kind != "teacher" or teacher is None or teacher.network is not None:
        return tuple(methods)
    note(f"phi: {EMBEDDED}'s first blocks, as the {teacher.backend} teacher gives outputs only")
    return bind_phi(methods, phi.with_owner(EMBEDDED))


# The teacher.


def load_given_teacher(given: TeacherOptions, note: Note) -> Teacher:
    """Load `--teacher`, or the embedded one, and announce the assumptions about it."""
    path = given.path
    if path is None:
        path = embedded_teacher()
        note("no --teacher: using the embedded teacher")
    teacher = load_teacher(
        path, scale=given.scale, arch_options=given.arch_options, limits=given.limits, trust_code=given.trust_code
    )
    if teacher.origin is not None:
        for assumption in teacher.origin.assumed:
            note(f"teacher: {assumption.field}={assumption.value} assumed ({assumption.why})")
        for line in teacher.origin.notes:
            note(f"teacher: {line}")
    return teacher


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
        check = inputs.once("check", repr(options.teacher), read=lambda: check_teacher(teacher))
        goal = check.goal
    reason = "" if check is None or goal == "original" else f", as {check.why_teacher}"
    what = "the original images" if goal == "original" else "the teacher's images"
    note(f"goal {goal}: the student is judged by {what}{reason}")
    return goal, check


def choose_labels(options: CompressOptions, methods: Sequence[Method], goal: Goal, note: Note) -> Goal:
    """What the student learns to give. Recipes that do not use the teacher stay what they are, for comparison."""
    given = options.data.labels
    if options.data.lr_only is not None:
        if given == "original":
            raise UsageError("--labels original: the images of --lr-only have no originals")
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
    is_comparison = not needs_teacher(methods) or {method.name for method in methods} <= PIXEL_ONLY
    if is_comparison or repeats_published(options.training.recipe):
        return "original"
    note("labels: the teacher's images alone (--labels original: the originals)")
    return "teacher"


def require_sound_teacher(networks: RunNetworks, teacher: Teacher, inputs: SharedInputs, note: Note) -> None:
    """Check the teacher on a photo; refuse it if other settings improve it and the user has not chosen them."""
    options = networks.options
    check = networks.check or inputs.once("check", repr(options.teacher), read=lambda: check_teacher(teacher))
    for line in check.lines():
        note(line)
    names = {name for choices in teacher.alternatives() for changes in choices for name in changes}
    if check.advice is None or names & set(options.teacher.arch_options or {}):
        return
    raise UsageError(
        f"{check.advice}: add that, or {format_options(teacher.settings())} to train towards it as it stands"
    )


def fit_batch(preset: Preset, note: Note) -> tuple[Method, ...]:
    """The preset's methods with their weights for its batch; a note says which, unless the preset gives the weight."""
    fitted = []
    for method in preset.build_methods():
        if isinstance(method, FitsBatch):
            before = method.weights
            method, text = method.fit_batch(preset.schedule.batch)
            changed = {term for term, weight in method.weights.items() if before[term] != weight}
            if text is not None and not changed <= preset.weights.keys():
                note(text)
        fitted.append(method)
    return tuple(fitted)


def fit_sizes(methods: Sequence[Method], teacher: Teacher, lr_patch: int, note: Note) -> tuple[Method, ...]:
    """Refuse a teacher whose fixed size is not that of patches; adapt methods that give it images of other sizes."""
    sizes = teacher.own_sizes
    if sizes.fixed_size not in (None, (lr_patch, lr_patch)):
        width, height = sizes.fixed_size
        remedy = f"--lr-patch {width}" if width == height else "export it with free height and width"
        raise UsageError(
            f"the teacher takes images of {width}x{height} only, and the recipe's patches have {lr_patch}x{lr_patch}: "
            f"{remedy}"
        )
    fitted = []
    for method in methods:
        if isinstance(method, FeedsOtherSizes):
            method, text = method.fit_sizes(sizes, lr_patch, sizes.scale)
            if text is not None:
                note(text)
        fitted.append(method)
    return tuple(fitted)


def require_fit(teacher: Teacher, recipe: str, methods: Sequence[Method]) -> None:
    """Refuse a teacher without the channels, weights or features that the recipe needs."""
    if teacher.descriptor.channels != 3:
        raise UsageError(
            "the teacher takes one channel, and compress trains on RGB images: use a teacher of 3 channels"
        )
    if teacher.network is None and any(teacher_needs(method) == "network" for method in methods):
        raise UsageError(
            f"recipe {recipe} needs weights or features of its teacher, and the {teacher.backend} teacher "
            f"gives outputs only; recipes that take it: {', '.join(recipes_for_outputs())}"
        )


def recipes_for_outputs() -> tuple[str, ...]:
    """The recipes that need at most outputs of a teacher; one that does not load, or lacks its VGG-19, is left out."""
    names = []
    for name in sorted(RECIPES):
        with suppress(SrkdError):
            preset = load_preset(name)
            methods = preset.build_methods()
            needs_weights = any(teacher_needs(method) == "network" for method in methods)
            if not needs_weights and not preset.student.init_required and not lacks_vgg19(methods):
                names.append(name)
    return tuple(names)


# The student.


def choose_student(teacher: Teacher | None, preset: Preset, options: CompressOptions, note: Note) -> StudentInit:
    """Build the student by the options, else the preset; note hints and the result of `--init-from`."""
    network_of_teacher = None if teacher is None else teacher.network
    init = options.student.init or _default_init(network_of_teacher, preset, options, note)
    select = _choose_select(init, network_of_teacher, preset, options, note)
    if init == "fit" and options.student.init_from is not None:
        raise UsageError(f"--init-from {options.student.init_from} gives the student its weights: leave out --init fit")
    published = _published_student(network_of_teacher, preset, options, note)
    if options.student.student is not None:
        network = _student_of_spec(options.student.student, init, select, options, teacher)
    elif published is not None:
        network = _student_of_spec(published, init, select, options, teacher)
    else:
        network = _cut_student(teacher, init, select, preset, options, note)
    if init == "fit" and network_of_teacher is not None:
        require_linear_plan(network_of_teacher.spec, network.spec)
    channels = network.descriptor.channels
    if channels != 3:
        raise UsageError(
            f"the student has {channels} channels, and compress trains on RGB images: add channels=3 to --student"
        )
    teacher_spec = None if network_of_teacher is None else network_of_teacher.spec
    hint, width = width_hint(network.spec), network.spec.to_dict().get("width")
    if hint is not None and (teacher_spec is None or teacher_spec.to_dict().get("width") != width):
        note(hint)
    init_from = None
    if options.student.init_from is not None:
        init_from = initialise_from(network, options.student.init_from)
        for line in init_from.lines():
            note(line)
    plain_slice = None
    if network_of_teacher is not None and (init == "fit" or select == "principal"):
        plain_slice = student_of_spec(network_of_teacher, network.spec)
    return StudentInit(network, init, select, init_from, plain_slice)


def _published_student(teacher: Network | None, preset: Preset, options: CompressOptions, note: Note) -> str | None:
    """The student that is published for this teacher, unless the options give a shape."""
    given = (options.student.student, options.student.width, options.student.depth)
    entry = None if teacher is None else preset.student.published_for(teacher.spec)
    if entry is None or any(value is not None for value in given):
        return None
    note(f"student: {entry.student}, as published for this teacher")
    if entry.start_scale is not None and options.student.init_from is None:
        note(
            f"student: random weights; the published run starts from its student of x{entry.start_scale}: train that "
            f"with a teacher of x{entry.start_scale} and the same recipe, then add --init-from FILE"
        )
    return entry.student


def _default_init(teacher: Network | None, preset: Preset, options: CompressOptions, note: Note) -> Init:
    """The recipe's start, or the nearest one that the student and its teacher allow."""
    init = preset.student.init
    # --select or --init-from replace a fit.
    is_replaced = options.student.select is not None or options.student.init_from is not None
    if options.student.student is None:
        if init == "fit" and is_replaced:
            return "inherit"
        if init == "fit" and teacher is not None and architecture(teacher.spec.arch).linear is None:
            note(f"the student is cut from the teacher: a {teacher.spec.arch} cannot be solved for")
            return "inherit"
        return init
    if preset.student.init_required and not is_replaced:
        _require_start(init, teacher, options.student.student)
        return init
    if teacher is None or init == "random" or (init == "fit" and is_replaced):
        return "random"
    if init == "inherit":
        note("--student: random weights, where the recipe would inherit; --init inherit cuts them from the teacher")
        return "random"
    try:
        spec = parse_student(options.student.student, like=teacher.spec, scale=teacher.spec.scale)
        student_cuts(teacher.spec, spec)
        require_linear_plan(teacher.spec, spec)
    except SrkdError:
        note(f"--student: random weights, as no student of this shape can be solved for from the {teacher.spec.arch}")
        return "random"
    return "fit"


def _require_start(init: Init, teacher: Network | None, student: str) -> None:
    """Refuse a recipe that is its start, for a student that cannot be cut from the teacher, or solved for."""
    try:
        if teacher is None:
            raise SrkdError("no teacher whose layers srkd knows")
        spec = parse_student(student, like=teacher.spec, scale=teacher.spec.scale)
        student_cuts(teacher.spec, spec)
        if init == "fit":
            require_linear_plan(teacher.spec, spec)
    except SrkdError as error:
        does, other = ("solves for it by", "logits") if init == "fit" else ("cuts it from", "scratch")
        raise UsageError(
            f"--student {student}: the recipe {init} {does} the teacher's weights, which is impossible ({error}); "
            f"--recipe {other} trains it from random weights"
        ) from error


def _choose_select(init: Init, teacher: Network | None, preset: Preset, options: CompressOptions, note: Note) -> Select:
    """Which of the teacher's channels an inherited student keeps."""
    if options.student.select is not None and init != "inherit":
        remedy = "leave it out, as there is no teacher to inherit from" if teacher is None else "add --init inherit"
        raise UsageError(f"--select {options.student.select} chooses what is inherited: {remedy}")
    select = options.student.select or (preset.student.select if init == "inherit" else "leading")
    if (
        select == "principal"
        and options.student.select is None
        and teacher is not None
        and not can_be_turned(teacher.spec)
    ):
        note(f"select: the leading channels, as the stream of a {teacher.spec.arch} cannot be turned")
        return "leading"
    return select


def _cut_student(
    teacher: Teacher | None, init: Init, select: Select, preset: Preset, options: CompressOptions, note: Note
) -> Network:
    """Cut the student from a teacher whose network is known, by width and depth."""
    if teacher is None:
        raise UsageError("without --student the student is cut from a teacher: add --teacher FILE or --student SPEC")
    for line in _also_reduced(preset.student, options):
        note(line)
    if teacher.network is None:
        scale = teacher.descriptor.scale
        raise UsageError(
            f"no student can be cut from the {teacher.backend} teacher: give its shape, "
            f"--student compact:width=32,depth=8,scale={scale}"
        )
    return build_student(
        teacher.network,
        width=preset.student.width if options.student.width is None else options.student.width,
        depth=preset.student.depth if options.student.depth is None else options.student.depth,
        init="inherit" if init == "fit" else init,  # the fit follows later, on the run's own images
        seed=options.training.seed,
        select=select,
    )


def _also_reduced(rule: StudentRule, options: CompressOptions) -> list[str]:
    """A line if only one of width and depth is given and the recipe reduces the other."""
    width, depth = options.student.width, options.student.depth
    if depth is not None and width is None and rule.width < 1:
        return [f"--depth {depth:g}: the recipe also {_reduces(rule.width, 'width')}: add --width 1 to keep it"]
    if width is not None and depth is None and rule.depth < 1:
        return [f"--width {width:g}: the recipe also {_reduces(rule.depth, 'depth')}: add --depth 1 to keep it"]
    return []


def _reduces(fraction: float, what: str) -> str:
    return f"halves the {what}" if fraction == 0.5 else f"takes {fraction:g} of the {what}"


def _student_of_spec(
    text: str, init: Init, select: Select, options: CompressOptions, teacher: Teacher | None
) -> Network:
    """Build the student of `--student`, with random weights or with those of a slice, which a fit then replaces."""
    if options.student.width is not None or options.student.depth is not None:
        raise UsageError("--student gives the whole shape: leave out --width and --depth")
    scale = None if teacher is None else teacher.descriptor.scale
    if init != "random":
        if teacher is None or teacher.network is None:
            raise UsageError(
                f"--init {init} makes the student of its teacher's weights: add --teacher FILE of a known network"
            )
        spec = parse_student(text, like=teacher.network.spec, scale=scale)
        return student_of_spec(teacher.network, spec, select=select)
    spec = parse_student(text, scale=scale)
    if scale is not None and spec.scale != scale:
        raise UsageError(f"the student is for x{spec.scale}, the teacher for x{scale}")
    return build(spec, seed=options.training.seed)


def quantise_student(start: StudentInit, methods: Sequence[Method], teacher: Teacher | None) -> StudentInit:
    """The start with a quantised student if a method trains one."""
    quantisation = quantisation_of(methods)
    if quantisation is None:
        return start
    of_teacher = None if teacher is None or teacher.network is None else teacher.network.quantisation
    if of_teacher is not None:
        raise UsageError(
            f"the teacher is quantised itself ({of_teacher.line()}): give the float network that it was made from"
        )
    if start.plain_slice is not None:
        raise UsageError(
            f"{quantisation.method} is the last stage and starts from trained weights, not from ones that are solved "
            f"for or turned: distil first (--recipe logits --then {quantisation.method}), or --init inherit"
        )
    return replace(start, network=quantise(start.network, quantisation))


def whole_teacher(teacher: Teacher, start: StudentInit) -> Teacher:
    """The teacher inside which the student is trained, reordered so that the student's channels come first."""
    if teacher.network is None or start.select == "leading":
        return teacher
    return Teacher(reordered(teacher.network, start.network.spec, start.select), teacher.origin)


def require_inside(student: StudentInit, method: str, *, has_labels: bool) -> None:
    """Refuse options that have no meaning for a student trained on slices of the teacher's own weights."""
    inside = f"{method} trains the student on slices of the teacher's own weights"
    if student.init != "inherit":
        others = "random" if student.init == "random" else "others"
        raise UsageError(f"{inside}, and these would be {others}: --init inherit")
    if student.init_from is not None:
        raise UsageError(f"{inside}: leave out --init-from, or give {student.init_from.path} as --teacher")
    if not has_labels:
        raise UsageError(f"--lr-only: {method} trains its teacher, which then cannot be the only label; use csd-lite")


# The images.


def data_choice(options: CompressOptions) -> DataChoice:
    """The choice of images; refuse contradictory options."""
    return DataChoice(
        data=path_of(options.data.data),
        lr=path_of(options.data.lr_images),
        val=(
            *(ValidationFolder(path, name) for name, path in map(split_name, map(str, as_tuple(options.data.val)))),
            *(
                ValidationFolder(path, name, True)
                for name, path in map(split_name, map(str, as_tuple(options.data.val_lr)))
            ),
        ),
        lr_border=options.data.lr_border,
        lr_only=path_of(options.data.lr_only),
        cache_size=parse_bytes(options.data.cache_size),
    )


def _prepare_images(
    networks: RunNetworks, choice: DataChoice, context: Context, shared: RunConfig | None, inputs: SharedInputs
) -> tuple[Data, TeacherCache | None]:
    """Check the teacher on a photo, decode the images, and plan the teacher cache."""
    options, rule, teacher = networks.options, networks.preset.schedule, networks.teacher
    views: tuple[View, ...] = ()
    if options.training.teacher_cache:
        views = views_to_cache(options.training.recipe, networks.methods, labels=networks.labels)
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


def require_tracked_images(options: CompressOptions, data: Data) -> None:
    """Refuse the number of an image that is not there."""
    count = len(data.validation_names)
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
    if teacher is None or has_cache or not networks.runs_teacher_on_patches:
        if given:
            reason = (
                "with --teacher-cache the teacher sees whole images"
                if has_cache
                else f"recipe {networks.recipe} does not run a frozen teacher on patches"
            )
            raise UsageError(f"--label-margin {given}: {reason}; leave it out")
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
