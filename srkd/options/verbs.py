"""The options of the verbs other than compress and plan. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from compressor.base.choices import FilmCodec, GoalOption
from compressor.degradation.names import NONE
from compressor.inference.metric_table import DEFAULT_METRICS, METRICS
from compressor.runtimes.table import RUNTIMES
from export.formats.table import DEFAULT_FORMATS, FORMATS
from export.hosts.table import HOSTS
from srkd.options.option import Option, Options, options
from srkd.options.shared import (
    GOAL_HELP,
    CheckpointOptions,
    Degrade,
    Device,
    LimitOptions,
    Model,
    ModelOrPath,
    PathOption,
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
    TEXTS,
    names_of,
)

FORMAT_FLAGS = {
    row.name: f"{row.description}{'; the default' if row.name in DEFAULT_FORMATS else ''}." for row in FORMATS.values()
}


@options
class ExportOptions(CheckpointOptions):
    model: Annotated[ModelOrPath, MODEL, Option("Checkpoint, run folder or exported file.", argument=True)]
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
    push: Annotated[
        str | None,
        REPOSITORY,
        Option(
            "Repository of the Hugging Face hub to send the folder of --for huggingface to; it is made if needed.",
            unset="nothing is sent",
        ),
    ] = None
    out: Annotated[PathOption, Option("Folder to write to.", unset="beside the model", flags=("-o", "--out"))] = None
    static: Annotated[
        Size | None, SIZE, Option("The only LR size that the files take.", unset="any, where possible")
    ] = None
    sizes: Annotated[
        Sizes | None,
        SIZES,
        Option("LR sizes that a TensorRT engine is tuned for, and takes at most.", unset="256x256,512x512"),
    ] = None
    io: Annotated[
        Literal["float", "uint8", "fp16"],
        Option(
            "Images of the files: N,C,H,W in [0,1] unclamped, or N,H,W,C bytes, clamped and rounded inside; fp16: as "
            "float, in float16 (--fp16)."
        ),
    ] = "float"
    luma: Annotated[bool, Option("Files for the luma of a picture alone, with one channel (plain and compact).")] = (
        False
    )
    calibrate: Annotated[
        PathOption, Option("Photos on which int8 measures a network's values.", unset="embedded photos", metavar="DIR")
    ] = None
    data: Annotated[
        PathOption,
        Option("Photos on which the drop of int8 is measured.", unset="other embedded photos", metavar="DIR"),
    ] = None
    max_drop: Annotated[float, Field(ge=0), Option("Most dB that the Y-PSNR of int8 may drop on these photos.")] = 0.1
    trust_code: TrustCode = False


@options
class ProfileOptions(ProgramOptions):
    models: Annotated[
        ModelOrPath | Sequence[ModelOrPath],
        MODELS,
        Option("Checkpoints, run folders and exported files.", argument=True, metavar="MODEL..."),
    ]
    _: KW_ONLY
    teacher: Annotated[
        ModelOrPath | None, MODEL, Option("Model to compare with.", unset="the teacher of a run folder", metavar="PATH")
    ] = None
    runtime: Annotated[
        Sequence[str],
        names_of(*RUNTIMES, "all"),
        Option(f"Some of {', '.join(RUNTIMES)}, or all; checkpoints are exported if a runtime needs it."),
    ] = ("torch", "onnxruntime")
    device: Device = "cpu"
    precision: Annotated[
        str | Sequence[str],
        names_of("fp32", "bf16", "fp16", "int8"),
        Option(
            "Precisions of the arithmetic in torch and OpenVINO, some of fp32, bf16, fp16, int8; other runtimes' "
            "files have their own. int8: checkpoints are written in int8 for the runtimes that support it, "
            "without a limit of the drop; torch and the teacher stay in float."
        ),
    ] = ("fp32",)
    lr_size: Annotated[Sizes | None, SIZES, Option("Sizes of the LR image.", unset="128x128")] = None
    batch: Annotated[int | Sequence[int], COUNTS, Option("Images in a batch, one number or several.")] = (1,)
    threads: Annotated[
        int | None, Field(ge=1), Option("CPU threads; no more than there are cores.", unset="as many as torch uses")
    ] = None
    seconds: Annotated[float, Field(ge=0.1), Option("Time for each row at each size.")] = 3.0
    memory: Annotated[bool, Option("Measure peak memory.")] = True
    quality: Annotated[bool, Option("Measure Y-PSNR on the embedded validation photos.")] = True
    goal: Annotated[GoalOption, Option(GOAL_HELP)] = "auto"
    pareto: Annotated[
        PathOption, Option("Draw quality against speed as a PNG picture.", unset="no picture", metavar="FILE")
    ] = None


@options
class EvaluateOptions(ScoringOptions, RuntimeOptions):
    models: Annotated[
        Model | Sequence[Model],
        MODELS,
        Option(
            "Checkpoints, run folders and exported files.", unset="bicubic alone", argument=True, metavar="[MODEL]..."
        ),
    ] = ()
    _: KW_ONLY
    data: Annotated[
        PathOption,
        Option("Folder of HR images, a set with HR/ and LR*X4/, or several sets.", unset="the embedded photos"),
    ] = None
    lr_only: Annotated[
        PathOption,
        Option(
            "Folder of LR images without originals, or a film, in place of --data: models are compared with --against "
            "only.",
            unset="the images of --data",
            metavar="DIR",
        ),
    ] = None
    against: Annotated[
        Model | None,
        MODEL,
        Option(
            "Teacher whose images are compared with, beside the originals.", unset="originals alone", metavar="TEACHER"
        ),
    ] = None
    goal: Annotated[GoalOption, Option(GOAL_HELP)] = "auto"
    metrics: Annotated[str | Sequence[str], names_of(*METRICS), Option(f"Some of {', '.join(METRICS)}.")] = (
        DEFAULT_METRICS
    )


@options
class UpscaleOptions(RuntimeOptions):
    model: Annotated[Model, MODEL, Option("Checkpoint, run folder or exported file.", argument=True)]
    inputs: Annotated[
        PictureOrPath | Sequence[PictureOrPath],
        PICTURES,
        Option("Pictures, folders of pictures, films and globs.", argument=True, metavar="PICTURE..."),
    ]
    _: KW_ONLY
    out: Annotated[
        PathOption,
        Option("Folder, or a file for one picture or film.", unset="beside the picture", flags=("-o", "--out")),
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
        bool, Option("Search the folders inside folders, too; --out repeats them.", flags=("-r", "--recursive"))
    ] = False
    codec: Annotated[
        FilmCodec | None,
        Option(
            "Codec of films: h264, hevc, vp9 or ffv1 (lossless).",
            unset="h264; hevc for films in more than 8 bit or in HEVC, vp9 for .webm",
            metavar="NAME",
        ),
    ] = None
    crf: Annotated[int, Field(ge=0, le=63), Option("Quality of films; lower is better, and larger.")] = 16
    tile: Tile = None
    overlap: Annotated[
        int,
        Field(ge=0),
        Option(
            "LR pixels around a tile, for networks that see the whole picture; others overlap as far as they see, "
            "and are exact."
        ),
    ] = 16
    on: Annotated[
        str | None,
        CLUSTER,
        Option("Enlarge the pictures as tasks of a Ray cluster (srkd[ray], docs/use/many-gpus.md).", unset="here"),
    ] = None
    self_ensemble: SelfEnsemble = False
    exact: Annotated[
        bool,
        Option(
            "Always compute in fp32. Otherwise checkpoints compute large 8-bit pictures and films in bf16, if the "
            "device supports it and samples are 50 dB or more from fp32, no value over 2 grey levels off (films: 8)."
        ),
    ] = False


@options
class InspectOptions(ProgramOptions):
    path: Annotated[
        ModelOrPath, MODEL, Option("Checkpoint, run folder or exported file.", argument=True, metavar="MODEL")
    ]
    _: KW_ONLY
    lr_size: Annotated[Size, SIZE, Option("LR image that MACs are counted for.")] = (256, 256)
    layers: Annotated[bool, Option("Add the cost of each layer.")] = False
    check: Annotated[bool, Option("Run it on an embedded photo to check its range, res_scale and mean.")] = False


@options
class ConvertOptions(CheckpointOptions):
    model: Annotated[ModelOrPath, MODEL, Option("Checkpoint or run folder.", argument=True)]
    _: KW_ONLY
    to: Annotated[
        str,
        Option(
            "basicsr, edsr-pytorch, srkd; also carn, carn_m, csd, esrgan, esrgan-old, fakd, rcan, real-esrgan, span, "
            "span-collapsed, spanf3, spanf3-collapsed, srvgg, swinir.",
            metavar="CODE",
        ),
    ]
    out: Annotated[PathOption, Option("File to write.", unset="beside the model, as _CODE", flags=("-o", "--out"))] = (
        None
    )


@options
class DemoOptions(LimitOptions):
    models: Annotated[
        str | Path | Sequence[str | Path],
        PATHS,
        Option(
            "Checkpoints, run folders and ONNX files; or the folder of a plan (srkd plan --emit), to time its files.",
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
    port: Annotated[int, Field(ge=0, le=65535), Option("Port to listen on; 0: a free one.")] = 8000
    tls_cert: Annotated[PathOption, Option("Certificate with its chain, PEM: serve https.")] = None
    tls_key: Annotated[PathOption, Option("Key of the certificate, PEM.")] = None
    open_browser: Annotated[bool, Option("Open this machine's browser.", flags=("--open",))] = False
    build: Annotated[PathOption, Option("Write files for an https host; serve nothing.", metavar="DIR")] = None
    app: Annotated[PathOption, Option("Built app to show the models in.", unset="the one of srkd", metavar="DIR")] = (
        None
    )


@options
class PlotOptions(Options):
    runs: Annotated[
        str | Path | Sequence[str | Path],
        PATHS,
        Option("Run folders, finished or not.", argument=True, metavar="RUN..."),
    ]
    _: KW_ONLY
    out: Annotated[
        PathOption, Option("PNG file to write.", unset="curves.png in the run folder", flags=("-o", "--out"))
    ] = None


@options
class ReportOptions(Options):
    runs: Annotated[
        str | Path | Sequence[str | Path],
        PATHS,
        Option("Run folders, finished or not.", argument=True, metavar="RUN..."),
    ]
    _: KW_ONLY
    out: Annotated[
        PathOption, Option("HTML file to write.", unset="report.html in the run folder", flags=("-o", "--out"))
    ] = None
    data: Annotated[
        PathOption, Option("Folder of HR images to take the pictures from.", unset="the embedded validation photos")
    ] = None
    trust_code: TrustCode = False


@options
class CompareOptions(ScoringOptions):
    runs: Annotated[str | Path | Sequence[str | Path], PATHS, Option("Run folders.", argument=True, metavar="RUN...")]
    _: KW_ONLY
    data: Annotated[
        PathOption,
        Option("Benchmark sets to score all students on: as of evaluate.", unset="the runs' own validation alone"),
    ] = None
    device: Device = "cpu"
    trust_code: TrustCode = False


@options
class NetworksOptions(Options):
    names: Annotated[
        str | Sequence[str],
        TEXTS,
        Option("Networks or named sizes, such as plain or plain-s; all if none.", argument=True),
    ] = ()
    _: KW_ONLY
    scale: Annotated[int, Field(ge=1, le=8), Option("Scale of the networks.")] = 4
    lr_size: Annotated[Size, SIZE, Option("LR image that MACs are counted for, and that is timed.")] = (320, 180)
    time: Annotated[
        bool, Option("Time them here, in torch on the CPU in fp32; without NAMES the named sizes only.")
    ] = False
    threads: Threads = None
    seconds: Annotated[float, Field(ge=0.1), Option("Time for each network.")] = 1.0


@options
class HostsOptions(Options):
    names: Annotated[str | Sequence[str], TEXTS, Option("Names of programs; all if none.", argument=True)] = ()


@options
class SeenOptions(Options):
    """Options of `srkd data`: the images that a run would see."""

    data: Annotated[
        PathOption,
        Option(
            "Folder of HR images, a set with HR/, several sets, or a film.",
            unset="the embedded photos",
            argument=True,
            metavar="[DIR]",
        ),
    ] = None
    _: KW_ONLY
    lr_only: Annotated[
        PathOption,
        Option("Folder of LR images without HR partners, or a film, in place of DIR.", unset="none", metavar="DIR"),
    ] = None
    degrade: Degrade = NONE
    scale: Annotated[int, Field(ge=1, le=8), Option("Scale of the networks.")] = 4
    lr_patch: Annotated[
        int | None, Field(ge=1), Option("Side of a patch in LR pixels.", unset="48, or the smallest image's side")
    ] = None
    seed: Annotated[int, AfterValidator(require_64_bits), Option("The seed of the run whose patches are shown.")] = 10
    show: Annotated[
        PathOption, Option("Folder to write a picture of patches to.", unset="no picture", metavar="DIR")
    ] = None


@options
class ShowRecipeOptions(Options):
    name: Annotated[str | None, Option("Name of a recipe.", argument=True)] = None
    schema: Annotated[
        bool, Option("Print the JSON schema of recipes instead, those of installed packages included.")
    ] = False


@options
class CopyRecipeOptions(Options):
    name: Annotated[str, Option("Name of a recipe.", argument=True)]
    file: Annotated[str | Path, Option("File to write.", argument=True)]


@options
class ValidateRecipesOptions(Options):
    files: Annotated[Sequence[str], TEXTS, Option("Recipe files.", argument=True, metavar="FILE...")]
