"""The models of a profile: each model under each runtime and precision that can run it, opened in a process of its own.

A process starts while the next file is still being exported; its results are read when all exports are done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.inference.open import model_file, open_model, unique_label
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.cost import cost
from compressor.models.networks.image_cost import Cost
from compressor.models.networks.registry import spec_from_dict
from compressor.runtimes.reduced import Reduced
from compressor.runtimes.table import RUNTIMES, OpenOptions, runtime_of
from compressor.runtimes.torch_runtime import TorchRuntime
from export.formats.conversion import FileOptions, Int8Options
from export.formats.proof_inputs import proof_inputs
from export.formats.table import FORMATS, find_format
from export.profile.measured import ModelFacts
from export.profile.process import ModelProcess
from export.profile.settings import ProfileSettings
from export.writing.exporting import Source, convert_to, prove


@dataclass(frozen=True, eq=False)
class ProfiledModel:
    """One model under one runtime in one precision. `runtime` is the intended one, `spec` that of its checkpoint;
    `is_unbounded`: its file was written with everything in int8, without a bound on the loss."""

    label: str
    is_teacher: bool
    runtime: str
    process: ModelProcess
    file: Path
    spec: Spec | None = None
    is_unbounded: bool = False

    @property
    def facts(self) -> ModelFacts:
        """The facts of the open model; the first call waits for its process."""
        return self.process.facts

    @property
    def name(self) -> str:
        return f"{self.label} under {self.facts.runtime}"

    def cost(self, size: tuple[int, int]) -> Cost | None:
        """The cost of an image: by the spec, or for a foreign ONNX file by its graph; None if it is unknown."""
        of_file = self.facts.spec
        spec = spec_from_dict(of_file) if self.spec is None and of_file is not None else self.spec
        if spec is not None:
            return cost(spec, size)
        if self.facts.runtime != "onnxruntime":
            return None
        from export.profile.onnx_cost import onnx_cost

        return onnx_cost(self.file, size)


@contextmanager
def open_models(
    models: Sequence[Path | str], teacher: Path | str | None, settings: ProfileSettings, context: Context
) -> Iterator[tuple[list[ProfiledModel], list[str]]]:
    """Open all models under all runtimes of the settings, and yield them with notes about those left out. Leaving the
    context ends their processes."""
    files = [] if teacher is None else [(Path(teacher), True)]
    files += [(Path(path), False) for path in models]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="srkd-profile-")))
        start = _Start(settings, folder, context, stack, list(settings.notes))
        labels: set[str] = set()
        for path, is_teacher in context.each("open", files):
            label = unique_label(path.name if path.is_dir() else path.stem, labels)
            labels.add(label)
            of_kind = start.checkpoint if runtime_of(model_file(path)) == "torch" else start.exported
            of_kind(path, label, is_teacher=is_teacher)
        opened, notes = _opened(start.models, start.notes), start.notes
        if all(model.is_teacher for model in opened):
            raise SrkdError(f"nothing to profile: {'; '.join(notes)}")
        scales = {model.label: model.facts.scale for model in opened}
        if len(set(scales.values())) > 1:
            listed = ", ".join(f"{label} x{scale}" for label, scale in scales.items())
            notes.append(
                f"scales differ, so speed-ups compare unlike work: {listed}; --scale {min(scales.values())} reduces "
                "the images of all to it"
            )
        yield opened, notes


def _opened(started: Sequence[ProfiledModel], notes: list[str]) -> list[ProfiledModel]:
    """The models whose processes opened them; the others become notes. If models prove to be the same, such as a file
    in int8 that was opened in two precisions, only the first is kept."""
    models: dict[tuple[str, str, str], ProfiledModel] = {}
    for model in started:
        try:
            facts = model.facts
        except SrkdError as error:
            notes.append(f"{model.label} is left out under {model.runtime}: {error}")
            continue
        if models.setdefault((model.label, facts.runtime, facts.precision), model) is not model:
            model.process.close()
        elif facts.integer_nodes_missing is not None:
            notes.append(facts.integer_nodes_missing)
    return list(models.values())


@dataclass
class _Start:
    """Starts the processes of files; temporary exports go to `folder`."""

    settings: ProfileSettings
    folder: Path
    context: Context
    stack: ExitStack
    notes: list[str]
    models: list[ProfiledModel] = field(default_factory=list)

    def checkpoint(self, path: Path, label: str, *, is_teacher: bool) -> None:
        """Start a checkpoint in torch, and a temporary export of it in every other runtime of the settings."""
        settings, file = self.settings, model_file(path)

        def options_for(runtime: str, precision: str) -> OpenOptions:
            return settings.for_checkpoint(runtime, precision, is_teacher=is_teacher)

        first = settings.float_precisions("torch", is_teacher=is_teacher)[0]
        model = open_model(path, replace(options_for("torch", first), label=label))
        whole = model.runtime if isinstance(model, Reduced) else model
        if not isinstance(whole, TorchRuntime):
            self.start(file, options_for("torch", first), "torch", label, is_teacher=is_teacher)
            return
        settings.require_memory(model.descriptor)  # before the slow exports
        # Some converters do not take channels-last weights, which torch uses.
        network = whole.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        source = Source(label, file_sha256(file), whole.metadata)
        runtimes = settings.selected_runtimes
        for name in ("torch", *runtimes) if is_teacher and "torch" not in runtimes else runtimes:
            try:
                precisions = settings.float_precisions(name, is_teacher=is_teacher)
                if RUNTIMES[name].runs_checkpoints:
                    for precision in precisions:
                        self.start(file, options_for(name, precision), name, label, is_teacher, model.spec)
                    continue
                exported = self.in_float(network, source, name) if precisions else file
                for precision in precisions:
                    options = settings.for_file(name, precision, trusted=True)
                    self.start(exported, options, name, label, is_teacher, model.spec)
                if settings.has_int8(name) and not is_teacher:
                    exported = self.in_int8(network, source, name)
                    options = settings.for_file(name, "int8", trusted=True)
                    unbounded = network.quantisation is None
                    self.start(exported, options, name, label, is_teacher, model.spec, unbounded)
            except SrkdError as error:
                self.notes.append(f"{label} is left out under {name}: {error}")

    def exported(self, path: Path, label: str, *, is_teacher: bool) -> None:
        """Start an exported file in the runtimes that run it; leave it out only if others were selected by name."""
        settings, own = self.settings, runtime_of(path)
        names = settings.runtimes_for(own)
        if not names:
            reason = f"{path.name} runs under {own}, which is not among the runtimes"
            self.notes.append(f"{label} is left out: {reason}")
        for name in names:
            for precision in settings.float_precisions(name, is_teacher=is_teacher) or ("int8",):
                self.start(path, settings.for_file(name, precision), name, label, is_teacher)

    def start(
        self,
        file: Path,
        options: OpenOptions,
        runtime: str,
        label: str,
        is_teacher: bool,
        spec: Spec | None = None,
        is_unbounded: bool = False,
    ) -> None:
        entry = RUNTIMES[runtime]
        makers = (row.needs for row in FORMATS.values() if row.runtime == entry.name)
        libraries = () if entry.runs_checkpoints else entry.needs or next(makers, ())
        process = ModelProcess(file, replace(options, label=label), libraries)
        self.stack.callback(process.close)
        self.models.append(ProfiledModel(label, is_teacher, runtime, process, file, spec, is_unbounded))

    def in_float(self, network: Network, source: Source, runtime: str) -> Path:
        """Write a float file for a runtime, in fp32 if it has such files, and compare it with the network."""
        row = find_format(runtime, "fp32", "fp16")
        file = self.folder / f"{source.stem}{row.suffix}"
        convert_to(row, network, source, file, context=self.context)
        proof = prove(row, file, network, proof_inputs(network.descriptor, photos={}))
        if proof.reason is not None:
            raise SrkdError(f"its export {proof.reason}")
        return file

    def in_int8(self, network: Network, source: Source, runtime: str) -> Path:
        """Write a file with everything in int8. Its loss is reported but not bounded: the search of `srkd export` for
        the parts that must stay in float takes many times as long."""
        row = find_format(runtime, "int8")
        file = self.folder / f"{source.stem}{row.suffix}"
        if not file.exists():  # runtimes may share it
            convert_to(row, network, source, file, FileOptions(int8=Int8Options(max_drop=None)), self.context)
        return file
