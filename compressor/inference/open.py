"""`open_model`: any model file, ready to run. Importing this table imports no torch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from compressor.base.context import Note, no_note
from compressor.base.errors import MissingExtra, SrkdError, UsageError, nearest
from compressor.runtimes.tensorrt.driver import driver_missing

# The command line reads the table for its help, which imports no torch.
if TYPE_CHECKING:
    from compressor.runtimes.base import Runtime
    from compressor.teachers.teacher import Teacher


@dataclass(frozen=True)
class Request:
    """What is to be opened, and how."""

    path: Path
    label: str
    scale: int | None
    arch_options: Mapping[str, object] | None
    device: str
    precision: str | None
    threads: int | None
    announce: Note = no_note


def absent(modules: Iterable[str]) -> tuple[str, ...]:
    """Those that are not installed; none is imported."""
    return tuple(name for name in modules if importlib.util.find_spec(name) is None)


def no_obstacle() -> str | None:
    """Of what runs on every machine."""
    return None


@dataclass(frozen=True)
class RuntimeKind:
    """A row of the table: what it runs, and how a file of that kind is opened."""

    takes: str
    suffixes: frozenset[str]
    """Empty: every file that no other runtime claims."""
    open: Callable[[Request], Runtime]
    instead_of: str | None = None
    """The runtime whose files it runs in another way; it has no suffixes, and is asked for by name."""
    needs: tuple[str, ...] = ()
    """Modules that must be importable."""
    extra: str | None = None
    """The extra of the distribution that brings them."""
    any_precision: bool = False
    """Whether the precision is chosen where a file is opened; of others it lies in the file."""
    obstacle: Callable[[], str | None] = no_obstacle
    """In one line, what this machine lacks that no package brings; None: nothing."""

    def lacking(self) -> str | None:
        """In one line, what must be there before such a file can be opened; None: nothing."""
        obstacle = self.obstacle()
        if obstacle is not None:
            return obstacle
        missing = absent(self.needs)
        return str(MissingExtra(", ".join(missing), self.extra or "")) if missing else None


def _open_torch(request: Request) -> Runtime:
    return _open_checkpoint(request, compiled=False)


def _open_compiled(request: Request) -> Runtime:
    return _open_checkpoint(request, compiled=True)


def _open_checkpoint(request: Request, *, compiled: bool) -> Runtime:

    from compressor.runtimes.torch_runtime import TorchCompiledRuntime, TorchRuntime
    from compressor.teachers.teacher import load_teacher

    teacher = load_teacher(request.path, scale=request.scale, arch_options=request.arch_options)
    if request.threads is not None:
        import torch

        torch.set_num_threads(request.threads)
    if teacher.network is None:
        if compiled:
            raise UsageError(
                f"{request.path}: the {teacher.backend} model runs as it is, not compiled: use --runtime torch"
            )
        return _foreign(request, teacher)
    header = teacher.origin.header if teacher.origin is not None and teacher.origin.header is not None else {}
    return (TorchCompiledRuntime if compiled else TorchRuntime)(
        teacher.network,
        label=request.label,
        device=request.device,
        precision=request.precision or "fp32",
        metadata={key: value for key, value in header.items() if key.startswith("srkd.")},
    )


def _foreign(request: Request, teacher: Teacher) -> Runtime:
    from compressor.inference.foreign_runtime import ForeignRuntime

    if request.precision not in (None, "fp32"):
        raise UsageError(f"{request.path}: the {teacher.backend} model runs in fp32 here, not {request.precision}")
    return ForeignRuntime(teacher, label=request.label, device=request.device)


def _open_onnx(request: Request) -> Runtime:
    from compressor.runtimes.onnx_runtime import OnnxRuntime

    if request.arch_options:
        from compressor.teachers.teacher import load_teacher

        return _foreign(request, load_teacher(request.path, scale=request.scale, arch_options=request.arch_options))
    runtime = OnnxRuntime(request.path, label=request.label, device=request.device, threads=request.threads)
    return _as_asked(request, runtime)


def _open_openvino(request: Request) -> Runtime:
    from compressor.runtimes.openvino_runtime import OpenVinoRuntime

    _refuse_options(request)
    runtime = OpenVinoRuntime(
        request.path,
        label=request.label,
        device=request.device,
        threads=request.threads,
        precision=request.precision or "fp32",
    )
    return _of_scale(request, runtime)


def _open_litert(request: Request) -> Runtime:
    from compressor.runtimes.litert_runtime import LiteRtRuntime

    _refuse_options(request)
    runtime = LiteRtRuntime(request.path, label=request.label, device=request.device, threads=request.threads)
    if request.precision not in (None, runtime.precision):
        raise UsageError(f"{request.path} holds {runtime.precision}, not {request.precision}: export it again in that")
    return _of_scale(request, runtime)


def _open_executorch(request: Request) -> Runtime:
    from compressor.runtimes.executorch_runtime import ExecuTorchRuntime

    _refuse_options(request)
    runtime = ExecuTorchRuntime(request.path, label=request.label, device=request.device, threads=request.threads)
    if request.precision not in (None, runtime.precision):
        raise UsageError(f"{request.path} computes in {runtime.precision}, not {request.precision}")
    return _of_scale(request, runtime)


def _open_coreml(request: Request) -> Runtime:
    from compressor.runtimes.coreml_runtime import CoreMLRuntime

    _refuse_options(request)
    if request.precision not in (None, CoreMLRuntime.precision):
        raise UsageError(f"{request.path} computes in {CoreMLRuntime.precision}, not {request.precision}")
    return _of_scale(request, CoreMLRuntime(request.path, label=request.label, device=request.device))


def _refuse_options(request: Request) -> None:
    if request.arch_options:
        raise UsageError(f"{request.path} is an exported file: it needs no {', '.join(request.arch_options)}")


def _open_ncnn(request: Request) -> Runtime:
    from compressor.runtimes.ncnn_runtime import NcnnRuntime

    _refuse_options(request)
    if request.device != "cpu":
        raise UsageError(f"device {request.device!r}: ncnn runs on cpu here")
    return _as_asked(request, NcnnRuntime(request.path, label=request.label, threads=request.threads))


def _as_asked(request: Request, runtime: Runtime) -> Runtime:
    """Of a file that has one precision, no other is to be had."""
    if request.precision not in (None, runtime.precision):
        raise UsageError(f"{request.path} holds {runtime.precision}, not {request.precision}: export it again in that")
    return _of_scale(request, runtime)


def _of_scale(request: Request, runtime: Runtime) -> Runtime:
    if request.scale not in (None, runtime.descriptor.scale):
        raise UsageError(f"{request.path} is for scale {runtime.descriptor.scale}, not {request.scale}")
    return runtime


def _open_engine(request: Request) -> Runtime:
    from compressor.runtimes.tensorrt_runtime import TensorRTRuntime

    runtime = TensorRTRuntime(request.path, label=request.label, device=request.device, announce=request.announce)
    if request.precision not in (None, runtime.precision):
        raise UsageError(
            f"{request.path} runs in {runtime.precision}, not {request.precision}: export it again in that"
        )
    if request.scale not in (None, runtime.descriptor.scale):
        raise UsageError(f"{request.path} is for scale {runtime.descriptor.scale}, not {request.scale}")
    return runtime


def _no_macos() -> str | None:
    return None if sys.platform == "darwin" else "Core ML's packages run on macOS only"


RUNTIMES: Mapping[str, RuntimeKind] = MappingProxyType(
    {
        "torch": RuntimeKind(
            "a checkpoint (.pt, .pth, .safetensors), a TorchScript or a torch.export file", frozenset(), _open_torch
        ),
        "torch-compiled": RuntimeKind(
            "a checkpoint (.pt, .pth, .safetensors)", frozenset(), _open_compiled, instead_of="torch"
        ),
        "onnxruntime": RuntimeKind("an ONNX file (.onnx)", frozenset({".onnx"}), _open_onnx),
        "openvino": RuntimeKind(
            "an OpenVINO model (.xml, with its .bin)",
            frozenset({".xml"}),
            _open_openvino,
            needs=("openvino",),
            extra="openvino",
            any_precision=True,
        ),
        "ncnn": RuntimeKind(
            "an ncnn network (.param, with .bin and .param.json beside it)",
            frozenset({".param"}),
            _open_ncnn,
            needs=("ncnn",),
            extra="ncnn",
        ),
        "tensorrt": RuntimeKind(
            "a TensorRT engine (.engine), on the NVIDIA GPU it was built for",
            frozenset({".engine"}),
            _open_engine,
            needs=("tensorrt",),
            extra="tensorrt",
            obstacle=driver_missing,
        ),
        "litert": RuntimeKind(
            "a LiteRT or TensorFlow Lite model (.tflite)",
            frozenset({".tflite"}),
            _open_litert,
            needs=("ai_edge_litert",),
            extra="litert",
        ),
        "executorch": RuntimeKind(
            "an ExecuTorch program (.pte, with its .json)",
            frozenset({".pte"}),
            _open_executorch,
            needs=("executorch",),
            extra="executorch",
        ),
        "coreml": RuntimeKind(
            "a Core ML package (.mlpackage), on macOS",
            frozenset({".mlpackage"}),
            _open_coreml,
            needs=("coremltools",),
            extra="coreml",
            obstacle=_no_macos,
        ),
    }
)


def open_model(
    path: Path | str,
    *,
    scale: int | None = None,
    arch_options: Mapping[str, object] | None = None,
    device: str = "cpu",
    runtime: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    announce: Note = no_note,
) -> Runtime:
    """Open a checkpoint, a run folder (its student) or an exported file.

    `runtime` None takes the one the file is for. `threads` is the session's own in ONNX Runtime; torch has one number
    for the whole process, and it is set.
    """
    given = Path(path)
    file = model_file(given)
    name = runtime_of(file)
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"no runtime is called {runtime!r}; {nearest(runtime, RUNTIMES)}")
    if runtime is not None:
        if name not in (runtime, RUNTIMES[runtime].instead_of):
            raise UsageError(f"{given}: runtime {runtime} takes {RUNTIMES[runtime].takes}")
        name = runtime
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: at least one is needed")
    lacking = RUNTIMES[name].lacking()
    if lacking is not None:
        raise SrkdError(f"{given}: {lacking}")
    label = given.name if file != given else given.stem
    return RUNTIMES[name].open(Request(file, label, scale, arch_options, device, precision, threads, announce))


def model_file(path: Path) -> Path:
    """The file that `path` means: itself (some formats are folders), or the student of a run folder."""
    from compressor.models.checkpoints.load import RUN_FOLDER_WEIGHTS

    if path.is_dir() and runtime_of(path) == "torch":
        student = path / RUN_FOLDER_WEIGHTS
        if not student.is_file():
            raise SrkdError(
                f"{path} is a folder without {RUN_FOLDER_WEIGHTS}: give a run folder that is done, or a file"
            )
        return student
    if not path.exists():
        raise SrkdError(f"{path}: no such file or folder")
    return path


def runtime_of(file: Path) -> str:
    """The runtime that opens files of this kind: by suffix, else torch, whose loader looks into the file."""
    for name, kind in RUNTIMES.items():
        if file.suffix.lower() in kind.suffixes:
            return name
    return "torch"
