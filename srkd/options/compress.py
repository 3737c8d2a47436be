"""The options of `srkd compress` in their groups, and those of `srkd plan`, which shares two of them.

A run derived from another one has some of its groups replaced: the second run of --then has a teacher of its own, no
student and no target of the user's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from compressor.base.cache_folder import DEFAULT_LIMIT
from compressor.base.choices import (
    DEFAULT_TRACKERS,
    MOST_LIMITS,
    TRACKERS,
    BaselineName,
    Border,
    Goal,
    GoalOption,
    Init,
    Select,
    TrackerName,
)
from compressor.base.errors import UsageError
from compressor.degradation.names import NONE
from compressor.runtimes.table import RUNTIMES
from srkd.options.option import Group, Option, Options, options
from srkd.options.shared import (
    GOAL_HELP,
    LIMITS_HELP,
    TRUST_HELP,
    Degrade,
    ModelOrPath,
    PathOption,
    Paths,
    Size,
    path_of,
    require_64_bits,
)
from srkd.options.values import (
    BYTES,
    CLUSTER,
    COUNTS,
    DEVICE,
    INPUT,
    MODEL,
    NAMED_FOLDERS,
    PATHS,
    SETTING,
    SIZE,
    TEXTS,
    names_of,
    one_of,
)

TargetPrecision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]

if TYPE_CHECKING:
    from compressor.training.method import Method

AUTO = "auto"
"""The recipe that depends on the teacher."""
THEN = "then."
"""Prefix of a setting of the second recipe."""
SCHEDULE_SETTINGS = {"batch": "schedule.batch", "lr_patch": "schedule.lr_patch", "rate": "schedule.rate"}
"""Options that are shorter names of the recipe's settings."""
DECIDED_BY = {
    **{key: (name,) for name, key in SCHEDULE_SETTINGS.items()},
    "schedule.hr_patch": ("lr_patch",),
    "student.width": ("width", "student"),
    "student.depth": ("depth", "student"),
    "student.init": ("init",),
    "student.select": ("select",),
}
"""The options of which one decides what a setting of the recipe would, so that both together say it twice."""


def recipe_as_text(recipe: object) -> object:
    from recipes.config.by_class import recipe_of  # imports yaml

    return recipe if recipe is None or isinstance(recipe, str) else recipe_of(recipe)


def absolute_recipe(recipe: str | None) -> str | None:
    """The recipe with the absolute path of its file, so that a run continues from any folder."""
    from recipes.config.reading import absolute_recipe  # imports yaml

    return None if recipe is None else absolute_recipe(recipe)


@options
class TeacherOptions(Group):
    """The teacher, and how its file is read."""

    teacher: Annotated[ModelOrPath | None, MODEL, INPUT, Option(unset="the embedded EDSR")] = None
    """Checkpoint of the teacher."""
    _: KW_ONLY
    scale: Annotated[int | None, Field(ge=1, le=8), Option(unset="the teacher's")] = None
    """Scale of the student: that of the teacher, or a smaller one, to which the teacher's images are reduced."""
    teacher_scale: Annotated[int | None, Field(ge=1, le=8), Option(unset="--scale", rare=True)] = None
    """Scale of the teacher in a file that has several."""
    arch_options: Annotated[
        Mapping[str, Any] | None, SETTING, Option(unset="what srkd assumes", flags=("--arch-option",))
    ] = None
    """Facts that the teacher's file does not hold, such as res_scale=0.1."""
    goal: Annotated[GoalOption, Option(GOAL_HELP)] = "auto"
    limits: Annotated[float, Field(ge=1, le=MOST_LIMITS), Option(LIMITS_HELP, rare=True)] = 1.0
    trust_code: Annotated[bool, Option(TRUST_HELP, rare=True)] = False

    @property
    def path(self) -> Path | None:
        """The path of the teacher's file; None stands for the embedded one."""
        if self.teacher is None or isinstance(self.teacher, (str, os.PathLike)):
            return path_of(self.teacher)
        raise TypeError("the teacher is a network that no file holds yet")


