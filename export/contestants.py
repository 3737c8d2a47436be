"""Who takes part in a profile: each model under each runtime that can run it, opened and ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.context import Progress
from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.inference.open import model_file, open_model
from compressor.models.cost import Cost, cost
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_providers import torch_device_for
from compressor.runtimes.table import RUNTIMES, OpenOptions, runtime_of
from compressor.runtimes.torch_runtime import TorchRuntime
from export.exporting import convert_to, prove
from export.formats import FORMATS
from export.memory import MemoryJob
from export.metadata import Source
from export.verify import proof_inputs

DEFAULT_RUNTIMES = ("torch", "onnxruntime")
DEFAULT_LR_SIZES = ((128, 128),)
DEFAULT_SECONDS = 3.0


@dataclass(frozen=True)
class Settings:
    """How to measure. Sizes are (width, height); `threads` None means as many as torch uses; `seconds` is the time for
    each row at each size; `scale` and `arch_options` are for checkpoints that leave them open,
    `teacher_options` for the teacher's alone."""

    runtimes: tuple[str, ...] = DEFAULT_RUNTIMES
    device: str = "cpu"
    precision: str = "fp32"
    lr_sizes: tuple[tuple[int, int], ...] = DEFAULT_LR_SIZES
    batch: int = 1
    threads: int | None = None
    seconds: float = DEFAULT_SECONDS
    memory: bool = True
    quality: bool = True
    scale: int | None = None
    arch_options: Mapping[str, object] | None = None
    teacher_options: Mapping[str, object] | None = None

    def options(self, is_teacher: bool) -> Mapping[str, object]:
        """What is said of a model's file."""
        return {**(self.arch_options or {}), **((self.teacher_options or {}) if is_teacher else {})}

    def __post_init__(self) -> None:
        for name in self.runtimes:
            if name not in RUNTIMES:
                raise UsageError(f"no runtime is called {name!r}; {nearest(name, RUNTIMES)}")
        if not self.runtimes or not self.lr_sizes:
            raise UsageError("nothing to measure: at least one runtime and one size are needed")
        sides = [("lr_size", side) for size in self.lr_sizes for side in size]
        for name, value in (("batch", self.batch), ("threads", self.threads or 1), *sides):
            if value < 1:
                raise UsageError(f"{name}={value}: at least 1 is needed")


@dataclass(frozen=True)
class Contestant:
    """One model under one runtime. `file` is what the runtime opened: the model's own or a temporary export."""

    label: str
    is_teacher: bool
    runtime: Runtime
    file: Path
    libraries: tuple[str, ...]
    cost: Callable[[tuple[int, int]], Cost | None]

    def memory_job(self, how: Settings) -> MemoryJob:
        own = "torch" in (self.runtime.name, RUNTIMES[self.runtime.name].alternative_to)
        return MemoryJob(
            path=str(self.file),
            runtime=self.runtime.name,
            sizes=tuple(sorted(how.lr_sizes, key=lambda size: size[0] * size[1])),
            libraries=self.libraries,
            batch=how.batch,
            scale=how.scale if own else None,
            arch_options=how.options(self.is_teacher) if own else None,
            device=self.runtime.device,
            precision=self.runtime.precision,
            threads=how.threads or 1,
        )


def enter(
    models: Sequence[Path | str], teacher: Path | str | None, how: Settings, folder: Path, progress: Progress
) -> tuple[list[Contestant], list[str]]:
    """Open everything; what cannot take part is named in the notes. Temporary exports go to `folder`."""
    files = [(Path(path), False) for path in models]
    if teacher is not None:
        files.insert(0, (Path(teacher), True))
    entries: list[Contestant] = []
    notes: list[str] = []
    labels: set[str] = set()
    for done, (path, is_teacher) in enumerate(files):
        progress("open", done, len(files))
        label = _unused(path.name if path.is_dir() else path.stem, labels)
        if runtime_of(model_file(path)) == "torch":
            entries += _checkpoint(path, label, is_teacher, how, folder, notes)
        else:
            entries += _exported(path, label, is_teacher, how, notes)
    progress("open", len(files), len(files))
    if not any(not entry.is_teacher for entry in entries):
        raise SrkdError(f"nothing to profile: {'; '.join(notes)}")
    scales = {entry.label: entry.runtime.descriptor.scale for entry in entries}
    if len(set(scales.values())) > 1:
        notes.append(
            "scales differ, so speed-ups compare unlike work: " + ", ".join(f"{k} x{v}" for k, v in scales.items())
        )
    return entries, notes


