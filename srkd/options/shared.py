"""Types and options that several verbs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from compressor.base.choices import MOST_LIMITS, Border
from compressor.base.errors import UsageError
from compressor.degradation.names import NONE, absolute_degradation, names
from compressor.images.suffixes import is_film
from compressor.runtimes.table import RUNTIMES, device_patterns
from srkd.options.option import Option, Options, options
from srkd.options.values import DEVICE, SETTING, as_tuple, one_of

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
Paths: TypeAlias = str | Path | Sequence[str | Path]
Size: TypeAlias = str | tuple[int, int]
"""An LR size as (width, height) or "WxH"; a checked option is always a tuple."""
Sizes: TypeAlias = Size | Sequence[Size]

# Options that several verbs share.
Device: TypeAlias = Annotated[
    str, DEVICE, Option(f"One of {', '.join(device_patterns())}; cuda:1 and openvino:GPU select one of several.")
]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Threads: TypeAlias = Annotated[int | None, Field(ge=1), Option("CPU threads.", unset="as many as torch uses")]
Tile: TypeAlias = Annotated[
    int | None, Field(ge=0), Option("Side of a tile in LR pixels; 0: no tiles.", unset="chosen by memory")
]
SelfEnsemble: TypeAlias = Annotated[bool, Option("Mean over the eight symmetries; takes eight times as long.")]
LIMITS_HELP = "How many times 60 s and 4 GB a foreign ONNX file may use when it is first tried."
Limits: TypeAlias = Annotated[float, Field(ge=1, le=MOST_LIMITS), Option(LIMITS_HELP)]
GOAL_HELP = (
    "What a student is judged by: nearness to the originals or to the teacher's images. auto: the originals if the "
    "teacher is nearer to them than bicubic, as a teacher trained for looks is not."
)
TRUST_HELP = "Open TorchScript and .pt2 programs, which may run any code."
TrustCode: TypeAlias = Annotated[bool, Option(TRUST_HELP)]
Degrade: TypeAlias = Annotated[
    str,
    AfterValidator(absolute_degradation),
    Option(
        f"What LR images suffer: {', '.join(names())}, steps such as jpeg=30..90,noise=0..10,blur=0..2, either with "
        "clean=0.2 behind it to leave a fifth of the images clean, a YAML file, "
        "or like:DIR, as the pictures of a folder.",
        metavar="HOW",
    ),
]


def require_64_bits(seed: int) -> int:
    if not -(2**63) <= seed < 2**63:
        raise UsageError(f"seed {seed} does not fit in 64 bits: choose one between -2**63 and 2**63 - 1")
    return seed


def path_of(value: PathOption) -> Path | None:
    return None if value is None else Path(value)


def originals_and_lr_only(data: Paths | None, lr_only: PathOption) -> tuple[tuple[Path, ...], Path | None]:
    """The folders of `--data`, and `--lr-only`. A film alone has no originals: frames are LR images."""
    folders, alone = tuple(map(Path, as_tuple(data or ()))), path_of(lr_only)
    if len(folders) == 1 and alone is None and is_film(folders[0]):
        return (), folders[0]
    return folders, alone


@options
class CheckpointOptions(Options):
    """Options for reading a checkpoint."""

    _: KW_ONLY
    scale: Annotated[int | None, Field(ge=1, le=8)] = None
    """Scale of a file that has several, or a smaller one than the model's, to which its images are reduced."""
    arch_options: Annotated[Mapping[str, object] | None, SETTING, Option(flags=("--arch-option",))] = None
    """Facts that the file does not hold, such as res_scale=0.1."""


@options
class ProgramOptions(CheckpointOptions):
    """Options for reading a checkpoint or a foreign program."""

    _: KW_ONLY
    limits: Limits = 1.0
    trust_code: TrustCode = False


@options
class RuntimeOptions(ProgramOptions):
    """Options for opening models."""

    _: KW_ONLY
    device: Device = "cpu"
    runtime: Annotated[
        str | None,
        one_of(*RUNTIMES),
        Option(f"Runtime to use: {', '.join(RUNTIMES)}.", unset="the one the file is for"),
    ] = None
    precision: Precision | None = None
    """Precision of the arithmetic in torch and OpenVINO."""
    threads: Threads = None
    strength: Annotated[float | None, Option(unset="its own", metavar="X")] = None
    """Strength of the student of a run folder with two ends: 0 faithful, 1 textured; from -0.5 to 1.5."""


@options
class ScoringOptions(Options):
    """Options of how models are scored: the LR images, the protocol, and what is run."""

    _: KW_ONLY
    lr_images: Annotated[PathOption, Option(unset="its LR*X4/, or made bicubically")] = None
    """Folder of the LR images of --data."""
    border: Annotated[int | None, Field(ge=0), Option(unset="as many as the scale")] = None
    """Pixels cropped on each side."""
    lr_border: Border = "mirror"
    """Border of the bicubic that makes LR images; clamp for packs made by an older MATLAB."""
    degrade: Degrade = NONE
    grey: Literal["rgb", "raw"] = "rgb"
    """Grey files: replicated to RGB and then Y, or their raw values."""
    self_ensemble: SelfEnsemble = False
    tile: Tile = None
