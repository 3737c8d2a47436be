"""The options of every verb, for the command line, the Python functions and run.json. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import click

from compressor.base.cache_folder import DEFAULT_LIMIT
from compressor.base.choices import DEFAULT_TRACKERS, MOST_LIMITS, TRACKERS, Border, Init, Select, TrackerName
from compressor.base.errors import UsageError
from compressor.runtimes.table import RUNTIMES, device_patterns
from export.formats.table import DEFAULT_FORMATS, FORMATS
from export.profile.presets import PRESETS
from srkd.options.declare import Option, Options, take_settings
from srkd.options.parameters import BYTES, COUNTS, DEVICE, MODEL, PICTURE, SETTING, SIZE, SIZES, names_of

if TYPE_CHECKING:
    from compressor.images.in_memory import ImageInMemory
    from compressor.models.networks.base import ImageModel
    from compressor.runtimes.base import Runtime

    ModelOrPath: TypeAlias = str | Path | ImageModel
    Model: TypeAlias = ModelOrPath | Runtime
    PictureOrPath: TypeAlias = str | Path | ImageInMemory
else:
    # The real types of networks, runtimes and images need torch.
    ModelOrPath: TypeAlias = str | Path | object
    Model: TypeAlias = str | Path | object
    PictureOrPath: TypeAlias = str | Path | object

PathOption: TypeAlias = str | Path | None
Size: TypeAlias = str | tuple[int, int]
"""An LR size as (width, height) or "WxH"; a checked option is always a tuple."""
Sizes: TypeAlias = Size | Sequence[Size]

# Options that several verbs share.
Device: TypeAlias = Annotated[
    str, Option(f"One of {', '.join(device_patterns())}; cuda:1 and openvino:GPU select one of several.", type=DEVICE)
]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Threads: TypeAlias = Annotated[int | None, Option("CPU threads.", unset="as many as torch uses", minimum=1)]
Tile: TypeAlias = Annotated[
    int | None, Option("Side of a tile in LR pixels; 0: no tiles.", unset="chosen by memory", minimum=0)
]
SelfEnsemble: TypeAlias = Annotated[bool, Option("Mean over the eight symmetries; takes eight times as long.")]
LIMITS = Option(
    "How many times 60 s, 4 GB and 64 MB of output a foreign program may use when it is first tried.",
    minimum=1,
    maximum=MOST_LIMITS,
)


TargetFps: TypeAlias = Annotated[
    float | None,
    Option("Images a second that the student must reach.", unset="any", minimum=0, above_minimum=True, group="target"),
]
TargetMs: TypeAlias = Annotated[
    float | None,
    Option("Milliseconds that an image may take.", unset="any", minimum=0, above_minimum=True, group="target"),
]
TargetMb: TypeAlias = Annotated[
    float | None,
    Option("Megabytes (10⁶ bytes) of the file.", unset="any", minimum=0, above_minimum=True, group="target"),
]
TargetMacs: TypeAlias = Annotated[
    float | None,
    Option(
        "Multiply-accumulates of an image, such as 5e9.", unset="any", minimum=0, above_minimum=True, group="target"
    ),
]
TargetPrecision: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]

LR_ALIAS = ("--lr",)
"""The older name of --lr-images, which looks like a learning rate."""

INPUT_PATHS = ("teacher", "data", "lr_images", "val", "lr_only", "init_from", "phi_weights")

THEN = "then."
"""Prefix of a setting of the second recipe."""
SCHEDULE_SETTINGS = {"batch": "schedule.batch", "lr_patch": "schedule.lr_patch", "rate": "schedule.rate"}
"""Options of compress that are shorter names of the recipe's settings."""


