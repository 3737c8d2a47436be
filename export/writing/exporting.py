"""Export of a network to files: each is converted, opened and compared with the network before it gets its name."""

from __future__ import annotations

import copy
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, TookTooLong, is_out_of_memory
from compressor.base.files import atomic_files, require_writable_folder
from compressor.base.metadata import srkd_keys
from compressor.degradation.names import METADATA as DEGRADATION
from compressor.images.scores import ALL_IMAGES, Scores, below_bicubic, goal_of, without_network
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.licence import read_licence
from compressor.models.checkpoints.save import STRENGTH, metadata_of
from compressor.models.networks.base import Network
from compressor.models.networks.registry import without_quantisers
from compressor.models.quantisation.quantisers import bake_weights
from compressor.runtimes.base import Runtime, require_memory_for
from compressor.runtimes.sidecar import format_sidecar, sidecar_path
from compressor.runtimes.torch_runtime import TorchRuntime
from compressor.teachers.licence import licence_of
from export.formats.conversion import DEFAULTS, CannotConvert, Conversion, FileOptions
from export.formats.proof_inputs import ProofInput, few_and_small, proof_inputs
from export.formats.table import FORMATS, QUANTISED, Format, rows_to_write
from export.proof.integer_nodes import IntegerNodes, count_integer_nodes
from export.proof.quality import QualityDrop, QualityPhotos
from export.proof.speed import Int8Speed, compare_speed
from export.proof.verify import Parity, Proof, require_finite_outputs, verify
from export.writing.card import header_score

INHERITED_KEYS = ("srkd.recipe", "srkd.protocol", "srkd.scores", "srkd.goal", "srkd.teacher", DEGRADATION, STRENGTH)
"""Metadata keys that are copied to exported files, as they describe the weights."""

ExportVerdict = Literal["passed", "unproved", "failed", "unavailable"]
"""unproved: written, but such a file cannot run on this machine, so nothing was compared."""


@dataclass(frozen=True)
class Source:
    """The checkpoint to export: the stem of the exports' names, its hash, the `srkd.*` keys of its header, its path."""

    stem: str
    sha256: str = ""
    header: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    folder_name: str | None = None
    """The name of the run, whose folder tells what the file's stem, `student`, does not."""

    @property
    def name(self) -> str:
        """The name that tells the model to people: that of its run or its file."""
        return self.folder_name or self.stem

    @property
    def model(self) -> str:
        """That name for programs, which read the scale in it: so there is no other one in it than the network's."""
        name = re.sub(r"(?i)(?<![a-z0-9])(x\d+|\d+x)(?![a-z0-9])", "", re.sub(r"[^\w.-]+", "-", self.name))
        name = re.sub(r"(?i)(\d)x(?=\d)", r"\1by", name)  # in "24x8" Upscayl finds an "x8"
        name = re.sub(r"(?i)x(\d)|(\d)x", r"\1\2", name)  # and in "animex2" an "x2"
        return re.sub(r"[-_.]{2,}", "-", name).strip("-_.") or "student"

    @property
    def licence(self) -> str | None:
        """The licence of the weights if their file states one."""
        return read_licence(self.header) if self.path is None else licence_of(self.path)

    @property
    def reserved(self) -> dict[Path, str]:
        """The model itself, which no export writes over."""
        return {} if self.path is None else {self.path.resolve(): ""}


def require_free(path: Path, reserved: Mapping[Path, str]) -> None:
    """Refuse to write over the model itself, or over a file with the format that wrote it."""
    if (writer := reserved.get(path.resolve())) is not None:
        what = f"that of --{writer}" if writer else "the model itself"
        raise SrkdError(f"{path.name} would be written over {what}: name another folder (--out)")


@dataclass(frozen=True)
class FileReport:
    """Result of one format. If no file was written, `path` and `bytes` are None and `reason` says why."""

    format: str
    path: Path | None
    bytes: int | None
    precision: str
    parity: Parity | None
    verdict: ExportVerdict
    seconds: float
    reason: str | None
    facts: Mapping[str, object] = field(default_factory=dict)
    quality: QualityDrop | None = None
    """The drop of an int8 file, measured on photos."""
    speed: Int8Speed | None = None
    """Speed of an int8 file against the same network in float, on this machine."""


@dataclass(frozen=True)
class HostFolder:
    """Result of one host of `--for`: `reason` says why `folder` is None, or why it was not pushed."""

    host: str
    folder: Path | None
    files: tuple[FileReport, ...] = ()
    also: tuple[Path, ...] = ()
    """Files beside the models: a script, the README."""
    expect: str | None = None
    """The time of an image here, with what it was measured on, or where to see it; None if no such file runs here."""
    notes: tuple[str, ...] = ()
    verdict: Literal["written", "failed", "unavailable"] = "written"
    reason: str | None = None


