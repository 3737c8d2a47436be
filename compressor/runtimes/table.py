"""The table of runtimes: their modules, files and requirements. Importing this module imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from compressor.base.context import Context
from compressor.base.entry_points import EntryPointTable
from compressor.base.errors import MissingExtra
from compressor.runtimes.shader_player import player_missing
from compressor.runtimes.tensorrt.installation import driver_missing

if TYPE_CHECKING:
    from compressor.runtimes.base import Runtime

GROUP = "srkd.formats"
"""The entry point group for runtimes (`runtimes`) and formats (`formats`) of other packages."""


@dataclass(frozen=True)
class OpenOptions:
    """Options for opening a model file. None leaves a choice to the file."""

    label: str = ""
    """The name of the model in tables; empty: the stem of its file."""
    scale: int | None = None
    arch_options: Mapping[str, object] | None = None
    """Facts that a checkpoint does not hold, such as res_scale."""
    strength: float | None = None
    """Of a student with two ends; None: its own."""
    device: str = "cpu"
    runtime: str | None = None
    precision: str | None = None
    threads: int | None = None
    """The number of CPU threads; None: as many as torch uses."""
    limits: float = 1.0
    """Factor on the usual limits of the trial of a foreign ONNX file."""
    trust_code: bool = False
    """True to open a TorchScript or torch.export program, which may run any code."""
    trusted: bool = False
    """True for a file that this process has just written: it needs no trial in a child process."""
    emulate_target: bool = False
    """True to compute as the hardware that the file is for, where the runtime differs from it on this machine."""
    call_seconds: float | None = None
    """The most seconds of a call, in a runtime that is a program; None: half an hour."""


DEFAULTS = OpenOptions()


class RuntimeModule(Protocol):
    def open_file(self, path: Path, options: OpenOptions, context: Context) -> Runtime:
        """Open the file, ready to run. The caller compares precision and scale with the options."""
        ...

    def read_metadata(self, path: Path) -> Mapping[str, str]:
        """The `srkd.*` keys of a file, even if it cannot run here."""
        ...


ExecutedNode = tuple[Literal["int8", "float", "conversion"], str]
"""The arithmetic of a node, and its operator. A conversion only turns floats into bytes or bytes into floats."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    needs: tuple[str, ...] = ()
    """Modules that must be importable."""
    extra: str | None = None
    """The optional dependency group of srkd that installs them; None if the plain installation does."""
    obstacle: Callable[[], str | None] = lambda: None
    """Function that returns one line about a lack of this machine that no package fixes, or None."""
    distribution: str = "srkd"
    """The distribution that defines the row."""

    def missing_requirement(self) -> str | None:
        """Return one line about a missing requirement for such a file, or None."""
        if (obstacle := self.obstacle()) is not None:
            return obstacle
        missing = ", ".join(missing_modules(self.needs))
        if not missing:
            return None
        if self.extra:
            return str(MissingExtra(missing, self.extra))
        return f"{missing} is not installed: pip install --force-reinstall {self.distribution}"


@dataclass(frozen=True, kw_only=True)
class RuntimeEntry(Requirements):
    """A runtime, a row of RUNTIMES."""

    name: str
    files: str
    """Description of the files that it runs."""
    module: str
    """Import path of the `RuntimeModule`."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of its files; empty: every file without another runtime."""
    sidecar: str = ""
    """Suffix after the file's own of one beside it, without which torch's loader reads the file as a checkpoint."""
    alternative_to: str | None = None
    """The runtime whose files it runs, too, if it is selected by name."""
    devices: Mapping[str, str] = field(default_factory=lambda: {"cpu": ""})
    """Regular expressions for the text after the colon of a device, by device."""
    selects_precision: bool = False
    """True if the precision is selected when a file is opened; otherwise the file has one."""
    reads_torch_memory: bool = False
    """True if it reads a tensor on its device without a copy through the host."""
    opens_as_teacher: bool = False
    """True if its files can be foreign teachers, so that `OpenOptions.arch_options` apply."""

    @property
    def runs_checkpoints(self) -> bool:
        """True for torch, and for each other runtime that opens the same files as torch."""
        return "torch" in (self.name, self.alternative_to)

    def load(self) -> RuntimeModule:
        return cast(RuntimeModule, importlib.import_module(self.module))


def missing_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """The modules that are not installed, without importing any."""
    return tuple(name for name in modules if importlib.util.find_spec(name) is None)


RUNTIMES: EntryPointTable[RuntimeEntry] = EntryPointTable(
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
            devices={"cpu": "", "cuda": r"\d+"},
            reads_torch_memory=True,
            opens_as_teacher=True,
        ),
        RuntimeEntry(
            name="openvino",
            files="an OpenVINO model (.xml, with its .bin), an ONNX file of srkd",
            module="compressor.runtimes.openvino_runtime",
            suffixes=(".xml",),
            alternative_to="onnxruntime",
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
            sidecar=".json",
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
            name="coreml",
            files="a Core ML package (.mlpackage), on macOS",
            module="compressor.runtimes.coreml_runtime",
            suffixes=(".mlpackage",),
            needs=("coremltools",),
            extra="coreml",
            devices={"cpu": "", "coreml": "gpu|ane"},
            obstacle=lambda: None if sys.platform == "darwin" else "Core ML's packages run on macOS only",
        ),
        RuntimeEntry(
            name="libplacebo",
            files="an mpv user shader (.glsl) or a preset of RetroArch (.slangp) that srkd wrote",
            module="compressor.runtimes.libplacebo_runtime",
            suffixes=(".glsl", ".slangp"),
            obstacle=player_missing,
        ),
        RuntimeEntry(
            name="magpie",
            files="an effect of Magpie (.hlsl) that srkd wrote",
            module="compressor.runtimes.libplacebo_runtime",
            suffixes=(".hlsl",),
            obstacle=lambda: "Magpie's effects run in Magpie only, on Windows",
        ),
    ),
    GROUP,
    lambda point: point.load().runtimes,
)


def runtime_of(file: Path) -> str:
    """The name of the runtime for files of this kind: by suffix, else torch, whose loader reads the content."""
    rows = (row for row in RUNTIMES.values() if file.suffix.lower() in row.suffixes)
    return next((row.name for row in rows if not row.sidecar or Path(f"{file}{row.sidecar}").exists()), "torch")


def torch_device_for(device: str) -> str:
    """Torch's device for one of a runtime: that of the same name, else the CPU, as for `openvino:GPU`."""
    return device if device.partition(":")[0] in RUNTIMES["torch"].devices else "cpu"


def device_patterns() -> dict[str, str]:
    """The devices of all runtimes: a regular expression for the text after the colon, by device."""
    return {name: pattern for row in RUNTIMES.values() for name, pattern in row.devices.items()}
