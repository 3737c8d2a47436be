"""The options of the verbs other than compress and plan. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from compressor.base.choices import FilmCodec, GoalOption
from compressor.degradation.names import NONE
from compressor.inference.metric_table import DEFAULT_METRICS, LOOKS, METRICS
from compressor.runtimes.table import RUNTIMES
from export.formats.table import DEFAULT_FORMATS, FORMATS
from export.hosts.table import HOSTS
from srkd.options.option import Option, Options, options
from srkd.options.shared import (
    GOAL_HELP,
    CheckpointOptions,
    Degrade,
    Device,
    Limits,
    Model,
    ModelOrPath,
    PathOption,
    Paths,
    PictureOrPath,
    ProgramOptions,
    RuntimeOptions,
    ScoringOptions,
    SelfEnsemble,
    Size,
    Sizes,
    Threads,
    Tile,
    TrustCode,
    require_64_bits,
)
from srkd.options.values import (
    CLUSTER,
    COUNTS,
    MODEL,
    MODELS,
    PATHS,
    PICTURES,
    REPOSITORY,
    SIZE,
    SIZES,
    STRENGTHS,
    TEXTS,
    names_of,
)

FORMAT_FLAGS = {
    row.name: f"{row.description}{'; the default' if row.name in DEFAULT_FORMATS else ''}." for row in FORMATS.values()
}


@options
class ExportOptions(CheckpointOptions):
    model: Annotated[ModelOrPath, MODEL, Option(argument=True)]
    """Checkpoint, run folder or exported file."""
    _: KW_ONLY
    formats: Annotated[
        Sequence[str],
        TEXTS,
        Option(
            f"Names of formats: {', '.join(FORMATS)}.", unset=", ".join(DEFAULT_FORMATS), flag_per_value=FORMAT_FLAGS
        ),
    ] = ()
    hosts: Annotated[
        str | Sequence[str],
        names_of(*HOSTS),
        Option(
            f"Programs to write for, each in a folder of its name that is ready to copy: some of {', '.join(HOSTS)} "
            "(srkd hosts lists them).",
            flags=("--for",),
            unset="none",
        ),
    ] = ()
    push: Annotated[str | None, REPOSITORY, Option(unset="nothing is sent")] = None
    """Repository of the Hugging Face hub to send the folder of --for huggingface to; it is made if needed."""
    out: Annotated[PathOption, Option(unset="beside the model", flags=("-o", "--out"))] = None
    """Folder to write to."""
    strength: Annotated[float | str | Sequence[float] | None, STRENGTHS, Option(unset="its own")] = None
    """Strengths of the student of a run folder with two ends, such as 0.3,0.6,1; files are named for them."""
    static: Annotated[Size | None, SIZE, Option(unset="any, where possible")] = None
    """The only LR size that the files take."""
    sizes: Annotated[Sizes | None, SIZES, Option(unset="256x256,512x512")] = None
    """LR sizes that a TensorRT engine is tuned for, and takes at most."""
    io: Literal["float", "uint8", "fp16"] = "float"
    """Images of the files: N,C,H,W in [0,1] unclamped, or N,H,W,C bytes, clamped and rounded inside; fp16: as float, in
    float16 (--fp16)."""
    luma: bool = False
    """Files for the luma of a picture alone, with one channel (plain and compact)."""
    calibrate: Annotated[PathOption, Option(unset="embedded photos", metavar="DIR")] = None
    """Photos on which int8 measures a network's values."""
    data: Annotated[PathOption, Option(unset="other embedded photos", metavar="DIR")] = None
    """Photos on which the drop of int8 is measured."""
    max_drop: Annotated[float, Field(ge=0)] = 0.1
    """Most dB that the Y-PSNR of int8 may drop on these photos."""
    trust_code: TrustCode = False


@options
class ProfileOptions(ProgramOptions):
    models: Annotated[ModelOrPath | Sequence[ModelOrPath], MODELS, Option(argument=True, metavar="MODEL...")]
    """Checkpoints, run folders and exported files."""
    _: KW_ONLY
    teacher: Annotated[ModelOrPath | None, MODEL, Option(unset="the teacher of a run folder", metavar="PATH")] = None
    """Model to compare with."""
    runtime: Annotated[
        Sequence[str],
        names_of(*RUNTIMES, "all"),
        Option(f"Some of {', '.join(RUNTIMES)}, or all; checkpoints are exported if a runtime needs it."),
    ] = ("torch", "onnxruntime")
    device: Device = "cpu"
    precision: Annotated[str | Sequence[str], names_of("fp32", "bf16", "fp16", "int8")] = ("fp32",)
    """Precisions of the arithmetic in torch and OpenVINO, some of fp32, bf16, fp16, int8; other runtimes' files have
    their own. int8: checkpoints are written in int8 for the runtimes that support it, without a limit of the drop;
    torch and the teacher stay in float."""
    lr_size: Annotated[Sizes | None, SIZES, Option(unset="128x128")] = None
    """Sizes of the LR image."""
    batch: Annotated[int | Sequence[int], COUNTS] = (1,)
    """Images in a batch, one number or several."""
    threads: Annotated[int | None, Field(ge=1), Option(unset="as many as torch uses")] = None
    """CPU threads; no more than there are cores."""
    seconds: Annotated[float, Field(ge=0.1)] = 3.0
    """Time for each row at each size."""
    memory: bool = True
    """Measure peak memory."""
    quality: bool = True
    """Measure Y-PSNR on the embedded validation photos."""
    goal: Annotated[GoalOption, Option(GOAL_HELP)] = "auto"
    pareto: Annotated[PathOption, Option(unset="no picture", metavar="FILE")] = None
    """Draw quality against speed as a PNG picture."""


