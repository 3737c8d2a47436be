"""The models of a profile: each model under each runtime that can run it, opened and ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import file_sha256
from compressor.inference.open import model_file, open_model
from compressor.models.cost import Cost, cost
from compressor.models.networks.base import Network
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_providers import torch_device_for
from compressor.runtimes.table import RUNTIMES, OpenOptions, runtime_of
from compressor.runtimes.torch_runtime import TorchRuntime
from export.conversion import FileOptions, Int8Options
from export.exporting import Source, convert_to, prove
from export.formats import FORMATS, find_format
from export.integer_nodes import IntegerNodes, count_integer_nodes
from export.profile.memory import MemoryJob
from export.proof_inputs import proof_inputs

DEFAULT_RUNTIMES = ("torch", "onnxruntime")


@dataclass(frozen=True)
class Settings:
    """How to measure. Sizes are (width, height); `threads` None means as many as torch uses; `seconds` is the time for
    each row at each size; `scale` and `arch_options` are for checkpoints that leave them open, `teacher_options` for
    the teacher's alone. `precision="int8"`: checkpoints are written in eight bits for the runtimes that have such
    files; torch, and the teacher, compute in float."""

    runtimes: tuple[str, ...] = DEFAULT_RUNTIMES
    device: str = "cpu"
    precision: str = "fp32"
    lr_sizes: tuple[tuple[int, int], ...] = ((128, 128),)
    batch: int = 1
    threads: int | None = None
    seconds: float = 3.0
    memory: bool = True
    quality: bool = True
    scale: int | None = None
    arch_options: Mapping[str, object] | None = None
    teacher_options: Mapping[str, object] | None = None
    limits: float = 1.0
    """How many times the usual limits a program of strangers may use when it is first tried."""

    def __post_init__(self) -> None:
        for name in self.runtimes:
            RUNTIMES.find(name)
        if not self.runtimes or not self.lr_sizes:
            raise UsageError("nothing to measure: at least one runtime and one size are needed")
        sides = [("lr_size", side) for size in self.lr_sizes for side in size]
        for name, value in (("batch", self.batch), ("threads", self.threads or 1), *sides):
            if value < 1:
                raise UsageError(f"{name}={value}: at least 1 is needed")

    def for_checkpoint(self, runtime: str, *, is_teacher: bool) -> OpenOptions:
        """Return the options that open a checkpoint in `runtime`, torch or another way to run it."""
        return OpenOptions(
            scale=self.scale,
            arch_options={**(self.arch_options or {}), **((self.teacher_options or {}) if is_teacher else {})},
            device=torch_device_for(self.device),
            runtime=runtime,
            precision="fp32" if self.precision == "int8" else self.precision,
            limits=self.limits,
        )

    def for_file(self, runtime: str) -> OpenOptions:
        """Return the options that open an exported file. One in eight bits has its precision, whatever was selected."""
        selected = RUNTIMES[runtime].selects_precision and self.precision not in ("fp32", "int8")
        precision = self.precision if selected else None
        return OpenOptions(device=self.device, threads=self.threads, precision=precision, limits=self.limits)


@dataclass(frozen=True)
class ProfiledModel:
    """One model under one runtime. `file` is the file that the runtime opened: the model's own or a temporary export;
    `options` opened it. `unbounded`: it was written all in eight bits, without a bound for what it loses.
    `integer_nodes`: of a file in eight bits, where its runtime shows that."""

    label: str
    is_teacher: bool
    runtime: Runtime
    file: Path
    options: OpenOptions
    cost: Callable[[tuple[int, int]], Cost | None]
    unbounded: bool = False
    integer_nodes: IntegerNodes | None = None

    def memory_job(self, settings: Settings) -> MemoryJob:
        """Return the measurement of its memory, in the same runtime and on the same device."""
        entry = RUNTIMES[self.runtime.name]
        makers = (row.needs for row in FORMATS.values() if row.runtime == entry.name)
        return MemoryJob(
            path=str(self.file),
            sizes=tuple(sorted(settings.lr_sizes, key=lambda size: size[0] * size[1])),
            options=replace(
                self.options,
                runtime=self.runtime.name,
                device=self.runtime.device,
                precision=self.runtime.precision,
                threads=settings.threads or 1,
            ),
            libraries=() if "torch" in (entry.name, entry.alternative_to) else entry.needs or next(makers, ()),
            batch=settings.batch,
        )


def open_models(
    models: Sequence[Path | str], teacher: Path | str | None, settings: Settings, folder: Path, context: Context
) -> tuple[list[ProfiledModel], list[str]]:
    """Open everything; the notes name what is left out. Temporary exports go to `folder`."""
    files = [(Path(path), False) for path in models]
    if teacher is not None:
        files.insert(0, (Path(teacher), True))
    opened: list[ProfiledModel] = []
    notes: list[str] = []
    labels: set[str] = set()
    for done, (path, is_teacher) in enumerate(files):
        context.progress("open", done, len(files))
        label = _unique_label(path.name if path.is_dir() else path.stem, labels)
        if runtime_of(model_file(path)) == "torch":
            opened += _open_checkpoint(path, label, is_teacher, settings, folder, notes, context)
        else:
            opened += _open_exported(path, label, is_teacher, settings, notes)
    context.progress("open", len(files), len(files))
    opened = [_with_integer_nodes(model, notes) for model in opened]
    if all(model.is_teacher for model in opened):
        raise SrkdError(f"nothing to profile: {'; '.join(notes)}")
    scales = {model.label: model.runtime.descriptor.scale for model in opened}
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{label} x{scale}" for label, scale in scales.items())
        notes.append(f"scales differ, so speed-ups compare unlike work: {listed}")
    return opened, notes


def _unique_label(label: str, labels: set[str]) -> str:
    """Return the label, or label#2 for the second model of that name, and add it to the labels."""
    unique, number = label, 2
    while unique in labels:
        unique, number = f"{label}#{number}", number + 1
    labels.add(unique)
    return unique


