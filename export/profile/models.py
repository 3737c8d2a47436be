"""The models of a profile: each model under each runtime and precision that can run it, opened in a process of its own.

A process starts while the next file is still being exported; its results are read when all exports are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.inference.open import model_file, open_model, unique_label
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.cost import cost
from compressor.models.networks.image_cost import Cost
from compressor.models.networks.registry import spec_from_dict
from compressor.runtimes.table import RUNTIMES, OpenOptions, runtime_of
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import FileOptions, Int8Options
from export.formats.proof_inputs import proof_inputs
from export.formats.table import FORMATS, find_format
from export.profile.measured import MeasuredJob, ModelFacts
from export.profile.process import ModelProcess
from export.profile.settings import ProfileSettings
from export.writing.exporting import Source, convert_to, prove

CostOfSize = Callable[[tuple[int, int]], Cost | None]


@dataclass(frozen=True)
class ProfiledModel:
    """One model under one runtime in one precision. `unbounded`: everything in its file is in int8, without a
    bound on the loss."""

    label: str
    is_teacher: bool
    process: ModelProcess
    facts: ModelFacts
    cost: CostOfSize
    unbounded: bool = False

    @property
    def name(self) -> str:
        """The name of the model in messages."""
        return f"{self.label} under {self.facts.runtime}"


@dataclass(frozen=True)
class _Starting:
    """A model whose process was started; `runtime` is the name of the intended runtime."""

    label: str
    is_teacher: bool
    runtime: str
    process: ModelProcess
    cost: CostOfSize | None
    """None: the cost is computed from the facts of the file."""
    file: Path
    unbounded: bool = False


@dataclass
class OpenModels:
    """All open models, with notes about those left out. Leaving the context ends the processes."""

    models: list[ProfiledModel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _processes: list[ModelProcess] = field(default_factory=list)

    def __enter__(self) -> OpenModels:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.close()

    def start(self, file: Path, options: OpenOptions, runtime: str) -> ModelProcess:
        """Start the process that opens a file."""
        entry = RUNTIMES[runtime]
        makers = (row.needs for row in FORMATS.values() if row.runtime == entry.name)
        libraries = () if entry.runs_checkpoints else entry.needs or next(makers, ())
        process = ModelProcess(MeasuredJob(str(file), options, libraries))
        self._processes.append(process)
        return process

    def collect(self, starting: Sequence[_Starting]) -> None:
        """Wait for the processes; a model that does not open becomes a note. If models prove to be the same, such as a
        file in int8 that was opened in two precisions, only the first is kept."""
        keys = set[tuple[str, str, str]]()
        for opened in starting:
            try:
                facts = opened.process.facts()
            except SrkdError as error:
                self.notes.append(f"{opened.label} is left out under {opened.runtime}: {error}")
                continue
            key = (opened.label, facts.runtime, facts.precision)
            if key in keys:
                opened.process.close()
                continue
            keys.add(key)
            if facts.integer_nodes_missing is not None:
                self.notes.append(facts.integer_nodes_missing)
            count = opened.cost or _cost_of_file(opened.file, facts)
            unbounded = opened.unbounded and facts.precision == "int8"
            self.models.append(ProfiledModel(opened.label, opened.is_teacher, opened.process, facts, count, unbounded))


def open_models(
    models: Sequence[Path | str], teacher: Path | str | None, settings: ProfileSettings, folder: Path, context: Context
) -> OpenModels:
    """Open all models under all runtimes of the settings. Temporary exports go to `folder`."""
    files = [(Path(path), False) for path in models]
    if teacher is not None:
        files.insert(0, (Path(teacher), True))
    opened = OpenModels(notes=list(settings.notes))
    labels: set[str] = set()
    starting: list[_Starting] = []
    try:
        for done, (path, is_teacher) in enumerate(files):
            context.progress("open", done, len(files))
            label = unique_label(path.name if path.is_dir() else path.stem, labels)
            labels.add(label)
            if runtime_of(model_file(path)) == "torch":
                starting += _start_checkpoint(path, label, is_teacher, settings, folder, opened, context)
            else:
                starting += _start_exported(path, label, is_teacher, settings, opened)
        opened.collect(starting)
        context.progress("open", len(files), len(files))
        if all(model.is_teacher for model in opened.models):
            raise SrkdError(f"nothing to profile: {'; '.join(opened.notes)}")
    except BaseException:
        opened.__exit__()
        raise
    scales = {model.label: model.facts.scale for model in opened.models}
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{label} x{scale}" for label, scale in scales.items())
        opened.notes.append(f"scales differ, so speed-ups compare unlike work: {listed}")
    return opened


def _start_checkpoint(
    path: Path,
    label: str,
    is_teacher: bool,
    settings: ProfileSettings,
    folder: Path,
    opened: OpenModels,
    context: Context,
) -> list[_Starting]:
    """Start a checkpoint in torch, and a temporary export of it in every other runtime of the settings."""
    file = model_file(path)

    def options_for(runtime: str, precision: str) -> OpenOptions:
        return replace(settings.for_checkpoint(runtime, precision, is_teacher=is_teacher), label=label)

    first = settings.float_precisions("torch", is_teacher=is_teacher)[0]
    model = open_model(path, options_for("torch", first))
    if not isinstance(model, TorchRuntime):
        process = opened.start(file, options_for("torch", first), "torch")
        return [_Starting(label, is_teacher, "torch", process, lambda size: None, file)]
    settings.require_memory(model.descriptor)  # before the slow exports
    # Some converters do not take channels-last weights, which torch uses.
    spec, network = model.spec, model.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    starting = []
    source = Source(label, file_sha256(file))
    exports = _Exports(network, source, folder, context)

    def start(runtime: str, run_file: Path, options: OpenOptions, *, unbounded: bool = False) -> None:
        process = opened.start(run_file, options, runtime)
        starting.append(_Starting(label, is_teacher, runtime, process, _count(spec), run_file, unbounded))

    runtimes = settings.selected_runtimes
    for name in ("torch", *runtimes) if is_teacher and "torch" not in runtimes else runtimes:
        try:
            precisions = settings.float_precisions(name, is_teacher=is_teacher)
            if RUNTIMES[name].runs_checkpoints:
                for precision in precisions:
                    start(name, file, options_for(name, precision))
                continue
            for precision in precisions:
                options = settings.for_file(name, precision, trusted=True)
                start(name, exports.in_float(name), replace(options, label=label))
            if settings.has_int8(name) and not is_teacher:
                options = settings.for_file(name, "int8", trusted=True)
                start(
                    name, exports.in_int8(name), replace(options, label=label), unbounded=network.quantisation is None
                )
        except SrkdError as error:
            opened.notes.append(f"{label} is left out under {name}: {error}")
    return starting


def _count(spec: Spec) -> CostOfSize:
    return lambda size: cost(spec, size)


def _cost_of_file(path: Path, facts: ModelFacts) -> CostOfSize:
    """A function for the cost of an exported file: by its spec, or for a foreign ONNX file by its graph."""
    if facts.spec is not None:
        return _count(spec_from_dict(facts.spec))
    if facts.runtime != "onnxruntime":
        return lambda size: None
    from export.profile.onnx_cost import onnx_cost

    return lambda size: onnx_cost(path, size)


@dataclass
class _Exports:
    """Temporary files of a network, each written once."""

    network: Network
    source: Source
    folder: Path
    context: Context
    _in_float: dict[str, Path] = field(default_factory=dict)

    def in_float(self, runtime: str) -> Path:
        """Write a float file for a runtime, in fp32 if it has such files, compare it with the network and return its
        path."""
        if runtime not in self._in_float:
            row = find_format(runtime, "fp32", "fp16")
            file = self.folder / f"{self.source.stem}{row.suffix}"
            convert_to(row, self.network, self.source, file)
            proof = prove(row, file, self.network, proof_inputs(self.network.descriptor, photos={}))
            if proof.reason is not None:
                raise SrkdError(f"its export {proof.reason}")
            self._in_float[runtime] = file
        return self._in_float[runtime]

    def in_int8(self, runtime: str) -> Path:
        """Write a file with everything in int8 and return its path. Its loss is reported but not bounded: the
        search of `srkd export` for the parts that must stay in float takes many times as long."""
        row = find_format(runtime, "int8")
        file = self.folder / f"{self.source.stem}{row.suffix}"
        convert_to(row, self.network, self.source, file, FileOptions(int8=Int8Options(max_drop=None)), self.context)
        return file


def _start_exported(
    path: Path, label: str, is_teacher: bool, settings: ProfileSettings, opened: OpenModels
) -> list[_Starting]:
    """Start an exported file in the runtimes that run it; leave it out only if others were selected by name."""
    own = runtime_of(path)
    names = settings.runtimes_for(own)
    if not names:
        opened.notes.append(f"{label} is left out: {path.name} runs under {own}, which is not among the runtimes")
    starting = []
    for name in names:
        for precision in settings.float_precisions(name, is_teacher=is_teacher) or ("int8",):
            process = opened.start(path, replace(settings.for_file(name, precision), label=label), name)
            starting.append(_Starting(label, is_teacher, name, process, None, path))
    return starting
