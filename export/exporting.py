"""From a network to files: each is converted, opened, compared with the network, and only then given its name."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError, is_out_of_memory
from compressor.base.files import atomic_files
from compressor.models.networks.base import Descriptor, Network
from compressor.runtimes.sidecar import format_sidecar, sidecar_path
from compressor.runtimes.torch_runtime import TorchRuntime
from export.conversion import CannotConvert, Choices, Conversion
from export.formats import Format, find_formats
from export.metadata import Source, export_metadata
from export.verify import Parity, Proof, ProofInput, proof_inputs, verify

Verdict = Literal["passed", "unproved", "failed", "unavailable"]
"""unproved: written, but such a file cannot be run on this machine, so nothing was compared."""


@dataclass(frozen=True)
class FileReport:
    """One format. `path` and `bytes` are None, and `reason` says why, where no file was written."""

    format: str
    path: Path | None
    bytes: int | None
    precision: str
    parity: Parity | None
    verdict: Verdict
    seconds: float
    reason: str | None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportReport:
    files: tuple[FileReport, ...]
    compared_on: tuple[str, ...]
    """Names of the inputs that each file and the network were run on."""

    @property
    def ok(self) -> bool:
        """Every format that was asked for is there, and proved where that can be done here."""
        return all(file.path is not None for file in self.files)

    @property
    def failed(self) -> tuple[FileReport, ...]:
        """What was tried and did not hold; what this machine or the format has no way to is not among them."""
        return tuple(file for file in self.files if file.verdict == "failed")


def export_model(
    network: Network,
    source: Source,
    formats: Iterable[str],
    out_dir: Path,
    progress: Progress = no_progress,
    *,
    choices: Choices | None = None,
    photos: Mapping[str, Path] | None = None,
) -> ExportReport:
    """Write `<out_dir>/<source.stem><suffix>` for each format; none means ONNX.

    One format that fails or is not installed does not stop the others: the report says what became of each. The
    embedded validation photos are compared on, unless others are given. A file for one size only has it in its name.
    """
    wanted = choices or Choices()
    rows = _with_substitutes(find_formats(formats), wanted)
    if wanted.sizes is not None and not any("sizes" in row.choices for row in rows):
        raise UsageError("--sizes is for TensorRT engines: the formats asked for take any size, or one by --static")
    files = []
    compared: dict[str, None] = {}
    taken = {} if source.path is None else {source.path.resolve(): "the model itself"}
    for done, row in enumerate(rows):
        progress("export", done, len(rows))
        fitting = replace(wanted, lr_size=wanted.lr_size or row.default_lr_size)
        order = _Order(row, network, source, out_dir, fitting, taken)
        try:
            inputs = proof_inputs(_narrowed(network.descriptor, order.choices), photos)
            files.append(_export(order, inputs, wanted, progress))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            files.append(
                order.report("failed", "its images do not fit into memory: name a smaller size", time.monotonic())
            )
            continue
        compared |= dict.fromkeys(given.name for given in inputs)
    progress("export", len(rows), len(rows))
    written = {file.format: file.path for file in files if file.path is not None}
    files = [_advised(row, file, written, network, wanted) for row, file in zip(rows, files, strict=True)]
    return ExportReport(tuple(files), tuple(compared))


def _with_substitutes(rows: Sequence[Format], asked: Choices) -> tuple[Format, ...]:
    """And what is written instead of those that this machine has no way to; a choice that a format has not is final."""
    lacking = [row for row in rows if row.instead and row.refusal(asked) is None and row.lacking() is not None]
    more = [name for row in lacking for name in row.instead]
    return find_formats([*(row.name for row in rows), *more])


def _advised(
    row: Format, file: FileReport, written: Mapping[str, Path], network: Network, choices: Choices
) -> FileReport:
    """The report with what to do elsewhere, where substitutes were written."""
    substitutes = {name: written[name] for name in row.instead if name in written}
    if file.verdict != "unavailable" or not substitutes or row.refusal(choices) or row.lacking() is None:
        return file
    told = row.load_bound().advice(substitutes, network, choices)
    return replace(file, reason=f"{file.reason}; {told}")


def _narrowed(descriptor: Descriptor, choices: Choices) -> Descriptor:
    """What the file shall take of what the network takes."""
    return replace(descriptor, fixed_size=choices.lr_size, max_size=choices.sizes[1] if choices.sizes else None)


@dataclass(frozen=True)
class _Order:
    """One file that was asked for."""

    row: Format
    network: Network
    source: Source
    out_dir: Path
    choices: Choices
    taken: dict[Path, str]
    """Files that no other may replace, and what they are: the model, and what was written before."""

    def free_names(self, unproved: Path) -> list[Path]:
        """The final names of a file and its companions, as they lie in a temporary folder."""
        names = [(self.out_dir / part.name).resolve() for part in sorted(unproved.parent.iterdir())]
        for name in names:
            if name in self.taken:
                raise SrkdError(f"{name.name} would be written over {self.taken[name]}: name another folder (--out)")
        return names

    def path(self) -> Path:
        machine = f".{self.row.precision}.{self.row.load_bound().machine()}" if self.row.machine_bound else ""
        return self.out_dir / f"{self.source.stem}{_marks(self.choices)}{machine}{self.row.suffix}"

    def report(self, verdict: Verdict, reason: str | None, started: float) -> FileReport:
        """A report of a file that is not there."""
        seconds = time.monotonic() - started
        return FileReport(self.row.name, None, None, self.row.precision, None, verdict, seconds, reason)


def _marks(choices: Choices) -> str:
    """What sets a file apart from the plain one of its format: `-128x96`, `-uint8`, `-dcr`."""
    return "".join(f"-{value}" for value in choices.named().values())


def _export(order: _Order, inputs: Sequence[ProofInput], asked: Choices, progress: Progress) -> FileReport:
    row, started = order.row, time.monotonic()
    no = row.refusal(asked) or row.lacking()
    if no is not None:
        return order.report("unavailable", no, started)
    try:
        path = order.path()
    except SrkdError as error:
        return order.report("unavailable", str(error), started)
    proof: Proof | None = None
    facts: Mapping[str, object] = {}
    not_run = row.not_run_here()
    try:
        with atomic_files(path) as unproved, _named(unproved, path):
            facts = convert_to(row, order.network, order.source, unproved, order.choices, progress)
            names = order.free_names(unproved)
            if not_run is None:
                proof = prove(row, unproved, order.network, inputs, progress, order.choices)
                if proof.reason is not None:
                    raise SrkdError(proof.reason)
            size = size_of(unproved)
    except CannotConvert as error:
        return order.report("unavailable", str(error), started)
    except SrkdError as error:
        reason = str(error) + (f" ({path}, there from before, was left alone)" if path.exists() else "")
        parity = None if proof is None else proof.parity
        return replace(order.report("failed", reason, started), parity=parity, facts=facts)
    order.taken.update(dict.fromkeys(names, f"that of --{row.name}"))
    verdict: Verdict = "unproved" if proof is None else "passed"
    parity = None if proof is None else proof.parity
    return FileReport(row.name, path, size, row.precision, parity, verdict, time.monotonic() - started, not_run, facts)


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Errors speak of the file that was asked for."""
    try:
        yield
    except CannotConvert:
        raise
    except SrkdError as error:
        raise SrkdError(str(error).replace(str(temporary.parent), str(path.parent))) from error