@options
class StudentOptions(Group):
    """The student's shape and its first weights."""

    _: KW_ONLY
    width: Annotated[float | None, Field(gt=0, le=1), Option(unset="the recipe's")] = None
    """Fraction of the teacher's channels that the student keeps."""
    depth: Annotated[float | None, Field(gt=0, le=1), Option(unset="the recipe's")] = None
    """Fraction of the teacher's blocks that the student keeps."""
    student: Annotated[str | None, Option(unset="by --width and --depth", metavar="SPEC")] = None
    """The student's whole shape, such as edsr:width=48,depth=16,scale=4, or a size of `srkd networks`: plain-s."""
    init: Annotated[Init | None, Option(unset="the recipe's; with --student: solved for where possible")] = None
    """First weights of the student: solved for, cut from the teacher, or random."""
    select: Annotated[Select | None, Option(unset="the recipe's", rare=True)] = None
    """Channels that the student inherits: the first, the strongest, or the principal directions."""
    init_from: Annotated[PathOption, MODEL, INPUT, Option(unset="no file")] = None
    """Start from this model's weights where name and shape agree."""


@options
class TargetOptions(Group):
    """What the student must reach, and where. None stands for any, and for the usual place."""

    _: KW_ONLY
    target_fps: Annotated[float | None, Field(gt=0), Option(unset="any")] = None
    """Images a second that the student must reach."""
    target_ms: Annotated[float | None, Field(gt=0), Option(unset="any")] = None
    """Milliseconds that an image may take."""
    target_mb: Annotated[float | None, Field(gt=0), Option(unset="any")] = None
    """Megabytes (10⁶ bytes) of the file."""
    target_macs: Annotated[float | None, Field(gt=0), Option(unset="any", rare=True)] = None
    """Multiply-accumulates of an image, such as 5e9."""
    runtime: Annotated[
        str | None,
        one_of(*RUNTIMES),
        Option(
            f"Runtime in which the student must meet the target: {', '.join(RUNTIMES)}.",
            unset="onnxruntime",
            metavar="NAME",
        ),
    ] = None
    precision: Annotated[TargetPrecision | None, Option(unset="fp32")] = None
    """Precision in which it must meet the target; int8: in all layers."""
    lr_size: Annotated[Size | None, SIZE, Option(unset="320x180")] = None
    """LR size at which it must meet the target."""

    @property
    def is_given(self) -> bool:
        return (self.target_fps, self.target_ms, self.target_mb, self.target_macs) != (None,) * 4


@options
class DataOptions(Group):
    """The images that a run trains and validates on."""

    _: KW_ONLY
    data: Annotated[Paths | None, PATHS, INPUT, Option(unset="the embedded photos", metavar="DIR")] = None
    """Folder of HR images, a set with HR/, or several sets; or a film, whose frames are as those of --lr-only. Several
    folders, each with its own --data, are one set."""
    lr_images: Annotated[PathOption, INPUT, Option(unset="made bicubically")] = None
    """Folder of the LR images of --data."""
    val: Annotated[Paths, NAMED_FOLDERS, Option(unset="some of --data, or embedded ones")] = ()
    """Validation images; give it again for more sets. The first decides which student is best."""
    val_lr: Annotated[Paths, NAMED_FOLDERS, Option(unset="none", rare=True)] = ()
    """LR images without HR partners to validate on, by the teacher's images."""
    labels: Annotated[
        Goal | None,
        Option(unset="the originals; with --goal teacher its images, in recipes that use the teacher", rare=True),
    ] = None
    """What the student learns to give: the original images or the teacher's."""
    lr_only: Annotated[PathOption, INPUT, Option(unset="HR images are the labels", metavar="DIR")] = None
    """Folder of LR images without HR partners, or a film: the teacher's output is their only label."""
    degrade: Degrade = NONE
    degrade_once: Annotated[bool, Option(rare=True)] = False
    """Degrade each training image once, not anew for each patch, as teacher_cache does."""
    lr_border: Annotated[Border, Option(rare=True)] = "mirror"
    """Border of the downscale that makes LR images; clamp is that of an older MATLAB."""
    cache_size: Annotated[int | str, BYTES, Option(rare=True)] = DEFAULT_LIMIT
    """Disk space for decoded images between runs (docs/use/data.md); 0: nothing is kept."""


