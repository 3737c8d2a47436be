"""The table of formats, read by help, validation, documentation and export itself.

A format is a file with a converter and a row here; its runtime is a row of `compressor.runtimes.table`. Another package
adds both by an entry point of the group `srkd.formats` that names a `FormatPackage`. Importing this imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from compressor.base.context import QUIET, Context
from compressor.base.entry_points import EntryPointTable
from compressor.base.errors import SrkdError
from compressor.runtimes.table import GROUP, RUNTIMES, OpenOptions, Requirements, RuntimeEntry
from compressor.runtimes.tensorrt.installation import driver_missing
from export.formats.conversion import IO, FileOptions

if TYPE_CHECKING:
    from pathlib import Path

    from compressor.runtimes.base import Runtime


@dataclass(frozen=True)
class Bounds:
    """Largest allowed difference between an exported file and its network: on photos `max_abs`, and `min_psnr` in dB if
    it is set; on other images `max_abs_elsewhere`, or the same as on photos."""

    max_abs: float
    min_psnr: float | None = None
    max_abs_elsewhere: float | None = None
    max_abs_flat: float | None = None
    """Largest difference on flat colours, if it is set."""
    as_images: bool = False
    """True if images are compared as people see them: clipped to [0,1], and photos by lost quality (`quality.py`)."""
    clipped: bool = False
    """True if the file clips its images to [0,1]; as_images includes it."""
    rounding: float = 0.0
    """Relative rounding of the precision: where the network itself turns as little into more, more is allowed."""


FP32 = Bounds(max_abs=1e-4, rounding=2**-24)
HALF = Bounds(max_abs=0.1, min_psnr=60.0, rounding=2**-11)
"""fp16: differences of up to a tenth of the range; on photos also at least 60 dB."""
QUANTISED = Bounds(max_abs=0.04, min_psnr=45.0)
"""A network that was trained quantised: the order of a sum decides to which of two levels a feature is rounded, and one
level is a few grey levels of the image. In torch itself fp32 and fp64 differ by up to 0.024, at 47 dB, if every layer
is quantised, and by 0.008, at 65 dB, if only the blocks are."""
BF16 = Bounds(max_abs=0.1, min_psnr=40.0, rounding=2**-8)
"""Eight bits of mantissa: a network whose last layer adds the image in bf16 cannot be nearer than about 55 dB."""

PICTURES = Bounds(max_abs=0.1, min_psnr=45.0, clipped=True, rounding=2**-8)
"""Half precision between bytes: rounding an image to bytes is 59 dB, and networks sharpen what their input lost."""
SHADER = Bounds(max_abs=1.5 / 255, min_psnr=50.0, clipped=True, rounding=2**-11)
"""Sums in float32, and half precision wherever the player keeps a picture; at most one and a half grey levels."""
HALF_SHADER = Bounds(max_abs=0.1, min_psnr=50.0, clipped=True, rounding=2**-11)
"""Sums of hundreds of products, too, in half precision: a student of width 16 was 60 dB from itself."""

MIN_PSNR_TO_SOURCE = 40.0
"""Least PSNR in dB between the images of an int8 file and those of its network, over all channels, in bytes."""

INT8 = Bounds(max_abs=0.25, min_psnr=MIN_PSNR_TO_SOURCE, max_abs_elsewhere=1.0, max_abs_flat=0.125, as_images=True)
"""int8: one-pixel stripes and dots, which no photo has, may saturate a layer; flat colours must not change."""


@dataclass(frozen=True, kw_only=True)
class Format(Requirements):
    """A row of the table. `name` is also the flag: --onnx."""

    name: str
    title: str
    suffix: str
    precision: str
    module: str
    """Import path of the module with `convert(job: Conversion) -> Mapping[str, object]`, which writes the file, and
    companions beside it, and returns facts for the report."""
    runtime: str
    """Name of the runtime that runs such a file (`RUNTIMES`)."""
    bounds: Bounds = FP32
    options: tuple[str, ...] = ()
    """The options that the format supports: static, io, sizes, int8."""
    images: tuple[IO, ...] = ("float", "uint8")
    """The values of io that it supports, if it has that option."""
    sidecar: bool = False
    """True if the `srkd.*` keys are in a JSON file beside the exported file."""
    tested: bool = True
    """True if we have run such files ourselves; help and documentation mark the other formats."""
    machine_bound: bool = False
    """True if a file runs only on the machine that built it. Its module also has `machine_name()`, which becomes part
    of the file's name, and `describe_next_step`, what to do on another machine with the substitutes."""
    substitutes: tuple[str, ...] = ()
    """Formats to write if this one cannot be built here, for a machine that can build it."""
    companions: tuple[str, ...] = ()
    """Formats that are always written with this one, for other machines."""
    float_format: str | None = None
    """The float format that an int8 file is timed against."""
    check_seconds: float | None = None
    """For a runtime that starts anew, perhaps for long, at each call: its files are compared last, on few and small
    images, in at most so many seconds a call. None: any, on all images."""

    @property
    def description(self) -> str:
        return self.title if self.tested else f"{self.title}; not run by us"

    def unsupported_option(self, options: FileOptions) -> str | None:
        """Return in one line the first option that the format does not have, or None."""
        for name, value in options.changed().items():
            refusal = f"{self.title.split(',')[0]} has no --{name} {value}"
            if name not in self.options:
                return refusal
            if name == "io" and value not in self.images:
                others = [f"--{row.name}" for row in FORMATS.values() if "io" in row.options and value in row.images]
                return f"{refusal}: take {', '.join(others)}"
        return None

    def cannot_run_here(self) -> str | None:
        """Why such a file cannot run, and so is not compared, on this machine; None if it can."""
        obstacle = RUNTIMES[self.runtime].obstacle()
        return None if obstacle is None else f"{obstacle}, so the file is not compared with the network"

    def load(self) -> ModuleType:
        return importlib.import_module(self.module)

    def open(self, path: Path, context: Context = QUIET, *, emulate_target: bool = False) -> Runtime:
        """Open a file that srkd wrote in the format's runtime."""
        options = OpenOptions(emulate_target=emulate_target, trusted=True, call_seconds=self.check_seconds)
        return RUNTIMES[self.runtime].load().open_file(path, options, context)