@dataclass(frozen=True)
class ExportReport:
    """The result of `export`: a report of each format and host, the inputs of the comparison, and remarks."""

    files: tuple[FileReport, ...]
    compared_on: tuple[str, ...]
    """Names of the inputs that each file and the network were run on."""
    warning: str | None = None
    """A warning about the network itself: its run measured it worse than bicubic."""
    licence: str | None = None
    """Licence of the weights if their file states one; for a student, the teacher's."""
    hosts: tuple[HostFolder, ...] = ()

    @property
    def ok(self) -> bool:
        """True if every format and host was written, and passed the comparison if such files run here."""
        return all(file.path is not None for file in self.files) and all(host.reason is None for host in self.hosts)


def export_model(
    network: Network,
    source: Source,
    formats: Iterable[str],
    out_dir: Path,
    context: Context = QUIET,
    *,
    options: FileOptions = DEFAULTS,
) -> ExportReport:
    """Write `<out_dir>/<source.stem><suffix>` for each format; without formats, ONNX.

    A format that fails or is not installed does not stop the others: each has its verdict in the report. A file for one
    size only has the size in its name.
    """
    network = network.deployed()
    for name, tensor in network.state_dict().items():  # a ReLU may hide NaN from the comparison
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise SrkdError(
                f"weight {name} of the network holds NaN or infinity, so nothing is exported: its training diverged, "
                "take an earlier checkpoint"
            )
    largest = None if options.sizes is None else options.sizes[1]
    for option, size in (("--static", options.lr_size), ("--sizes", largest)):
        if size is not None:
            require_memory_for(size, 1, network.descriptor, option)
    require_writable_folder(out_dir, "--out")
    rows = rows_to_write(formats, options)
    images = replace(network.descriptor, fixed_size=options.lr_size, max_size=largest)
    inputs: tuple[ProofInput, ...] = ()
    files: dict[str, FileReport] = {}
    reserved = source.reserved
    for row in context.each("export", sorted(rows, key=lambda row: (row.check_seconds is not None, row.substitutes))):
        job = _Job(row, network, source, out_dir, options, reserved)
        try:
            inputs = inputs or proof_inputs(images)
            files[row.name] = _export(job, inputs, context)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = "its images do not fit into memory: name a smaller size"
            files[row.name] = job.report("failed", reason, time.monotonic())
    for row in rows:
        file, written = files[row.name], {name: files[name].path for name in row.substitutes if name in files}
        if any(written.values()) and file.reason is not None and file.reason == row.missing_requirement():
            next_step = row.load().describe_next_step(written, network, options)
            files[row.name] = replace(file, reason=f"{file.reason}; {next_step}")
    return ExportReport(tuple(files[row.name] for row in rows), tuple(sample.name for sample in inputs))


def warning_about(source: Source, scale: int) -> str | None:
    """A warning if the scores in the header, by its goal, are below bicubic, at scale 1 the input; else None."""
    goal = goal_of(source.header)
    own, plain = (header_score(source.header, row, goal) for row in ("validation", without_network(scale)))
    images = {ALL_IMAGES: (Scores(own, None, own), Scores(plain, None, plain))}
    return below_bicubic(source.model, images, goal, scale)


@dataclass(frozen=True)
class _Job:
    row: Format
    network: Network
    source: Source
    out_dir: Path
    options: FileOptions
    reserved: dict[Path, str]
    """Files that must not be overwritten: the files written before, each with its format, and the model ("")."""

    def final_names(self, path: Path) -> list[Path]:
        """Return the final paths of a file in its temporary folder and of its companions; refuse reserved ones."""
        names = [(self.out_dir / file.name).resolve() for file in sorted(path.parent.iterdir())]
        for name in names:
            if self.reserved.get(name) not in self.row.substitutes:  # an engine is built from such a file
                require_free(name, self.reserved)
        return names

    def path(self) -> Path:
        """The final path; the name includes changed options (`-128x96`, `-uint8`) and the machine."""
        marks = self.options.marks()
        if self.row.machine_bound:
            marks += f".{self.row.precision}.{self.row.load().machine_name()}"
        return self.out_dir / f"{self.source.stem}{marks}{self.row.suffix}"

    def report(self, verdict: ExportVerdict, reason: str | None, started: float) -> FileReport:
        """The report of a file that was not written."""
        seconds = time.monotonic() - started
        return FileReport(self.row.name, None, None, self.row.precision, None, verdict, seconds, reason)


def _export(job: _Job, inputs: Sequence[ProofInput], context: Context) -> FileReport:
    row, started = job.row, time.monotonic()
    reason = row.unsupported_option(job.options) or row.missing_requirement() or _unsuited(row, job.network)
    if reason is not None:
        return job.report("unavailable", reason, started)
    try:
        path = job.path()
    except SrkdError as error:
        return job.report("unavailable", str(error), started)
    proof, facts = Proof(None, None), dict[str, object]()
    not_compared, temporary = row.cannot_run_here(), path
    try:
        with atomic_files(path) as temporary:
            facts |= convert_to(row, job.network, job.source, temporary, job.options, context, inputs)
            names = job.final_names(temporary)
            if not_compared is None:
                try:
                    proof = prove(row, temporary, job.network, inputs, job.options, context)
                except TookTooLong as error:
                    not_compared = f"not checked: {error}; the file is not compared with the network"
                if proof.reason is not None:
                    raise SrkdError(proof.reason)
            if not_compared is not None:
                require_finite_outputs(job.network, inputs)
            size = sum(file.stat().st_size for file in temporary.parent.rglob("*") if file.is_file())
    except CannotConvert as error:
        return job.report("unavailable", str(error), started)
    except SrkdError as error:
        reason = str(error).replace(str(temporary.parent), str(path.parent))  # an error names the final file
        reason += f" (the {path} of an earlier export is unchanged)" if path.exists() else ""
        return replace(job.report("failed", reason, started), parity=proof.parity, facts=facts)
    job.reserved.update(dict.fromkeys(names, row.name))
    return FileReport(
        format=row.name,
        path=path,
        bytes=size,
        precision=row.precision,
        parity=proof.parity,
        verdict="passed" if not_compared is None else "unproved",
        seconds=time.monotonic() - started,
        reason=not_compared,
        facts=facts,
        quality=proof.quality,
        speed=proof.speed,
    )


