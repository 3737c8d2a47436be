"""From a network to files: each is converted, opened, compared with the network, and only then given its name."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from compressor.atomic import atomic_path
from compressor.errors import MissingExtra, SrkdError
from compressor.networks.base import Network
from compressor.progress import Progress, silent
from compressor.runtimes.torch_eager import TorchRuntime
from export.formats import Format, find_formats
from export.metadata import Source, export_metadata
from export.verify import Parity, Proof, ProofInput, proof_inputs, verify

Verdict = Literal["passed", "failed", "unavailable"]


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
        """Every format that was asked for is there, and proved."""
        return all(file.verdict == "passed" for file in self.files)


def export_model(
    network: Network,
    source: Source,
    formats: Iterable[str],
    out_dir: Path,
    progress: Progress = silent,
    *,
    photos: Mapping[str, Path] | None = None,
) -> ExportReport:
    """Write `<out_dir>/<source.stem><suffix>` for each format; none means ONNX.

    One format that fails or is not installed does not stop the others: the report says what became of each. The
    embedded validation photos are compared on, unless others are given.
    """
    rows = find_formats(formats)
    inputs = proof_inputs(network.descriptor, photos)
    files = []
    for done, row in enumerate(rows):
        progress("export", done, len(rows))
        files.append(_export(row, network, source, out_dir, inputs, progress))
    progress("export", len(rows), len(rows))
    return ExportReport(tuple(files), tuple(given.name for given in inputs))


def _export(
    row: Format, network: Network, source: Source, out_dir: Path, inputs: Sequence[ProofInput], progress: Progress
) -> FileReport:
    started = time.monotonic()
    path = out_dir / f"{source.stem}{row.suffix}"
    missing = row.missing()
    if missing:
        reason = str(MissingExtra(", ".join(missing), row.extra)) if row.extra else _reinstall(missing)
        return FileReport(row.name, None, None, row.precision, None, "unavailable", 0.0, reason)
    proof: Proof | None = None
    facts: Mapping[str, object] = {}
    try:
        with atomic_path(path) as unproved, _named(unproved, path):
            facts = convert_to(row, network, source, unproved)
            proof = prove(row, unproved, network, inputs, progress)
            if proof.reason is not None:
                raise SrkdError(proof.reason)
            size = unproved.stat().st_size
    except SrkdError as error:
        parity = None if proof is None else proof.parity
        reason = str(error) + (f" ({path}, there from before, was left alone)" if path.exists() else "")
        return FileReport(
            row.name, None, None, row.precision, parity, "failed", time.monotonic() - started, reason, facts
        )
    seconds = time.monotonic() - started
    return FileReport(row.name, path, size, row.precision, proof.parity, "passed", seconds, None, facts)


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Errors speak of the file that was asked for."""
    try:
        yield
    except SrkdError as error:
        raise SrkdError(str(error).replace(str(temporary), str(path)).replace(temporary.stem, path.stem)) from error


def convert_to(row: Format, network: Network, source: Source, path: Path) -> Mapping[str, object]:
    """Write one format to `path`, unproved. The network is copied: a converter may change what it is given."""
    plain = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    return row.load().convert(plain, path, export_metadata(network, source))


def prove(
    row: Format, path: Path, network: Network, inputs: Sequence[ProofInput], progress: Progress = silent
) -> Proof:
    """Open a file as its users will, and compare it with the network."""
    candidate = row.load().open_runtime(path)
    if candidate.descriptor != network.descriptor:
        return Proof(None, f"describes itself as {candidate.descriptor}, the network is {network.descriptor}")
    return verify(candidate, TorchRuntime(network, label="the network"), inputs, row.bounds, progress)


def _reinstall(missing: Sequence[str]) -> str:
    return f"{', '.join(missing)} is not installed: pip install --force-reinstall srkd"