def _with_integer_nodes(model: ProfiledModel, notes: list[str]) -> ProfiledModel:
    """Add what the runtime of a file in eight bits computes with integers; a file is timed without that, too."""
    if model.runtime.precision != "int8":
        return model
    try:
        return replace(model, integer_nodes=count_integer_nodes(model.runtime, model.file))
    except SrkdError as error:
        notes.append(str(error))
        return model


def _open_checkpoint(
    path: Path,
    label: str,
    is_teacher: bool,
    settings: Settings,
    folder: Path,
    notes: list[str],
    context: Context,
) -> list[ProfiledModel]:
    """Open a checkpoint in torch, and by a temporary export in every other runtime of the settings."""
    file, options = model_file(path), settings.for_checkpoint("torch", is_teacher=is_teacher)
    in_torch = open_model(path, options)
    if not isinstance(in_torch, TorchRuntime):
        return [ProfiledModel(label, is_teacher, in_torch, file, options, lambda size: None)]
    spec = in_torch.spec
    in_int8 = settings.precision == "int8" and not is_teacher
    opened = []
    if "torch" in settings.runtimes or is_teacher:
        opened.append(ProfiledModel(label, is_teacher, in_torch, file, options, lambda size: cost(spec, size)))
    for name in settings.runtimes:
        if name == "torch":
            continue
        try:
            if RUNTIMES[name].alternative_to == "torch":
                run_file, options = file, settings.for_checkpoint(name, is_teacher=is_teacher)
            else:
                source, export = Source(label, file_sha256(file)), _export_in_int8 if in_int8 else _export_in_float
                run_file, options = export(name, in_torch.network, source, folder, context), settings.for_file(name)
            runtime = open_model(path if run_file == file else run_file, options)
        except SrkdError as error:
            notes.append(f"{label} is left out under {name}: {error}")
            continue
        unbounded = in_int8 and runtime.precision == "int8" and in_torch.network.quantisation is None
        profiled = ProfiledModel(label, is_teacher, runtime, run_file, options, lambda size: cost(spec, size))
        opened.append(replace(profiled, unbounded=unbounded))
    return opened


def _export_in_float(runtime: str, network: Network, source: Source, folder: Path, context: Context) -> Path:
    """Write a temporary file for that runtime, compared with the network before it is timed."""
    row = find_format(runtime, "fp32")
    file = folder / f"{source.stem}{row.suffix}"
    convert_to(row, network, source, file)
    proof = prove(row, file, network, proof_inputs(network.descriptor, photos={}))
    if proof.reason is not None:
        raise SrkdError(f"its export {proof.reason}")
    return file


def _export_in_int8(runtime: str, network: Network, source: Source, folder: Path, context: Context) -> Path:
    """Write a temporary file all in eight bits. What it loses is told, and not bounded: the search for what must stay
    in float, which `srkd export` makes, takes many times as long."""
    row = find_format(runtime, "int8")
    file = folder / f"{source.stem}{row.suffix}"
    convert_to(row, network, source, file, FileOptions(int8=Int8Options(max_drop=None)), context)
    return file


def _open_exported(
    path: Path, label: str, is_teacher: bool, settings: Settings, notes: list[str]
) -> list[ProfiledModel]:
    """Open an exported file, which has one runtime; it is left out only where others were selected by name."""
    name = runtime_of(path)
    if name not in settings.runtimes and settings.runtimes != DEFAULT_RUNTIMES:
        notes.append(f"{label} is left out: {path.name} runs under {name}, which is not among the runtimes")
        return []
    options = settings.for_file(name)
    runtime = open_model(path, options)
    spec = runtime.spec
    if spec is None and name == "onnxruntime":
        from export.profile.onnx_cost import onnx_cost

        return [ProfiledModel(label, is_teacher, runtime, path, options, lambda size: onnx_cost(path, size))]
    count = (lambda size: None) if spec is None else (lambda size: cost(spec, size))
    return [ProfiledModel(label, is_teacher, runtime, path, options, count)]
