"""Facts for repeating a run: its command, versions, hashes and seeds, without folders of the machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from compressor.base.files import file_sha256
from compressor.training.run_folder import STUDENT
from srkd.options.compress import CompressOptions
from srkd.options.option import Declaration, declarations, to_json
from srkd.options.values import INPUT, NAMED_FOLDERS, split_name
from srkd.record.run_file import RunFile

MACHINE = {"torch": "torch", "onnxruntime": "onnxruntime", "python": "Python", "os": "system", "cpu": "processor"}
STATED = ("recipe", "seed")
"""Options that the command always states, as their defaults may change."""


def command_of(run: str, options: CompressOptions) -> tuple[str, bool]:
    """The command that repeats a run, with the options that are not the defaults, and whether folders are left out."""
    words, is_shortened, request = ["srkd", "compress"], False, to_json(options)
    for row in declarations(CompressOptions):
        value = request.get(row.name)
        if not row.option.in_json or value is None or value is False or value in ([], {}):
            continue
        default = list(row.default) if isinstance(row.default, tuple) else row.default
        if value == default and row.name not in STATED:
            continue
        if row.reader is NAMED_FOLDERS:
            value, is_shortened = [_without_folders(item) for item in value], True
        elif INPUT in row.field.metadata or (row.name in ("recipe", "then") and "/" in str(value)):
            value, is_shortened = Path(str(value)).name, True
        words += _option(row, value)
    return shlex.join([*words, "--out", f"runs/{run}"]), is_shortened


def _without_folders(item: str) -> str:
    name, path = split_name(item)
    return path.name if name is None else f"{name}={path.name}"


def _option(row: Declaration, value: Any) -> list[str]:
    if value is True:
        return [row.flag]
    if isinstance(value, dict):
        return [word for name, item in value.items() for word in (row.flag, f"{name}={item}")]
    if isinstance(value, list) and not row.is_multiple:
        return [row.flag, ",".join(map(str, value))]
    values = value if isinstance(value, list) else [value]
    return [word for item in values for word in (row.flag, str(item))]


def deciding_facts(run: Path, file: RunFile) -> list[tuple[str, str]]:
    """The other facts that decide the result, as names with values."""
    versions = {"srkd": file.srkd_version}
    versions |= {name: getattr(file.machine, key) for key, name in MACHINE.items()}
    lines = [(name, text) for name, text in versions.items() if text is not None]
    if file.code is not None:
        lines += file.code.lines()
    trials = None if file.result is None else file.result.trials
    seeds = [file.seed] if trials is None else trials.seeds
    if seeds:
        lines.append(("seed" if len(seeds) < 2 else "seeds", ", ".join(map(str, seeds))))
    if file.teacher is not None:
        lines.append(("teacher", f"{file.teacher.path.name}, sha256 {file.teacher.sha256}"))
    data = file.data
    lines.append(("images", f"{Path(data.origin).name}, {data.used} used, digest {data.digest}"))
    if file.degradation is not None:
        lines.append(("LR images", f"degraded: {file.degradation.title}"))
    if (run / STUDENT).is_file():
        lines.append(("student", f"{STUDENT}, sha256 {file_sha256(run / STUDENT)}"))
    lines.append(("trained in", f"{file.execution_mode.precision} on {file.device}"))
    return lines