@dataclass(frozen=True)
class FormatPackage:
    """The formats and runtimes of another package, declared by its entry point."""

    formats: tuple[Format, ...] = ()
    runtimes: tuple[RuntimeEntry, ...] = ()


HALF_IMAGES = "float32 images, any batch and image size"

FORMATS: EntryPointTable[Format] = EntryPointTable(
    "format",
    (
        *(
            Format(
                name=name,
                title=title,
                suffix=suffix,
                precision=precision,
                module="export.convert.to_onnx" if name == "onnx" else "export.convert.to_half",
                needs=("onnx", "onnxscript", "onnxruntime", "onnxsim"),
                bounds=bounds,
                runtime="onnxruntime",
                options=("static", "io"),
                images=("float", "uint8", "fp16") if name == "fp16" else ("float", "uint8"),
            )
            for name, suffix, precision, bounds, title in (
                ("onnx", ".onnx", "fp32", FP32, "ONNX, float32, any batch and image size"),
                ("fp16", ".fp16.onnx", "fp16", HALF, f"ONNX with fp16 inside, {HALF_IMAGES}"),
                ("bf16", ".bf16.onnx", "bf16", BF16, f"ONNX with bf16 inside, {HALF_IMAGES}; opset 22"),
            )
        ),
        *(
            Format(
                name=name,
                title=title,
                suffix=f".{name}.onnx",
                precision="int8",
                module="export.int8.to_int8",
                needs=("onnx", "onnxscript", "onnxruntime", "onnxsim"),
                bounds=INT8,
                runtime="onnxruntime",
                options=("static", "io", "int8"),
                companions=companions,
                float_format=float_format,
            )
            for name, companions, float_format, title in (
                ("int8", ("int8-trt",), "onnx", "ONNX in int8 for CPUs, float32 images; loses at most --max-drop"),
                ("int8-trt", (), None, "ONNX in int8 as TensorRT wants it: signed, no zero points"),
                ("qnn-w8a8", (), None, "ONNX in int8 as Qualcomm's NPUs want it: one size, nothing in float"),
                ("qnn-w8a16", (), None, "the same with values of sixteen bits and weights of eight"),
            )
        ),
        Format(
            name="openvino",
            title="OpenVINO, float32, any batch and image size; weights in a .bin beside it",
            suffix=".openvino.xml",  # its weights are a .bin of the same name, and so are ncnn's
            precision="fp32",
            module="export.convert.to_openvino",
            needs=("onnx", "onnxscript", "onnxsim", "openvino"),
            extra="openvino",
            runtime="openvino",
            options=("static", "io"),
        ),
        Format(
            name="ncnn",
            title="ncnn for phones, float32 weights, precision chosen where it runs",
            suffix=".param",
            precision="fp32",
            module="export.convert.to_ncnn",
            needs=("ncnn", "pnnx"),
            extra="ncnn",
            runtime="ncnn",
            options=("static",),
            sidecar=True,
        ),
        *(
            Format(
                name=name,
                title=f"TensorRT engine in {precision}, made on an NVIDIA GPU for that GPU only",
                suffix=".engine",
                precision=precision,
                module="export.convert.to_trt",
                needs=("tensorrt",),
                extra="tensorrt",
                bounds=bounds,
                runtime="tensorrt",
                options=("static", "sizes", *(("int8",) if precision == "int8" else ())),
                machine_bound=True,
                substitutes=substitutes,
                float_format="trt" if precision == "int8" else None,
                obstacle=driver_missing,
                tested=False,
            )
            for name, precision, bounds, substitutes in (
                ("trt", "fp16", HALF, ("fp16",)),
                ("trt-bf16", "bf16", BF16, ("bf16",)),
                ("trt-int8", "int8", INT8, ("int8-trt",)),
            )
        ),
        Format(
            name="litert",
            title="LiteRT (TensorFlow Lite), float32, N,H,W,C, any size; networks with windows one size only",
            suffix=".tflite",
            precision="fp32",
            module="export.convert.to_litert",
            needs=("litert_torch", "ai_edge_litert"),
            extra="litert",
            runtime="litert",
            options=("static", "io"),
        ),
        Format(
            name="litert-int8",
            title="LiteRT in int8, by Google's quantiser, float32 images; loses at most --max-drop",
            suffix=".int8.tflite",
            precision="int8",
            module="export.int8.to_litert_int8",
            needs=("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
            extra="litert",
            bounds=INT8,
            runtime="litert",
            options=("static", "io", "int8"),
            float_format="litert",
        ),
        Format(
            name="coreml",
            title="Core ML for macOS and iOS, float32; runs there only, image sizes up to a bound",
            suffix=".mlpackage",
            precision="fp32",
            module="export.convert.to_coreml",
            needs=("coremltools",),
            extra="coreml",
            runtime="coreml",
            options=("static",),
            tested=False,
        ),
        Format(
            name="coreml-fp16",
            title="Core ML for the neural engine, fp16, pictures in and out, one size; runs on macOS and iOS only",
            suffix=".fp16.mlpackage",
            precision="fp16",
            module="export.convert.to_coreml_images",
            needs=("coremltools",),
            extra="coreml",
            bounds=PICTURES,
            runtime="coreml",
            options=("static",),
            tested=False,
        ),
        *(
            Format(
                name=name,
                title=f"{title}; plain and compact only, any image size",
                suffix=suffix,
                precision="fp16" if name == "glsl-fp16" else "fp32",
                module="export.convert.to_shaders",
                bounds=HALF_SHADER if name == "glsl-fp16" else SHADER,
                runtime="magpie" if name == "magpie" else "libplacebo",
                tested=name != "magpie",
                check_seconds=60,
            )
            for name, suffix, title in (
                ("glsl", ".glsl", "mpv user shader, sums in float32"),
                ("glsl-fp16", ".fp16.glsl", "mpv user shader, sums in fp16 where the GPU has it"),
                ("slang", ".slangp", "RetroArch's shaders for RGB, a preset and a folder"),
                ("magpie", ".hlsl", "Magpie's effect for RGB"),
            )
        ),
    ),
    GROUP,
    lambda point: point.load().formats,
)
DEFAULT_FORMATS = ("onnx",)


def find_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """The rows by name, each once, in the order of the names; without names the default formats."""
    return tuple(FORMATS.find(name) for name in tuple(dict.fromkeys(names)) or DEFAULT_FORMATS)


def rows_to_write(names: Iterable[str], options: FileOptions) -> tuple[Format, ...]:
    """The rows by name with their companions, and with substitutes for formats that this machine cannot build.

    A format that lacks an option gets no substitute.
    """
    rows = find_formats(names)
    wanted = [name for row in rows for name in (row.name, *row.companions)]
    for row in rows:
        if row.substitutes and row.unsupported_option(options) is None and row.missing_requirement() is not None:
            wanted += row.substitutes
    return find_formats(wanted)


def find_format(runtime: str, precision: str, otherwise: str = "") -> Format:
    """Return the first format of a runtime in a precision, or in another one; refuse one that this installation cannot
    write.

    In int8 a runtime without files of its own takes those of the runtime that it is an alternative to.
    """
    runtimes = (runtime, RUNTIMES[runtime].alternative_to) if precision == "int8" else (runtime,)
    rows = [row for name in runtimes for row in FORMATS.values() if row.runtime == name]
    row = next((row for wanted in (precision, otherwise) for row in rows if row.precision == wanted), None)
    if row is None:
        raise SrkdError(f"no {precision} file is made for runtime {runtime}")
    missing = row.missing_requirement()
    if missing is not None:
        raise SrkdError(missing)
    return row
