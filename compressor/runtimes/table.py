"""The table of runtimes: which module opens a kind of file, and what it needs. Importing it imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from compressor.base.context import Context
from compressor.base.entry_points import Table
from compressor.base.errors import MissingExtra
from compressor.runtimes.onnx_providers import PROVIDERS
from compressor.runtimes.tensorrt.installation import driver_missing

if TYPE_CHECKING:
    from compressor.runtimes.base import Runtime

GROUP = "srkd.formats"
"""The entry point group by which a package adds runtimes (`runtimes`) and formats (`formats`)."""


@dataclass(frozen=True)
class OpenOptions:
    """How a model file is opened. None leaves a choice to the file."""

    label: str = ""
    """How tables call the model; empty: the stem of its file."""
    scale: int | None = None
    arch_options: Mapping[str, object] | None = None
    """Facts that a checkpoint does not hold, such as res_scale."""
    device: str = "cpu"
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    """The number of CPU threads; None: as many as torch uses."""
    limits: float = 1.0
    """How many times the usual limits a program of strangers may use when it is first tried."""
    trusted: bool = False
    """True for a file that this process has just made: it is not tried in a child process first."""
    emulate_half: bool = False
    """True rounds half precision as hardware does, in a runtime that would compute it in float32."""


DEFAULTS = OpenOptions()


class RuntimeModule(Protocol):
    """The functions of a runtime's module."""

    def open_file(self, path: Path, options: OpenOptions, context: Context) -> Runtime:
        """Open the file, ready to run. The caller compares precision and scale with the options."""
        ...

    def read_metadata(self, path: Path) -> Mapping[str, str]:
        """Read the `srkd.*` keys of a file, which need not be able to run here."""
        ...


ExecutedNode = tuple[Literal["int8", "float", "conversion"], str]
"""How a node computes, and its operator. A conversion only turns floats into bytes or bytes into floats."""

NodeReader = Callable[[Path], Iterator[ExecutedNode]]


def no_obstacle() -> str | None:
    """Name no obstacle: the runtime works on every machine."""
    return None


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """The needs of a runtime or a format."""

    needs: tuple[str, ...] = ()
    """Modules that must be importable."""
    extra: str | None = None
    """The optional dependency group of srkd that installs them; None where the plain installation does."""
    obstacle: Callable[[], str | None] = no_obstacle
    """Returns in one line what this machine lacks that no package installs, or None."""
    distribution: str = "srkd"
    """The distribution that the row belongs to."""

    def missing_requirement(self) -> str | None:
        """Return in one line what must be there before such a file can be opened or written, or None."""
        obstacle = self.obstacle()
        if obstacle is not None:
            return obstacle
        missing = ", ".join(missing_modules(self.needs))
        if not missing:
            return None
        if self.extra:
            return str(MissingExtra(missing, self.extra))
        return f"{missing} is not installed: pip install --force-reinstall {self.distribution}"


@dataclass(frozen=True, kw_only=True)
class RuntimeEntry(Requirements):
    """A row of the table."""

    name: str
    files: str
    """The files that it runs, in words."""
    module: str
    """The `RuntimeModule`."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of its files; empty: every file that no other runtime has."""
    alternative_to: str | None = None
    """The runtime whose files it runs in another way: it has no suffixes, and is selected by name."""
    devices: Mapping[str, str] = field(default_factory=lambda: {"cpu": ""})
    """Device → regular expression of what may follow its colon."""
    selects_precision: bool = False
    """True if the precision is selected when a file is opened; otherwise the file has one."""
    reads_torch_memory: bool = False
    """True if it reads a tensor on its device without a copy through the host."""
    opens_as_teacher: bool = False
    """True if its files can be foreign teachers, so that `OpenOptions.arch_options` mean something."""

    @property
    def runs_checkpoints(self) -> bool:
        """True of torch and every other way to run its files."""
        return "torch" in (self.name, self.alternative_to)

    def load(self) -> RuntimeModule:
        return cast(RuntimeModule, importlib.import_module(self.module))

    def node_reader(self) -> NodeReader | None:
        """Return `executed_nodes` of its module, or None where the runtime does not show its graph."""
        reader: NodeReader | None = getattr(self.load(), "executed_nodes", None)
        return reader