def _unused(label: str, taken: set[str]) -> str:
    """The label, or label#2 for the second model of that name."""
    found, number = label, 2
    while found in taken:
        found, number = f"{label}#{number}", number + 1
    taken.add(found)
    return found


def _checkpoint(
    path: Path, label: str, is_teacher: bool, how: Settings, folder: Path, notes: list[str]
) -> list[Contestant]:
    """In torch, and by a temporary export in every other runtime that was asked for."""

    def in_torch(runtime: str) -> Runtime:
        return open_model(
            path,
            OpenOptions(
                scale=how.scale,
                arch_options=how.options(is_teacher),
                device=torch_device_for(how.device),
                runtime=runtime,
                precision=how.precision,
            ),
        )

    opened = in_torch("torch")
    if not isinstance(opened, TorchRuntime):
        return [Contestant(label, is_teacher, opened, model_file(path), (), lambda size: None)]
    spec = opened.spec
    entries = []
    if "torch" in how.runtimes or is_teacher:
        entries.append(Contestant(label, is_teacher, opened, model_file(path), (), lambda size: cost(spec, size)))
    for name in how.runtimes:
        if name == "torch":
            continue
        try:
            if RUNTIMES[name].alternative_to == "torch":
                runtime = in_torch(name)
                entries.append(
                    Contestant(label, is_teacher, runtime, model_file(path), (), lambda size: cost(spec, size))
                )
                continue
            file = _exported_for(name, opened, label, folder)
            runtime = open_model(
                file, OpenOptions(device=how.device, threads=how.threads, precision=_precision(name, how))
            )
        except SrkdError as error:
            notes.append(f"{label} is left out under {name}: {error}")
            continue
        entries.append(Contestant(label, is_teacher, runtime, file, _libraries(name), lambda size: cost(spec, size)))
    return entries


def _exported_for(runtime: str, opened: TorchRuntime, label: str, folder: Path) -> Path:
    """A temporary file for that runtime, compared with the network before it is timed."""
    row = next((row for row in FORMATS.values() if row.opens_with == runtime and row.precision == "fp32"), None)
    if row is None:
        raise SrkdError(f"no format is made for runtime {runtime}")
    lacking = row.lacking()
    if lacking is not None:
        raise SrkdError(lacking)
    file = folder / f"{label}{row.suffix}"
    convert_to(row, opened.network, Source(label), file)
    inputs = proof_inputs(replace(opened.descriptor, fixed_size=row.default_lr_size), photos={})
    proof = prove(row, file, opened.network, inputs)
    if proof.reason is not None:
        raise SrkdError(f"its export {proof.reason}")
    return file


def _exported(path: Path, label: str, is_teacher: bool, how: Settings, notes: list[str]) -> list[Contestant]:
    """An exported file has one runtime; it is left out only where others were asked for by name."""
    name = runtime_of(path)
    if name not in how.runtimes and how.runtimes != DEFAULT_RUNTIMES:
        notes.append(f"{label} is left out: {path.name} runs under {name}, which was not asked for")
        return []
    runtime = open_model(path, OpenOptions(device=how.device, threads=how.threads, precision=_precision(name, how)))
    return [Contestant(label, is_teacher, runtime, path, _libraries(name), _cost_of_file(path, runtime))]


def _precision(runtime: str, how: Settings) -> str | None:
    """Of other runtimes it lies in the file."""
    return how.precision if RUNTIMES[runtime].selects_precision else None


def _libraries(runtime: str) -> tuple[str, ...]:
    """What running takes; making a file may take more."""
    made = next((row.needs for row in FORMATS.values() if row.opens_with == runtime), ())
    return RUNTIMES[runtime].needs or made


def _cost_of_file(path: Path, runtime: Runtime) -> Callable[[tuple[int, int]], Cost | None]:
    spec = runtime.spec
    if spec is not None:
        return lambda size: cost(spec, size)
    if path.suffix.lower() == ".onnx":
        from export.onnx_cost import onnx_cost

        return lambda size: onnx_cost(path, size)
    return lambda size: None