def _unsuited(row: Format, network: Network) -> str | None:
    """Why a format does not suit a network that was trained quantised: half precision lacks its levels."""
    if network.quantisation is None or row.precision not in ("fp16", "bf16"):
        return None
    how = network.quantisation.line()
    return (
        f"the network was trained quantised ({how}), and in {row.precision} features fall to other levels: export it "
        "in float32, or the float network that it was made from"
    )


def convert_to(
    row: Format,
    network: Network,
    source: Source,
    path: Path,
    options: FileOptions = DEFAULTS,
    context: Context = QUIET,
    inputs: Sequence[ProofInput] = (),
) -> Mapping[str, object]:
    """Write one format to `path` without comparing it; return its facts. The converter gets a copy of the network."""
    plain = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    if row.precision != "int8":  # int8 formats need the weights' own grids
        bake_weights(plain)
    metadata = export_metadata(network, source)
    job = Conversion(plain, path, metadata, options, context, inputs, row.name)
    facts: Mapping[str, object] = row.load().convert(job)
    # A converter may add `srkd.*` keys to the metadata; a file with a sidecar cannot hold them itself.
    metadata |= {key: str(value) for key, value in srkd_keys(facts).items()}
    facts = {key: value for key, value in facts.items() if key not in metadata}
    if row.sidecar:
        text = format_sidecar(
            precision=row.precision,
            lr_size=options.lr_size,
            metadata=metadata,
            facts=facts,
        )
        sidecar_path(path).write_text(text, encoding="utf-8")
    return facts


def export_metadata(network: Network, source: Source) -> dict[str, str]:
    """The `srkd.*` keys of an exported file: those of a safetensors header, and the hash of its checkpoint."""
    metadata = metadata_of(network.spec, network.quantisation)
    metadata |= {key: source.header[key] for key in INHERITED_KEYS if source.header.get(key)}
    if (licence := source.licence) is not None:
        metadata[LICENCE] = licence
    if source.sha256:
        metadata["srkd.source_sha256"] = source.sha256
    return metadata


def prove(
    row: Format,
    path: Path,
    network: Network,
    inputs: Sequence[ProofInput],
    options: FileOptions = DEFAULTS,
    context: Context = QUIET,
) -> Proof:
    """Open a file as its users will, and compare it with the network; measure the drop and the speed of int8."""
    inputs = inputs if row.check_seconds is None else few_and_small(inputs)
    # On a CPU ONNX Runtime computes fp16 in float32: an overflow on every GPU would pass the comparison.
    file = row.open(path, context, emulate_target=True)
    expected = replace(network.descriptor, fixed_size=options.lr_size, max_size=file.descriptor.max_size)
    if file.descriptor != expected:
        return Proof(None, f"describes itself as {file.descriptor}, the network is {expected}")
    bounds = row.bounds if network.quantisation is None or row.bounds.as_images else QUANTISED
    reference = TorchRuntime(network, label="the network")
    proof = verify(file.run, reference.run, inputs, bounds, context, io=options.io)
    return _with_quality(row, proof, file, path, network, options, context) if row.bounds.as_images else proof


def _with_quality(
    row: Format, proof: Proof, file: Runtime, file_path: Path, network: Network, options: FileOptions, context: Context
) -> Proof:
    """The proof with the drop of an int8 file on photos and its speed against the same in float."""
    if proof.reason is not None:
        return proof
    photos = QualityPhotos.of(network, options.int8, options.lr_size, file.descriptor.max_size, context)
    quality = photos.measure(file.run)
    proof = replace(proof, quality=quality, reason=quality.reason(options.int8.max_drop))
    if row.float_format is None or proof.reason is not None:
        return proof
    plain = FORMATS[row.float_format]
    if plain.missing_requirement() is not None:
        return proof
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"float{plain.suffix}"
        try:
            convert_to(plain, without_quantisers(network), Source("float"), path, options, context)
        except CannotConvert:  # such as a network that leaves the range of fp16
            return proof
        nodes: IntegerNodes | None = None
        try:
            nodes = count_integer_nodes(file, file_path)
        except SrkdError as error:  # they cannot be read
            context.note(str(error))
        speed = compare_speed(file, plain.open(path, context), options.lr_size, context, integer_nodes=nodes)
        return replace(proof, speed=speed)
