"""exports.json beside exported files: each file's difference from its network, its drop in int8 and its speed.

A file's metadata states its source. The results of the comparison are stored here, with the file's hash: an entry is
valid as long as the file is the one that was compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.base.files import file_sha256, read_text, write_text
from compressor.base.machine import machine_facts

# srkd compare reads the name of this file, and imports no torch.
if TYPE_CHECKING:
    from export.proof.speed import Int8Speed
    from export.writing.exporting import ExportReport, FileReport, Source

RECORD = "exports.json"
SCHEMA = "srkd.exports/1"
MOST_BYTES = 10**7


def write_record(folder: Path, report: ExportReport, source: Source) -> Mapping[str, Any]:
    """Add the files of an export to the folder's record, replacing entries of the same name; return those of its
    model, earlier ones too."""
    entries, machine = read_record(folder), machine_facts()
    for file in report.files:
        if file.path is not None:
            entries[file.path.name] = _entry(file, report, source, machine)
    existing = {name: entry for name, entry in sorted(entries.items()) if (folder / name).exists()}
    content = {"schema": SCHEMA, "files": existing}
    write_text(folder / RECORD, json.dumps(content, indent=1, allow_nan=False) + "\n")
    mine = {"model": source.stem, "source_sha256": source.sha256 or None}
    return {name: entry for name, entry in existing.items() if entry | mine == entry}


def read_record(folder: Path) -> dict[str, Any]:
    """Return the entries of a folder's record by file name; empty if it is damaged or missing."""
    path = folder / RECORD
    try:
        content = json.loads(read_text(path, MOST_BYTES)) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    files = content.get("files") if isinstance(content, Mapping) and content.get("schema") == SCHEMA else None
    # A name must not lead out of the folder.
    if not isinstance(files, dict):
        return {}
    return {name: entry for name, entry in files.items() if Path(name).name == name and isinstance(entry, dict)}


def _entry(file: FileReport, report: ExportReport, source: Source, machine: Mapping[str, object]) -> dict[str, Any]:
    assert file.path is not None
    quality = file.quality
    return {
        "format": file.format,
        "precision": file.precision,
        "bytes": file.bytes,
        # Some formats are folders.
        "sha256": file_sha256(file.path) if file.path.is_file() else None,
        "model": source.stem,
        "source_sha256": source.sha256 or None,
        "verdict": file.verdict,
        "reason": file.reason,
        "parity": None if file.parity is None else asdict(file.parity),
        "compared_on": list(report.compared_on),
        "quality": None if quality is None else {**asdict(quality), "drop": quality.drop},
        "speed": None if file.speed is None else _speed(file.speed),
        "machine": dict(machine),
    }


def _speed(speed: Int8Speed) -> dict[str, Any]:
    """The times of the file and of float, and the verdict in one sentence."""
    return {
        "ms": speed.ms,
        "float_ms": speed.float_ms,
        "float_precision": speed.float_precision,
        "speedup": speed.comparison.speedup,
        "verdict": speed.comparison.verdict,
        "runtime": speed.runtime,
        "lr_size": "{}x{}".format(*speed.lr_size),
        "threads": speed.threads,
        "sentence": str(speed),
    }