@dataclass(frozen=True)
class CompressOptions(Options):
    """One run, or a plan of runs. Paths of inputs become absolute, so that a run continues from any folder."""

    teacher: Annotated[
        ModelOrPath | None,
        Option("Checkpoint of the teacher.", unset="the embedded EDSR", type=MODEL, metavar="PATH", group="teacher"),
    ] = None
    _: KW_ONLY
    scale: Annotated[
        int | None,
        Option("Scale to take from a multi-scale file.", unset="the file's", minimum=1, maximum=8, group="teacher"),
    ] = None
    arch_options: Annotated[
        Mapping[str, Any] | None,
        Option(
            "Facts that the teacher's file does not hold, such as res_scale=0.1.",
            unset="what srkd assumes",
            flags=("--arch-option",),
            type=SETTING,
            group="teacher",
        ),
    ] = None
    limits: Annotated[float, replace(LIMITS, group="teacher", by_set=True)] = 1.0
    teacher_cache: Annotated[
        bool,
        Option(
            "Run the teacher once over whole images; steps crop its stored outputs (fp16).",
            group="teacher",
            by_set=True,
        ),
    ] = False
    phi_weights: Annotated[
        PathOption,
        Option(
            "vgg19-dcbb9e9d.pth of torchvision, for recipes with the option phi.",
            unset="the one in the cache, or downloaded",
            metavar="FILE",
            group="teacher",
            by_set=True,
        ),
    ] = None
    width: Annotated[
        float | None,
        Option(
            "Fraction of the teacher's channels that the student keeps.",
            unset="the recipe's",
            minimum=0,
            maximum=1,
            above_minimum=True,
            group="student",
        ),
    ] = None
    depth: Annotated[
        float | None,
        Option(
            "Fraction of the teacher's blocks that the student keeps.",
            unset="the recipe's",
            minimum=0,
            maximum=1,
            above_minimum=True,
            group="student",
        ),
    ] = None
    student: Annotated[
        str | None,
        Option(
            "The student's whole shape, such as edsr:width=48,depth=16,scale=4.",
            unset="by --width and --depth",
            metavar="SPEC",
            group="student",
        ),
    ] = None
    target_fps: TargetFps = None
    target_ms: TargetMs = None
    target_mb: TargetMb = None
    target_macs: TargetMacs = None
    runtime: Annotated[
        str | None,
        Option(
            "Runtime in which the student must meet the target; as in `srkd plan`.",
            unset="onnxruntime",
            type=click.Choice(list(RUNTIMES)),
            metavar="NAME",
            group="target",
        ),
    ] = None
    precision: Annotated[
        TargetPrecision | None, Option("Precision in which it must meet the target.", unset="fp32", group="target")
    ] = None
    lr_size: Annotated[
        Size | None, Option("LR size at which it must meet the target.", unset="320x180", type=SIZE, group="target")
    ] = None
    init: Annotated[
        Init | None,
        Option(
            "First weights of the student: solved for, cut from the teacher, or random.",
            unset="the recipe's; with --student: solved for if it is a smaller teacher, else random",
            group="student",
        ),
    ] = None
    select: Annotated[
        Select | None,
        Option(
            "Channels that the student inherits: the first, the strongest, or the principal directions.",
            unset="the recipe's",
            group="student",
            by_set=True,
        ),
    ] = None
    init_from: Annotated[
        PathOption,
        Option("Start from this file's weights where name and shape agree.", unset="no file", group="student"),
    ] = None
    data: Annotated[
        PathOption,
        Option("Folder of HR images, a set with HR/, or several sets.", unset="the embedded photos", group="data"),
    ] = None
    lr_images: Annotated[
        PathOption,
        Option("Folder of the LR images of --data.", unset="made bicubically", aliases=LR_ALIAS, group="data"),
    ] = None
    val: Annotated[PathOption, Option("Validation images.", unset="some of --data, or embedded ones", group="data")] = (
        None
    )
    lr_only: Annotated[
        PathOption,
        Option(
            "Folder of LR images without HR partners: the teacher's output is their only label.",
            unset="HR images are the labels",
            metavar="DIR",
            group="data",
        ),
    ] = None
    lr_border: Annotated[
        Border,
        Option(
            "Border of the downscale that makes LR images; clamp is that of an older MATLAB.", group="data", by_set=True
        ),
    ] = "mirror"
    cache_size: Annotated[
        int | str,
        Option(
            "Disk space for decoded images between runs (docs/use/data.md); 0: nothing is kept.",
            type=BYTES,
            group="data",
            by_set=True,
        ),
    ] = DEFAULT_LIMIT
    recipe: Annotated[str, Option("A name of `srkd recipes ls`, or a file such as ./my.yaml.", group="training")] = (
        "logits"
    )
    then: Annotated[
        str | None,
        Option(
            "Second recipe, pams or pact, that quantises the trained student. --steps, --batch and --lr-patch hold "
            "for both recipes; --set then.KEY=VALUE changes the second.",
            unset="no second recipe",
            metavar="RECIPE",
            group="training",
        ),
    ] = None
    steps: Annotated[
        int | None,
        Option("Updates; milestones and warm-up are rescaled.", unset="the recipe's", minimum=1, group="training"),
    ] = None
    batch: Annotated[
        int | None,
        Option("Patches in a batch, over all processes.", unset="the recipe's", minimum=1, group="training"),
    ] = None
    lr_patch: Annotated[
        int | None, Option("Side of a patch in LR pixels.", unset="the recipe's", minimum=1, group="training")
    ] = None
    rate: Annotated[
        float | None,
        Option("Learning rate.", unset="the recipe's", minimum=0, above_minimum=True, group="training"),
    ] = None
    seed: Annotated[int, Option("The same seed gives the same run.", group="training")] = 10
    settings: Annotated[
        Sequence[str],
        Option(
            "Change the recipe: schedule.warmup=500, kappa=0.5. Also sets rare options: cache_size, limits, "
            "lr_border, phi_weights, select, teacher_cache (docs/reference.md).",
            flags=("--set",),
            metavar="KEY=VALUE",
            group="training",
        ),
    ] = ()
    out: Annotated[
        PathOption,
        Option(
            "Run folder to write, required for a run; must not exist yet.",
            flags=("-o", "--out"),
            in_json=False,
            group="run",
        ),
    ] = None
    with_baseline: Annotated[
        bool, Option("Also train the same student on the same batches without distillation.", group="run")
    ] = False
    seeds: Annotated[
        int, Option("Number of runs with different seeds, for mean and spread.", minimum=1, group="run")
    ] = 1
    device: Annotated[str, Option("cpu, cuda, cuda:N or mps.", type=DEVICE, group="run")] = "cpu"
    threads: Annotated[int | None, Option("CPU threads.", unset="as many as torch uses", minimum=1, group="run")] = None
    plan: Mapping[str, Any] | None = None
    """The plan that chose the student, in the form of run.json; not an option of the command line."""
    track: Annotated[
        tuple[TrackerName, ...],
        Option(
            "Where to watch curves: tensorboard (files in the run folder), wandb (Weights & Biases, srkd[wandb]).",
            type=names_of(*TRACKERS),
            group="run",
        ),
    ] = DEFAULT_TRACKERS

    def __post_init__(self) -> None:
        from recipes.config.reading import is_recipe_file  # imports pydantic

        refuse_rate(self.lr_images)
        super().__post_init__()
        object.__setattr__(self, "settings", take_settings(self, self.settings))
        object.__setattr__(self, "arch_options", self.arch_options or {})
        for name in INPUT_PATHS:
            path = getattr(self, name)
            # An open network stays as it is until the run writes its file.
            if isinstance(path, (str, os.PathLike)):
                object.__setattr__(self, name, Path(path).resolve())
        for name in ("recipe", "then"):
            recipe = getattr(self, name)
            if recipe is not None and is_recipe_file(recipe):
                object.__setattr__(self, name, str(Path(recipe).resolve()))
        if self.then is None and self.then_settings:
            raise UsageError(f"--set {THEN}{self.then_settings[0]}: there is no second recipe; add --then pams")
        if self.then is not None and self.is_plan:
            raise UsageError("--then makes one student: leave out --with-baseline and --seeds")

    @property
    def teacher_path(self) -> Path | None:
        """Return the path of the teacher's file; None stands for the embedded one."""
        if self.teacher is None or isinstance(self.teacher, (str, os.PathLike)):
            return path_of(self.teacher)
        raise TypeError("the teacher is a network that no file holds yet")

    @property
    def run_folder(self) -> Path:
        """Return the folder that the run writes; refuse options without one."""
        if self.out is None:
            raise UsageError("missing option '--out': the run folder to write")
        return Path(self.out)

    @property
    def own_settings(self) -> tuple[str, ...]:
        """Return the settings of `recipe` from `--set`."""
        return tuple(setting for setting in self.settings if not setting.startswith(THEN))

    @property
    def then_settings(self) -> tuple[str, ...]:
        """Return the settings of `then` from `--set`, without their prefix."""
        return tuple(setting.removeprefix(THEN) for setting in self.settings if setting.startswith(THEN))

    @property
    def recipe_settings(self) -> tuple[str, ...]:
        """Return the settings of the recipe, also those that have their own option."""
        settings = self.own_settings
        keys = [setting.partition("=")[0].strip() for setting in settings]
        shorter = {key: getattr(self, name) for name, key in SCHEDULE_SETTINGS.items()}
        for name, key in SCHEDULE_SETTINGS.items():
            if key in keys and shorter[key] is not None:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {shorter[key]} and --set {key}=... say the same twice: give one of them")
        return (*settings, *(f"{key}={value}" for key, value in shorter.items() if value is not None))

    @property
    def has_target(self) -> bool:
        """Return whether a target decides the student."""
        targets = (self.target_fps, self.target_ms, self.target_mb, self.target_macs)
        return any(target is not None for target in targets)

    @property
    def is_plan(self) -> bool:
        """Return whether the options require several runs: baselines or seeds."""
        return self.with_baseline or self.seeds > 1


