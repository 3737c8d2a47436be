"""Opening of model files in their runtimes, by the runtime table; the source checkpoint of an exported file.

Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.assets.shipped import shipped_names
from compressor.base.context import QUIET, Context, Note, no_note
from compressor.base.errors import MissingExtra, SrkdError, UsageError
from compressor.base.files import file_sha256, require_regular
from compressor.models.checkpoints.header import weights_file
from compressor.runtimes.table import RUNTIMES, OpenOptions, runtime_of

# The command line reads the table for its help, which imports no torch.
if TYPE_CHECKING:
    from compressor.runtimes.base import Runtime

SOURCE = "srkd.source_sha256"
CHECKPOINTS = frozenset({".safetensors", ".pt", ".pth", ".ckpt"})


def open_model(path: Path | str, options: OpenOptions | None = None, context: Context = QUIET) -> Runtime:
    """Open a checkpoint, a folder of a run or of the hub, or an exported file, in the selected or its own runtime.

    In ONNX Runtime `threads` applies to the session; in torch it sets the thread count of the whole process.
    """
    path, options = Path(path), options or OpenOptions()
    file = model_file(path)
    entry = RUNTIMES[runtime_of(file)]
    if options.runtime is not None:
        selected = RUNTIMES.find(options.runtime)
        if entry.name not in (selected.name, selected.alternative_to):
            raise UsageError(f"{path}: runtime {selected.name} takes {selected.files}")
        entry = selected
    if options.device.partition(":")[0] not in ("cpu", *entry.devices):  # cpu, the default, is of all
        raise UsageError(f"device {options.device!r}: runtime {entry.name} runs on {', '.join(entry.devices)}")
    if options.arch_options and not entry.opens_as_teacher:
        raise UsageError(f"{path} is an exported file: it needs no {', '.join(options.arch_options)}")
    if options.strength is not None and runtime_of(file) != "torch":
        raise UsageError(f"{path} is an exported file of one strength: name the run folder, or export it at another")
    missing = entry.missing_requirement()
    if missing is not None:
        raise SrkdError(f"{path}: {missing}")
    # An ONNX file with architecture options is a foreign teacher.
    module = (RUNTIMES["torch"] if options.arch_options else entry).load()
    options = replace(options, label=options.label or (path.name if file != path else path.stem))
    runtime = module.open_file(file, options, context)
    if not entry.selects_precision and options.precision not in (None, runtime.precision):
        raise UsageError(f"{path} computes in {runtime.precision}, not {options.precision}: export it in that")
    if options.scale is None:
        return runtime
    from compressor.runtimes.reduced import at_scale  # imports torch

    return at_scale(runtime, options.scale, context.note)


def read_metadata(path: Path) -> Mapping[str, str]:
    """Return the `srkd.*` keys of a file, without running it unless its format requires that."""
    entry = RUNTIMES[runtime_of(path)]
    try:
        return entry.load().read_metadata(path)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in entry.needs or entry.extra is None:
            raise
        raise SrkdError(f"{path}: {MissingExtra(', '.join(entry.needs), entry.extra)}") from error


def model_file(path: Path) -> Path:
    """Return the file of a model: `path` itself (some formats are folders), or the weights in a run or hub folder."""
    if path.is_dir() and runtime_of(path) == "torch":
        return weights_file(path)
    if not path.exists():
        names = get_close_matches(str(path), shipped_names(), n=1)
        raise SrkdError(f"{path}: no such file or folder" + "".join(f"; did you mean {name}?" for name in names))
    require_regular(path)
    return path


def find_source_checkpoint(path: Path) -> Path:
    """Return the checkpoint that `path` was exported from, in its folder or the parent; one line if missing."""
    source = read_metadata(path).get(SOURCE, "")
    if not source:
        raise SrkdError(f"{path} does not say what it was made from")
    folder = path.resolve().parent
    for file in (*_list_checkpoints(folder), *_list_checkpoints(folder.parent)):
        if file_sha256(file) == source:
            return file
    raise SrkdError(f"{path} was made from a checkpoint with the SHA-256 {source[:12]}…, which is not beside it")


def resolve_checkpoint(model: str | Path, note: Note = no_note) -> Path:
    """Return `model` itself if it is a checkpoint or run folder; for an exported file, its source checkpoint."""
    path = Path(model)
    if runtime_of(path) == "torch":
        return path
    file = model_file(path)
    try:
        checkpoint = find_source_checkpoint(file)
    except SrkdError as error:
        raise SrkdError(f"{error}: an export starts from a checkpoint, name that") from error
    note(f"{path} is an exported file: starting from {checkpoint}, which it was made from")
    return checkpoint


def unique_label(label: str, labels: Collection[str]) -> str:
    """Return the label of another model beside `labels`: label#2 for a second one with the same."""
    unique, number = label, 2
    while unique in labels:
        unique, number = f"{label}#{number}", number + 1
    return unique


def _list_checkpoints(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in CHECKPOINTS and file.is_file())
    except OSError as error:
        raise SrkdError(f"{folder}: {error.strerror or error}") from error