@options
class EvaluateOptions(ScoringOptions, RuntimeOptions):
    models: Annotated[
        Model | Sequence[Model], MODELS, Option(unset="bicubic alone", argument=True, metavar="[MODEL]...")
    ] = ()
    """Checkpoints, run folders and exported files."""
    _: KW_ONLY
    data: Annotated[PathOption, Option(unset="the embedded photos")] = None
    """Folder of HR images, a set with HR/ and LR*X4/, or several sets."""
    lr_only: Annotated[PathOption, Option(unset="the images of --data", metavar="DIR")] = None
    """Folder of LR images without originals, or a film, in place of --data: models are compared with --against only."""
    against: Annotated[Model | None, MODEL, Option(unset="originals alone", metavar="TEACHER")] = None
    """Teacher whose images are compared with, beside the originals."""
    goal: Annotated[GoalOption, Option(GOAL_HELP)] = "auto"
    metrics: Annotated[
        str | Sequence[str],
        names_of(*METRICS, "looks"),
        Option(f"Some of {', '.join(METRICS)}; looks: psnr, {', '.join(LOOKS)}."),
    ] = DEFAULT_METRICS


@options
class UpscaleOptions(RuntimeOptions):
    model: Annotated[Model, MODEL, Option(argument=True)]
    """Checkpoint, run folder or exported file."""
    inputs: Annotated[PictureOrPath | Sequence[PictureOrPath], PICTURES, Option(argument=True, metavar="PICTURE...")]
    """Pictures, folders of pictures, films and globs."""
    _: KW_ONLY
    out: Annotated[PathOption, Option(unset="beside the picture", flags=("-o", "--out"))] = None
    """Folder, or a file for one picture or film."""
    suffix: Annotated[str | None, Option(unset="_x4 at scale 4")] = None
    """End of the names of the written files."""
    extension: Annotated[str | None, Option(unset="the picture's; of AVIF, GIF and HEIC .png", metavar=".EXT")] = None
    """Format to write, such as .png. WebP is lossless where the picture is; JPEG never."""
    overwrite: bool = False
    """Write over files that exist, but never over an input."""
    skip_existing: bool = False
    """Skip pictures whose output exists, to continue a long job."""
    recursive: Annotated[bool, Option(flags=("-r", "--recursive"))] = False
    """Search the folders inside folders, too; --out repeats them."""
    codec: Annotated[
        FilmCodec | None,
        Option(unset="h264; hevc for films in more than 8 bit or in HEVC, vp9 for .webm", metavar="NAME"),
    ] = None
    """Codec of films: h264, hevc, vp9 or ffv1 (lossless)."""
    crf: Annotated[int, Field(ge=0, le=63)] = 16
    """Quality of films; lower is better, and larger."""
    tile: Tile = None
    overlap: Annotated[int, Field(ge=1)] = 16
    """LR pixels around a tile, for networks that see too far (SwinIR, ESRGAN); others overlap as far as they see, and
    are exact."""
    on: Annotated[str | None, CLUSTER, Option(unset="here")] = None
    """Enlarge the pictures as tasks of a Ray cluster (srkd[ray], docs/use/many-gpus.md)."""
    self_ensemble: SelfEnsemble = False
    exact: bool = False
    """Compute as the model was opened: a checkpoint in fp32, by torch. Otherwise checkpoints compute large 8-bit
    pictures and films in bf16 or by OpenVINO, if that is faster here and samples are 50 dB or more from fp32, no value
    over 2 grey levels off (films: 8)."""


@options
class InspectOptions(ProgramOptions):
    path: Annotated[ModelOrPath, MODEL, Option(argument=True, metavar="MODEL")]
    """Checkpoint, run folder or exported file."""
    _: KW_ONLY
    lr_size: Annotated[Size, SIZE] = (256, 256)
    """LR image that MACs are counted for."""
    layers: bool = False
    """Add the cost of each layer."""
    check: bool = False
    """Run it on an embedded photo to check its range, res_scale and mean."""


@options
class ConvertOptions(CheckpointOptions):
    model: Annotated[ModelOrPath, MODEL, Option(argument=True)]
    """Checkpoint or run folder."""
    _: KW_ONLY
    to: Annotated[str, Option(metavar="CODE")]
    """basicsr, edsr-pytorch, srkd; also carn, carn_m, csd, esrgan, esrgan-old, fakd, rcan, real-esrgan, span,
    span-collapsed, spanf3, spanf3-collapsed, srvgg, swinir."""
    out: Annotated[PathOption, Option(unset="beside the model, as _CODE", flags=("-o", "--out"))] = None
    """File to write."""