def refuse_rate(lr_images: object) -> None:
    """Refuse a number where the folder of LR images is expected: in other programs --lr is the learning rate."""
    try:
        number = float(str(lr_images))
    except ValueError:
        return
    if not Path(str(lr_images)).exists():
        raise UsageError(f"--lr-images {lr_images} is no folder of LR images; the learning rate is --rate {number:g}")


def path_of(value: PathOption) -> Path | None:
    """Return an optional path as a `Path`."""
    return None if value is None else Path(value)


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """Options for reading a checkpoint."""

    scale: Annotated[int | None, Option("Scale to take from a multi-scale file.", minimum=1, maximum=8)] = None
    arch_options: Annotated[
        Mapping[str, object] | None,
        Option("Facts that the file does not hold, such as res_scale=0.1.", flags=("--arch-option",), type=SETTING),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProgramOptions(CheckpointOptions):
    """Options for reading a checkpoint and for the first run of a foreign program."""

    limits: Annotated[float, LIMITS] = 1.0


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions(ProgramOptions):
    """Options for opening models."""

    device: Device = "cpu"
    runtime: Annotated[
        str | None, Option("Runtime to use.", unset="the one the file is for", type=click.Choice(list(RUNTIMES)))
    ] = None
    precision: Annotated[Precision | None, Option("Precision of the arithmetic in torch and OpenVINO.")] = None
    threads: Threads = None


FORMAT_FLAGS = {
    row.name: f"{row.description}{'; the default' if row.name in DEFAULT_FORMATS else ''}." for row in FORMATS.values()
}


@dataclass(frozen=True)
class ExportOptions(CheckpointOptions):
    model: Annotated[ModelOrPath, Option("Checkpoint, run folder or exported file.", type=MODEL, argument=True)]
    _: KW_ONLY
    formats: Annotated[
        Sequence[str],
        Option(
            f"Names of formats: {', '.join(FORMATS)}.", unset=", ".join(DEFAULT_FORMATS), flag_per_value=FORMAT_FLAGS
        ),
    ] = ()
    out: Annotated[PathOption, Option("Folder to write to.", unset="beside the model", flags=("-o", "--out"))] = None
    static: Annotated[
        Size | None, Option("The only LR size that the files take.", unset="any, where possible", type=SIZE)
    ] = None
    sizes: Annotated[
        Sizes | None,
        Option("LR sizes that a TensorRT engine is tuned for, and takes at most.", unset="256x256,512x512", type=SIZES),
    ] = None
    io: Annotated[
        Literal["float", "uint8"],
        Option("Images of the files: N,C,H,W in [0,1] unclamped, or N,H,W,C bytes, clamped and rounded inside."),
    ] = "float"
    shuffle: Annotated[
        Literal["crd", "dcr"], Option("Order of channels at DepthToSpace; some accelerators support only dcr.")
    ] = "crd"
    calibrate: Annotated[
        PathOption, Option("Photos on which int8 measures a network's values.", unset="embedded photos", metavar="DIR")
    ] = None
    data: Annotated[
        PathOption,
        Option("Photos on which the loss of int8 is measured.", unset="other embedded photos", metavar="DIR"),
    ] = None
    max_drop: Annotated[float, Option("Y-PSNR in dB that int8 may lose at most on these photos.", minimum=0)] = 0.1


@dataclass(frozen=True)
class ProfileOptions(ProgramOptions):
    models: Annotated[
        ModelOrPath | Sequence[ModelOrPath],
        Option(
            "Checkpoints, run folders and exported files.",
            unset="the networks of --preset",
            type=MODEL,
            argument=True,
            metavar="[MODEL]...",
        ),
    ] = ()
    _: KW_ONLY
    teacher: Annotated[
        ModelOrPath | None,
        Option("Model to compare with.", unset="the teacher of a run folder", type=MODEL, metavar="PATH"),
    ] = None
    runtime: Annotated[
        Sequence[str],
        Option(
            f"Some of {', '.join(RUNTIMES)}, or all; checkpoints are exported if a runtime needs it.",
            type=names_of(*RUNTIMES, "all"),
        ),
    ] = ("torch", "onnxruntime")
    device: Device = "cpu"
    precision: Annotated[
        str | Sequence[str],
        Option(
            "Precisions of the arithmetic in torch and OpenVINO, some of fp32, bf16, fp16, int8; other runtimes' "
            "files have their own. int8: checkpoints are written in eight bits for the runtimes that support it, "
            "without a limit of the loss; torch and the teacher stay in float.",
            type=names_of("fp32", "bf16", "fp16", "int8"),
        ),
    ] = ("fp32",)
    lr_size: Annotated[
        Sizes | None, Option("Sizes of the LR image.", unset="128x128, or those of --preset", type=SIZES)
    ] = None
    batch: Annotated[int | Sequence[int], Option("Images in a batch, one number or several.", type=COUNTS)] = (1,)
    threads: Annotated[
        int | None, Option("CPU threads; no more than there are cores.", unset="as many as torch uses", minimum=1)
    ] = None
    seconds: Annotated[float, Option("Time for each row at each size.", minimum=0.1)] = 3.0
    memory: Annotated[bool, Option("Measure peak memory.")] = True
    quality: Annotated[bool, Option("Measure Y-PSNR on the embedded validation photos.")] = True
    layers: Annotated[bool, Option("Show time and MACs of each layer (torch and onnxruntime).")] = False
    preset: Annotated[
        str | None,
        Option(
            f"Profile the networks of a published table, untrained, beside its figures: {', '.join(PRESETS)}.",
            type=click.Choice(list(PRESETS)),
        ),
    ] = None
    pareto: Annotated[
        PathOption, Option("Draw quality against speed as a PNG picture.", unset="no picture", metavar="FILE")
    ] = None


@dataclass(frozen=True)
class PlanOptions(ProgramOptions):
    teacher: Annotated[
        ModelOrPath | None, Option("Checkpoint of the teacher.", unset="the embedded EDSR", type=MODEL, metavar="PATH")
    ] = None
    _: KW_ONLY
    target_fps: TargetFps = None
    target_ms: TargetMs = None
    target_mb: TargetMb = None
    target_macs: TargetMacs = None
    runtime: Annotated[
        str,
        Option(
            f"Runtime in which the student will run: {', '.join(RUNTIMES)}.",
            type=click.Choice(list(RUNTIMES)),
            metavar="NAME",
            group="target",
        ),
    ] = "onnxruntime"
    precision: Annotated[
        TargetPrecision,
        Option("Precision of the student's file; int8: in all layers.", group="target"),
    ] = "fp32"
    lr_size: Annotated[Size, Option("Size of the LR images that the student will get.", type=SIZE, group="target")] = (
        320,
        180,
    )
    device: Annotated[str, Option("Device that the student will run on.", type=DEVICE, group="target")] = "cpu"
    threads: Annotated[
        int | None,
        Option("CPU threads; no more than there are cores.", unset="as many as torch uses", minimum=1, group="target"),
    ] = None
    margin: Annotated[
        float,
        Option(
            "The student must meet the target even if it is slower by this share.", minimum=0, maximum=1, group="target"
        ),
    ] = 0.1
    seconds: Annotated[float, Option("Time for each measurement of a shape.", minimum=0, above_minimum=True)] = 0.5
    quality: Annotated[bool, Option("Solve for the finalists' weights to compare their PSNR without training.")] = True
    picture: Annotated[
        PathOption,
        Option("PNG file for speed against size.", unset="no picture", flags=("-o", "--out", "--picture")),
    ] = None
    emit: Annotated[
        PathOption,
        Option(
            "Write shapes as ONNX files and a program that times them on another device.",
            unset="time here",
            metavar="DIR",
        ),
    ] = None
    measured: Annotated[
        PathOption, Option("Plan from the timings that this program wrote.", unset="time here", metavar="FILE")
    ] = None


@dataclass(frozen=True)
class EvaluateOptions(RuntimeOptions):
    models: Annotated[
        Model | Sequence[Model],
        Option(
            "Checkpoints, run folders and exported files.",
            unset="bicubic alone",
            type=MODEL,
            argument=True,
            metavar="[MODEL]...",
        ),
    ] = ()
    _: KW_ONLY
    data: Annotated[
        PathOption,
        Option("Folder of HR images, a set with HR/ and LR*X4/, or several sets.", unset="the embedded photos"),
    ] = None
    lr_images: Annotated[
        PathOption,
        Option("Folder of the LR images of --data.", unset="its LR*X4/, or made bicubically", aliases=LR_ALIAS),
    ] = None
    border: Annotated[int | None, Option("Pixels cropped on each side.", unset="as many as the scale", minimum=0)] = (
        None
    )
    lr_border: Annotated[
        Border, Option("Border of the bicubic that makes LR images; clamp for packs made by an older MATLAB.")
    ] = "mirror"
    grey: Annotated[Literal["rgb", "raw"], Option("Grey files: replicated to RGB and then Y, or their raw values.")] = (
        "rgb"
    )
    self_ensemble: SelfEnsemble = False
    tile: Tile = None


@dataclass(frozen=True)
class UpscaleOptions(RuntimeOptions):
    model: Annotated[Model, Option("Checkpoint, run folder or exported file.", type=MODEL, argument=True)]
    inputs: Annotated[
        PictureOrPath | Sequence[PictureOrPath],
        Option("Pictures, folders of pictures and globs.", type=PICTURE, argument=True, metavar="PICTURE..."),
    ]
    _: KW_ONLY
    out: Annotated[
        PathOption, Option("Folder, or a file for one picture.", unset="beside the picture", flags=("-o", "--out"))
    ] = None
    suffix: Annotated[str | None, Option("End of the names of the written files.", unset="_x4 at scale 4")] = None
    extension: Annotated[
        str | None,
        Option(
            "Format to write, such as .png. WebP is lossless where the picture is; JPEG never.",
            unset="the format of the picture",
            metavar=".EXT",
        ),
    ] = None
    overwrite: Annotated[bool, Option("Write over files that exist, but never over an input.")] = False
    skip_existing: Annotated[bool, Option("Skip pictures whose output exists, to continue a long job.")] = False
    recursive: Annotated[
        bool,
        Option("Search the folders inside folders, too; --out repeats them.", flags=("-r", "--recursive")),
    ] = False
    tile: Tile = None
    overlap: Annotated[
        int,
        Option(
            "LR pixels around a tile, for networks that see the whole picture; others overlap as far as they see, "
            "and are exact.",
            minimum=0,
        ),
    ] = 16
    self_ensemble: SelfEnsemble = False
    exact: Annotated[
        bool,
        Option(
            "Always compute in fp32. Otherwise checkpoints compute large 8-bit pictures in bf16, if the device "
            "supports it and samples of the picture are 50 dB or more from fp32, no value over 2 grey levels off."
        ),
    ] = False

    def __post_init__(self) -> None:
        inputs = self.inputs
        super().__post_init__()
        if not isinstance(inputs, (str, os.PathLike, Sequence)):
            object.__setattr__(self, "inputs", inputs)  # one image stays one image, so that one is returned


@dataclass(frozen=True)
class InspectOptions(ProgramOptions):
    path: Annotated[
        ModelOrPath, Option("Checkpoint, run folder or exported file.", type=MODEL, argument=True, metavar="MODEL")
    ]
    _: KW_ONLY
    lr_size: Annotated[Size, Option("LR image that MACs are counted for.", type=SIZE)] = (256, 256)
    layers: Annotated[bool, Option("Add the cost of each layer.")] = False
    check: Annotated[bool, Option("Run it on an embedded photo to check its range, res_scale and mean.")] = False


@dataclass(frozen=True)
class ConvertOptions(CheckpointOptions):
    model: Annotated[ModelOrPath, Option("Checkpoint or run folder.", type=MODEL, argument=True)]
    _: KW_ONLY
    to: Annotated[str, Option("basicsr, edsr-pytorch, srkd; also rcan, carn, csd, fakd, swinir.", metavar="CODE")]
    out: Annotated[PathOption, Option("File to write.", unset="beside the model, as _CODE", flags=("-o", "--out"))] = (
        None
    )


@dataclass(frozen=True)
class DemoOptions(ProgramOptions):
    models: Annotated[
        str | Path | Sequence[str | Path],
        Option(
            "Checkpoints, run folders and ONNX files.",
            unset="the embedded student",
            argument=True,
            metavar="[MODEL]...",
        ),
    ] = ()
    _: KW_ONLY
    teacher: Annotated[
        PathOption, Option("Model to compare with.", unset="the run folder's, or the embedded teacher")
    ] = None
    host: Annotated[str, Option("Address to listen on; 0.0.0.0: other devices can connect.")] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on; 0: a free one.", minimum=0, maximum=65535)] = 8000
    tls_cert: Annotated[PathOption, Option("Certificate with its chain, PEM: serve https.")] = None
    tls_key: Annotated[PathOption, Option("Key of the certificate, PEM.")] = None
    open_browser: Annotated[bool, Option("Open this machine's browser.", flags=("--open",))] = False
    build: Annotated[PathOption, Option("Write files for an https host; serve nothing.", metavar="DIR")] = None
    app: Annotated[PathOption, Option("Built app to show the models in.", unset="the one of srkd", metavar="DIR")] = (
        None
    )


@dataclass(frozen=True)
class PlotOptions(Options):
    runs: Annotated[
        str | Path | Sequence[str | Path], Option("Run folders, finished or not.", argument=True, metavar="RUN...")
    ]
    _: KW_ONLY
    out: Annotated[
        PathOption, Option("PNG file to write.", unset="curves.png in the run folder", flags=("-o", "--out"))
    ] = None


@dataclass(frozen=True)
class ReportOptions(Options):
    runs: Annotated[
        str | Path | Sequence[str | Path], Option("Run folders, finished or not.", argument=True, metavar="RUN...")
    ]
    _: KW_ONLY
    out: Annotated[
        PathOption, Option("HTML file to write.", unset="report.html in the run folder", flags=("-o", "--out"))
    ] = None
    data: Annotated[
        PathOption,
        Option("Folder of HR images to take the pictures from.", unset="the embedded validation photos"),
    ] = None
    speed: Annotated[
        bool, Option("Show the speed, from profile.json in the run folder or a measurement of seconds.")
    ] = True
    threads: Annotated[int | None, Option("CPU threads of that measurement.", unset="any", minimum=1)] = None


@dataclass(frozen=True)
class CompareOptions(Options):
    runs: Annotated[str | Path | Sequence[str | Path], Option("Run folders.", argument=True, metavar="RUN...")]
    _: KW_ONLY
    html: Annotated[PathOption, Option("HTML file to write in addition.", unset="none", metavar="FILE")] = None


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    trt: Annotated[bool, Option("Test TensorRT on this GPU: build, run, compare and time a tiny network.")] = False


@dataclass(frozen=True)
class ShowRecipeOptions(Options):
    name: Annotated[str | None, Option("Name of a recipe.", argument=True)] = None
    schema: Annotated[
        bool, Option("Print the JSON schema of recipes instead, those of installed packages included.")
    ] = False


@dataclass(frozen=True)
class CopyRecipeOptions(Options):
    name: Annotated[str, Option("Name of a recipe.", argument=True)]
    file: Annotated[str | Path, Option("File to write.", argument=True)]


@dataclass(frozen=True)
class ValidateRecipesOptions(Options):
    files: Annotated[Sequence[str], Option("Recipe files.", argument=True, metavar="FILE...")]