def missing_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """The modules that are not installed; none is imported."""
    return tuple(name for name in modules if importlib.util.find_spec(name) is None)


def _not_macos() -> str | None:
    return None if sys.platform == "darwin" else "Core ML's packages run on macOS only"


RUNTIMES: Table[RuntimeEntry] = Table(
    "runtime",
    (
        *(
            RuntimeEntry(
                name=name,
                files=files,
                module="compressor.inference.checkpoint_runtime",
                alternative_to=alternative_to,
                devices={"cpu": "", "cuda": r"\d+", "mps": ""},
                selects_precision=True,
                reads_torch_memory=True,
                opens_as_teacher=True,
            )
            for name, alternative_to, files in (
                ("torch", None, "a checkpoint (.pt, .pth, .safetensors), a TorchScript or a torch.export file"),
                ("torch-compiled", "torch", "a checkpoint (.pt, .pth, .safetensors)"),
            )
        ),
        RuntimeEntry(
            name="onnxruntime",
            files="an ONNX file (.onnx)",
            module="compressor.runtimes.onnx_runtime",
            suffixes=(".onnx",),
            devices={device: row.part for device, row in PROVIDERS.items()},
            reads_torch_memory=True,
            opens_as_teacher=True,
        ),
        RuntimeEntry(
            name="openvino",
            files="an OpenVINO model (.xml, with its .bin)",
            module="compressor.runtimes.openvino_runtime",
            suffixes=(".xml",),
            needs=("openvino",),
            extra="openvino",
            devices={"cpu": "", "openvino": r"(CPU|GPU|NPU)(\.\d+)?"},
            selects_precision=True,
        ),
        RuntimeEntry(
            name="ncnn",
            files="an ncnn network (.param, with .bin and .param.json beside it)",
            module="compressor.runtimes.ncnn_runtime",
            suffixes=(".param",),
            needs=("ncnn",),
            extra="ncnn",
        ),
        RuntimeEntry(
            name="tensorrt",
            files="a TensorRT engine (.engine), on the NVIDIA GPU it was built for",
            module="compressor.runtimes.tensorrt_runtime",
            suffixes=(".engine",),
            needs=("tensorrt",),
            extra="tensorrt",
            devices={"cuda": r"\d+"},
            reads_torch_memory=True,
            obstacle=driver_missing,
        ),
        RuntimeEntry(
            name="litert",
            files="a LiteRT or TensorFlow Lite model (.tflite)",
            module="compressor.runtimes.litert_runtime",
            suffixes=(".tflite",),
            needs=("ai_edge_litert",),
            extra="litert",
        ),
        RuntimeEntry(
            name="executorch",
            files="an ExecuTorch program (.pte, with its .json)",
            module="compressor.runtimes.executorch_runtime",
            suffixes=(".pte",),
            needs=("executorch",),
            extra="executorch",
        ),
        RuntimeEntry(
            name="coreml",
            files="a Core ML package (.mlpackage), on macOS",
            module="compressor.runtimes.coreml_runtime",
            suffixes=(".mlpackage",),
            needs=("coremltools",),
            extra="coreml",
            devices={"cpu": "", "coreml": "gpu|ane"},
            obstacle=_not_macos,
        ),
    ),
    GROUP,
    lambda point: point.load().runtimes,
)


def runtime_of(file: Path) -> str:
    """Return the name of the runtime for files of this kind: by suffix, else torch, whose loader reads the content."""
    return next((row.name for row in RUNTIMES.values() if file.suffix.lower() in row.suffixes), "torch")


def device_patterns() -> dict[str, str]:
    """Return the devices of all runtimes: name → regular expression of what may follow its colon."""
    return {name: part for row in RUNTIMES.values() for name, part in row.devices.items()}
