"""The table of formats: help, validation, documentation and export itself read it. One row and one file a format."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from compressor.base.errors import MissingExtra, UsageError, nearest
from compressor.runtimes.table import RUNTIMES, missing_modules, no_obstacle
from compressor.runtimes.tensorrt.installation import driver_missing
from export.bounds import BF16, FP32, HALF, Bounds
from export.conversion import Choices, Conversion

if TYPE_CHECKING:
    from pathlib import Path

    from compressor.models.networks.base import Network
    from compressor.runtimes.base import Runtime


class MachineModule(Protocol):
    """What the file of a format for one machine only offers besides."""

    def machine(self) -> str:
        """This machine as it stands in file names; SrkdError where it is none for this format."""
        ...

    def advice(self, written: Mapping[str, Path], network: Network, choices: Choices) -> str:
        """In one line, what to do elsewhere with the files that were written instead, by their formats' names."""
        ...


class FormatModule(Protocol):
    """What a format's file offers."""

    def convert(self, job: Conversion) -> Mapping[str, object]:
        """Write the file, and companions beside it, and give facts for the report (opset, nodes …)."""
        ...

    def open_runtime(self, path: Path) -> Runtime:
        """The file, ready to run in its own precision, so that it can be compared with the network."""
        ...


@dataclass(frozen=True)
class Format:
    """A row of the table. `name` is also the flag: --onnx."""

    name: str
    title: str
    suffix: str
    precision: str
    module: str
    needs: tuple[str, ...]
    """Modules that must be importable."""
    extra: str | None
    """The extra of the distribution that brings them; None where a plain installation does."""
    bounds: Bounds
    opens_with: str
    """The runtime that runs such a file (`compressor.inference.open.RUNTIMES`)."""
    choices: tuple[str, ...] = ()
    """Which of `Choices` it has: static, io, shuffle."""
    default_lr_size: tuple[int, int] | None = None
    """The size it takes where none was chosen; None: any size."""
    sidecar: bool = False
    """Whether its `srkd.*` keys lie in a JSON file beside it."""
    tried: bool = True
    """Whether we have run such files ourselves; what was not is marked wherever a user reads of it."""
    machine_bound: bool = False
    """Whether a file is good for the machine that made it only, which is then named in its name (`MachineModule`)."""
    instead: tuple[str, ...] = ()
    """Formats that are written where this one cannot be: what the machine that can is to be given."""
    obstacle: Callable[[], str | None] = no_obstacle
    """In one line, what this machine lacks that no package brings; None: nothing."""

    @property
    def told(self) -> str:
        """The row in a line of help."""
        return self.title if self.tried else f"{self.title}; not run by us"

    def missing(self) -> tuple[str, ...]:
        """What this installation lacks for it."""
        return missing_modules(self.needs)

    def lacking(self) -> str | None:
        """In one line, what this machine lacks for writing it; None: nothing."""
        obstacle = self.obstacle()
        if obstacle is not None:
            return obstacle
        missing = ", ".join(self.missing())
        if not missing:
            return None
        if self.extra:
            return str(MissingExtra(missing, self.extra))
        return f"{missing} is not installed: pip install --force-reinstall srkd"

    def refusal(self, choices: Choices) -> str | None:
        """In one line, which choice it does not have; None: it has them all."""
        told = choices.named()
        foreign = [f"--{name} {value}" for name, value in told.items() if name not in self.choices]
        return f"{self.title.split(',')[0]} has no {foreign[0]}" if foreign else None

    def not_run_here(self) -> str | None:
        """Why a file of this kind cannot be run on this machine, so that nothing can be compared; None: it can."""
        told = RUNTIMES[self.opens_with].obstacle()
        return None if told is None else f"{told}, so the file is not compared with the network"

    def load(self) -> FormatModule:
        return cast(FormatModule, importlib.import_module(self.module))

    def load_bound(self) -> MachineModule:
        return cast(MachineModule, importlib.import_module(self.module))


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        row.name: row
        for row in (
            Format(
                name="onnx",
                title="ONNX, float32, any batch and image size",
                suffix=".onnx",
                precision="fp32",
                module="export.to_onnx",
                needs=("onnx", "onnxscript", "onnxruntime", "onnxsim"),
                extra=None,
                bounds=FP32,
                opens_with="onnxruntime",
                choices=("static", "io", "shuffle"),
            ),
            Format(
                name="fp16",
                title="ONNX with fp16 inside, float32 images, any batch and image size",
                suffix=".fp16.onnx",
                precision="fp16",
                module="export.to_fp16",
                needs=("onnx", "onnxscript", "onnxruntime", "onnxsim"),
                extra=None,
                bounds=HALF,
                opens_with="onnxruntime",
                choices=("static", "io", "shuffle"),
            ),
            Format(
                name="bf16",
                title="ONNX with bf16 inside, float32 images, any batch and image size; opset 22",
                suffix=".bf16.onnx",
                precision="bf16",
                module="export.to_bf16",
                needs=("onnx", "onnxscript", "onnxruntime", "onnxsim"),
                extra=None,
                bounds=BF16,
                opens_with="onnxruntime",
                choices=("static", "io", "shuffle"),
            ),
            Format(
                name="openvino",
                title="OpenVINO, float32, any batch and image size; weights in a .bin beside it",
                suffix=".openvino.xml",  # its weights are a .bin of the same name, and so are ncnn's
                precision="fp32",
                module="export.to_openvino",
                needs=("onnx", "onnxscript", "onnxsim", "openvino"),
                extra="openvino",
                bounds=FP32,
                opens_with="openvino",
                choices=("static", "io"),
            ),
            Format(
                name="ncnn",
                title="ncnn for phones, float32 weights, precision chosen where it runs",
                suffix=".param",
                precision="fp32",
                module="export.to_ncnn",
                needs=("ncnn", "pnnx"),
                extra="ncnn",
                bounds=FP32,
                opens_with="ncnn",
                choices=("static",),
                sidecar=True,
            ),
            *(
                Format(
                    name=name,
                    title=f"TensorRT engine in {told}, made on an NVIDIA GPU for that GPU only",
                    suffix=".engine",
                    precision=precision,
                    module="export.to_trt",
                    needs=("tensorrt",),
                    extra="tensorrt",
                    bounds=bounds,
                    opens_with="tensorrt",
                    choices=("static", "sizes"),
                    machine_bound=True,
                    instead=instead,
                    obstacle=driver_missing,
                    tried=False,
                )
                for name, precision, told, bounds, instead in (
                    ("trt", "fp16", "fp16", HALF, ("onnx", "fp16", "bf16")),
                    ("trt-bf16", "bf16", "bf16", BF16, ("bf16",)),
                    ("trt-tf32", "tf32", "TF32", HALF, ("onnx",)),
                    ("trt-fp32", "fp32", "float32", FP32, ("onnx",)),
                )
            ),
            Format(
                name="litert",
                title="LiteRT (TensorFlow Lite), float32, N,H,W,C, any size; networks with windows one size only",
                suffix=".tflite",
                precision="fp32",
                module="export.to_litert",
                needs=("litert_torch", "ai_edge_litert"),
                extra="litert",
                bounds=FP32,
                opens_with="litert",
                choices=("static", "io"),
            ),
            Format(
                name="executorch",
                title="ExecuTorch for phones, float32 on XNNPACK; image sizes up to a bound that the file names",
                suffix=".pte",
                precision="fp32",
                module="export.to_executorch",
                needs=("executorch",),
                extra="executorch",
                bounds=FP32,
                opens_with="executorch",
                choices=("static",),
                sidecar=True,
            ),
            Format(
                name="coreml",
                title="Core ML for macOS and iOS, float32; runs there only, image sizes up to a bound",
                suffix=".mlpackage",
                precision="fp32",
                module="export.to_coreml",
                needs=("coremltools",),
                extra="coreml",
                bounds=FP32,
                opens_with="coreml",
                choices=("static",),
                tried=False,
            ),
        )
    }
)
DEFAULT_FORMATS = ("onnx",)


def find_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """Rows by name, each once, in the order given; none: the default."""
    wanted = tuple(dict.fromkeys(names)) or DEFAULT_FORMATS
    for name in wanted:
        if name not in FORMATS:
            raise UsageError(f"no format is called {name!r}; {nearest(name, FORMATS)}")
    return tuple(FORMATS[name] for name in wanted)