@options
class BlendOptions(Options):
    models: Annotated[Paths, MODELS, Option(argument=True, metavar="RUN | FAITHFUL TEXTURED")]
    """A run folder that keeps both ends, or their files."""
    _: KW_ONLY
    strength: float
    """0: faithful, 1: textured; from -0.5 to 1.5."""
    out: Annotated[str | Path, Option(flags=("-o", "--out"))]
    """File to write."""


@options
class DemoOptions(CheckpointOptions):
    models: Annotated[
        Paths, MODELS, Option(unset="the x2 ones of `srkd students`", argument=True, metavar="[MODEL]...")
    ] = ()
    """Checkpoints, run folders and ONNX files; or the folder of a plan (srkd plan --emit), to time its files."""
    _: KW_ONLY
    teacher: Annotated[PathOption, MODEL, Option(unset="the run folder's", metavar="PATH")] = None
    """Model to compare with."""
    limits: Limits = 1.0
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: other devices can connect."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0: a free one."""
    tls_cert: PathOption = None
    """Certificate with its chain, PEM: serve https."""
    tls_key: PathOption = None
    """Key of the certificate, PEM."""
    open_browser: Annotated[bool, Option(flags=("--open",))] = False
    """Open this machine's browser."""
    build: Annotated[PathOption, Option(metavar="DIR")] = None
    """Write files for an https host; serve nothing."""
    app: Annotated[PathOption, Option(unset="the one of srkd", metavar="DIR")] = None
    """Built app to show the models in."""


@options
class PlotOptions(Options):
    runs: Annotated[Paths, PATHS, Option(argument=True, metavar="RUN...")]
    """Run folders, finished or not."""
    _: KW_ONLY
    out: Annotated[PathOption, Option(unset="curves.png in the run folder", flags=("-o", "--out"))] = None
    """PNG file to write."""


@options
class ReportOptions(Options):
    runs: Annotated[Paths, PATHS, Option(argument=True, metavar="RUN...")]
    """Run folders, finished or not."""
    _: KW_ONLY
    out: Annotated[PathOption, Option(unset="report.html in the run folder", flags=("-o", "--out"))] = None
    """HTML file to write."""
    data: Annotated[PathOption, Option(unset="the embedded validation photos")] = None
    """Folder of HR images to take the pictures from."""
    trust_code: TrustCode = False


@options
class CompareOptions(ScoringOptions):
    runs: Annotated[Paths, PATHS, Option(argument=True, metavar="RUN...")]
    """Run folders."""
    _: KW_ONLY
    data: Annotated[PathOption, Option(unset="the runs' own validation alone")] = None
    """Benchmark sets to score all students on: as of evaluate."""
    device: Device = "cpu"
    trust_code: TrustCode = False


@options
class NetworksOptions(Options):
    names: Annotated[str | Sequence[str], TEXTS, Option(argument=True)] = ()
    """Networks or named sizes, such as plain or plain-s; all if none."""
    _: KW_ONLY
    scale: Annotated[int, Field(ge=1, le=8)] = 4
    """Scale of the networks."""
    lr_size: Annotated[Size, SIZE] = (320, 180)
    """LR image that MACs are counted for, and that is timed."""
    time: bool = False
    """Time them here, in torch on the CPU in fp32; without NAMES the named sizes only."""
    threads: Threads = None
    seconds: Annotated[float, Field(ge=0.1)] = 1.0
    """Time for each network."""


@options
class StudentsOptions(Options):
    _: KW_ONLY
    lr_size: Annotated[Size, SIZE] = (320, 180)
    """LR image that is timed."""
    threads: Threads = None
    seconds: Annotated[float, Field(ge=0)] = 0.3
    """Time for each student; 0: none is timed."""


@options
class SeenOptions(Options):
    """Options of `srkd data`: the images that a run would see."""

    data: Annotated[Paths | None, PATHS, Option(unset="the embedded photos", argument=True, metavar="[DIR]...")] = None
    """Folders of HR images, of sets with HR/, or a film."""
    _: KW_ONLY
    lr_only: Annotated[PathOption, Option(unset="none", metavar="DIR")] = None
    """Folder of LR images without HR partners, or a film, in place of DIR."""
    degrade: Degrade = NONE
    scale: Annotated[int, Field(ge=1, le=8)] = 4
    """Scale of the networks."""
    lr_patch: Annotated[int | None, Field(ge=1), Option(unset="48, or the smallest image's side")] = None
    """Side of a patch in LR pixels."""
    seed: Annotated[int, AfterValidator(require_64_bits)] = 10
    """The seed of the run whose patches are shown."""
    show: Annotated[PathOption, Option(unset="no picture", metavar="DIR")] = None
    """Folder to write a picture of patches to."""