def size_of(path: Path) -> int:
    """Bytes of a file with all that lies beside it in its temporary folder."""
    return sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())


def convert_to(
    row: Format,
    network: Network,
    source: Source,
    path: Path,
    choices: Choices | None = None,
    progress: Progress = no_progress,
) -> Mapping[str, object]:
    """Write one format to `path`, unproved. The network is copied: a converter may change what it is given."""
    plain = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    chosen = choices or Choices(lr_size=row.default_lr_size)
    metadata = export_metadata(network, source)
    facts = row.load().convert(Conversion(plain, path, metadata, chosen, progress, row.precision))
    if row.sidecar:
        text = format_sidecar(
            format=row.name,
            precision=row.precision,
            lr_size=chosen.lr_size,
            io=chosen.io,
            metadata=metadata,
            facts=facts,
        )
        sidecar_path(path).write_text(text, encoding="utf-8")
    return facts


def prove(
    row: Format,
    path: Path,
    network: Network,
    inputs: Sequence[ProofInput],
    progress: Progress = no_progress,
    choices: Choices | None = None,
) -> Proof:
    """Open a file as its users will, and compare it with the network; of ONNX say where a difference begins."""
    chosen = choices or Choices(lr_size=row.default_lr_size)
    candidate = row.load().open_runtime(path)
    wanted = replace(network.descriptor, fixed_size=chosen.lr_size, max_size=candidate.descriptor.max_size)
    if candidate.descriptor != wanted:
        return Proof(None, f"describes itself as {candidate.descriptor}, the network is {wanted}")
    proof = verify(candidate, TorchRuntime(network, label="the network"), inputs, row.bounds, progress, io=chosen.io)
    if proof.on is None or row.opens_with != "onnxruntime":
        return proof
    from export.diverging import first_divergence

    try:
        found: object = first_divergence(path, network, proof.on.lr, chosen, progress)
    except SrkdError as error:
        found = f"where it begins is not known: {error}"
    return proof if found is None else replace(proof, reason=f"{proof.reason}; {found}")