@options
class TrainingOptions(Group):
    """The recipe, what is changed in it, and its length."""

    _: KW_ONLY
    recipe: Annotated[str, BeforeValidator(recipe_as_text), AfterValidator(absolute_recipe)] = AUTO
    """A name of `srkd recipes ls`, a file such as ./my.yaml, or a method of a file: ./mine.py:SobelKD. auto: perceptual
    for a teacher that is trained for looks, else logits."""
    then: Annotated[str | None, AfterValidator(absolute_recipe), Option(unset="no second recipe", metavar="RECIPE")] = (
        None
    )
    """Second recipe, pams or pact, that quantises the trained student. --steps, --batch and --lr-patch hold for both
    recipes; --set then.KEY=VALUE changes the second."""
    steps: Annotated[int | None, Field(ge=1), Option(unset="the recipe's")] = None
    """Updates; milestones and warm-up are rescaled."""
    minutes: Annotated[float | None, Field(gt=0), Option(unset="as long as the steps take")] = None
    """Minutes until the run ends, in place of steps: as many as fit, by real ones of each stage."""
    batch: Annotated[int | None, Field(ge=1), Option(unset="the recipe's")] = None
    """Patches in a batch, over all processes."""
    lr_patch: Annotated[int | None, Field(ge=1), Option(unset="the recipe's")] = None
    """Side of a patch in LR pixels."""
    rate: Annotated[float | None, Field(gt=0), Option(unset="the recipe's")] = None
    """Learning rate."""
    seed: Annotated[int, AfterValidator(require_64_bits)] = 10
    """The same seed gives the same run."""
    settings: Annotated[Sequence[str], TEXTS, Option(flags=("--set",), metavar="KEY=VALUE")] = ()
    """Change the recipe: schedule.warmup=500, kappa=0.5."""
    teacher_cache: Annotated[bool, Option(rare=True)] = False
    """Run the teacher once over whole images; steps crop its stored outputs (fp16)."""
    label_margin: Annotated[
        int | None,
        Field(ge=0),
        Option(unset="measured at the start: as many as its images need, often none", rare=True),
    ] = None
    """LR pixels around each patch that the teacher sees, too; 0: none."""
    calm: Annotated[
        float | None,
        Field(ge=0),
        Option(
            unset="that of the method where the images are a film, or --degrade is video or h264; else none", rare=True
        ),
    ] = None
    """Weight of a term that makes the student give one image for one content under other noise; 0: none."""
    phi_weights: Annotated[
        PathOption, INPUT, Option(unset="the one in the cache, or downloaded", metavar="FILE", rare=True)
    ] = None
    """vgg19-dcbb9e9d.pth of torchvision, for recipes with the option phi."""

    @property
    def own_settings(self) -> tuple[str, ...]:
        return tuple(setting for setting in self.settings if not setting.startswith(THEN))

    @property
    def own_keys(self) -> tuple[str, ...]:
        return tuple(setting.partition("=")[0].strip() for setting in self.own_settings)

    @property
    def then_settings(self) -> tuple[str, ...]:
        """The settings of `then` from `--set`, without their prefix."""
        return tuple(setting.removeprefix(THEN) for setting in self.settings if setting.startswith(THEN))

    @property
    def recipe_settings(self) -> tuple[str, ...]:
        """The settings of the recipe, also those that have their own option."""
        shorter = {key: getattr(self, name) for name, key in SCHEDULE_SETTINGS.items()}
        return (*self.own_settings, *(f"{key}={value}" for key, value in shorter.items() if value is not None))


@options
class RunOptions(Group):
    """Where and how often a run is made."""

    _: KW_ONLY
    out: Annotated[PathOption, Option(flags=("-o", "--out"), in_json=False)] = None
    """Run folder to write, required for a run; must not exist yet."""
    with_baseline: bool = False
    """Also train the same student on the same batches without distillation, and by logits."""
    baselines: Annotated[
        tuple[BaselineName, ...], names_of(*get_args(BaselineName)), Option(unset="none", rare=True)
    ] = ()
    """The baselines to train, some of scratch, inherit, fit, init-from, logits."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """Number of runs with different seeds, for mean and spread."""
    sweep: Annotated[Sequence[str], TEXTS, Option(unset="none", metavar="KEY=V1,V2")] = ()
    """Train once for each value of a student or training option, or of a key of --set, such as rate=1e-4,2e-4; give it
    again for all combinations."""
    jobs: Annotated[int | None, Field(ge=1), Option(unset="1")] = None
    """Train this many of the runs at the same time, each in a process; --device cuda: on the next GPU."""
    on: Annotated[str | None, CLUSTER, Option(unset="here", rare=True)] = None
    """Train the runs as tasks of a Ray cluster (srkd[ray], docs/use/many-gpus.md)."""
    device: Annotated[str, DEVICE] = "cpu"
    """cpu, cuda, cuda:N or mps."""
    threads: Annotated[
        int | None, Field(ge=1), Option(unset="as many as torch uses; with --jobs its share of the cores")
    ] = None
    """CPU threads."""
    track: Annotated[tuple[TrackerName, ...], names_of(*TRACKERS), Option(rare=True)] = DEFAULT_TRACKERS
    """Where to watch curves: tensorboard (files in the run folder), wandb (Weights & Biases, srkd[wandb])."""
    track_images: Annotated[
        int | Sequence[int] | None, COUNTS, Option(unset="the first, and none to wandb", rare=True)
    ] = None
    """Numbers, from 1, of the validation images that are shown there as student, teacher and bicubic."""

    @property
    def has_baselines(self) -> bool:
        return self.with_baseline or self.baselines != ()

    @property
    def is_side_by_side(self) -> bool:
        """Whether processes of their own train the runs of a plan."""
        return self.on is not None or (self.jobs is not None and self.jobs > 1)

    @property
    def folder(self) -> Path:
        """The folder that the run writes; refuse options without one."""
        if self.out is None:
            raise UsageError("missing option '--out': the run folder to write")
        return Path(self.out)


@options
class CompressOptions(Options):
    """A run, or the base from which the runs of a plan are derived."""

    _: KW_ONLY
    teacher: TeacherOptions = TeacherOptions()
    student: StudentOptions = StudentOptions()
    target: TargetOptions = TargetOptions()
    data: DataOptions = DataOptions()
    training: TrainingOptions = TrainingOptions()
    run: RunOptions = RunOptions()

    def __post_init__(self) -> None:
        training = self.training
        if training.then is None and training.then_settings:
            raise UsageError(f"--set {THEN}{training.then_settings[0]}: there is no second recipe; add --then pams")
        if training.then is not None and self.is_compared:
            raise UsageError("--then makes one student: leave out --with-baseline, --baselines, --seeds and --sweep")
        if training.minutes is not None:
            if training.steps is not None:
                raise UsageError(
                    f"--minutes {training.minutes:g} chooses the steps: leave out --steps {training.steps}"
                )
            if training.then is not None or self.is_compared:
                raise UsageError("--minutes is for one run, and runs of a plan have equal steps: give --steps")
        given = {**vars(self.student), **vars(training)}
        for key in training.own_keys:
            for name in DECIDED_BY.get(key, ()):
                if given[name] is not None:
                    flag = f"--{name.replace('_', '-')}"
                    raise UsageError(f"{flag} {given[name]} and --set {key}=... say the same twice: give one of them")

    @property
    def is_compared(self) -> bool:
        """Whether the recipe is compared with baselines, over seeds or in a sweep, and so needs several runs."""
        return self.run.has_baselines or self.run.seeds > 1 or self.run.sweep != ()


@options
class CompressKeywords(
    TeacherOptions, StudentOptions, TargetOptions, DataOptions, TrainingOptions, RunOptions, Options
):
    """The groups of `CompressOptions` side by side: the typed arguments of `srkd.compress`."""

    if TYPE_CHECKING:
        _: KW_ONLY
        recipe: str | Method | type[Method] = AUTO  # type: ignore[assignment]  # a method becomes its text


@options
class MeasurementOptions(Group):
    """How a plan measures, here or elsewhere."""

    _: KW_ONLY
    device: Annotated[str, DEVICE] = "cpu"
    """Device that the student will run on."""
    threads: Annotated[int | None, Field(ge=1), Option(unset="as many as torch uses")] = None
    """CPU threads; no more than there are cores."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The student must meet the target even if it is slower by this share."""
    seconds: Annotated[float, Field(gt=0)] = 0.5
    """Time for each measurement of a shape."""
    quality: bool = True
    """Solve for the finalists' weights to compare their PSNR without training."""
    emit: Annotated[PathOption, Option(unset="time here", metavar="DIR")] = None
    """Write shapes as ONNX files, and a program that times them on another device."""
    measured: Annotated[PathOption, Option(unset="time here", metavar="FILE")] = None
    """Plan from the timings that such a program wrote."""


@options
class PictureOptions(Options):
    """The output of a plan."""

    _: KW_ONLY
    picture: Annotated[PathOption, Option(unset="no picture", flags=("-o", "--out", "--picture"))] = None
    """PNG file for speed against size."""


@options
class PlanOptions(PictureOptions):
    """A search for the largest student that meets a target."""

    _: KW_ONLY
    teacher: TeacherOptions = TeacherOptions()
    target: TargetOptions = TargetOptions()
    measurement: MeasurementOptions = MeasurementOptions()


@options
class PlanKeywords(TeacherOptions, TargetOptions, MeasurementOptions, PictureOptions):
    """The groups of `PlanOptions` side by side: the typed arguments of `srkd.plan`."""
