"""Facts for repeating a run: its options, versions, hashes and seeds, without folders of the machine."""

from __future__ import annotations

from pathlib import Path

from compressor.base.files import file_sha256
from compressor.training.run_folder import STUDENT
from srkd.options.compress import CompressOptions
from srkd.options.option import declarations
from srkd.options.values import INPUT, NAMED_FOLDERS, split_name
from srkd.record.run_file import RunFile

MACHINE = {"torch": "torch", "onnxruntime": "onnxruntime", "python": "Python", "os": "system", "cpu": "processor"}
ALWAYS = ("recipe", "seed")
"""Options that are always there, as their defaults may change."""


def given_options(options: CompressOptions) -> list[tuple[str, str]]:
    """The flags and values of the options that are not the defaults, without the folders of their files."""
    request, lines = options.to_json(), []
    for row in declarations(CompressOptions):
        value = request.get(row.name)
        default = list(row.default) if isinstance(row.default, tuple) else row.default
        if not row.option.in_json or value in (None, [], {}) or (value == default and row.name not in ALWAYS):
            continue
        if isinstance(value, dict):
            value = [f"{name}={item}" for name, item in value.items()]
        words = [str(word) for word in (value if isinstance(value, list) else [value])]
        if row.reader is NAMED_FOLDERS or INPUT in row.field.metadata or row.name in ("recipe", "then"):
            named = map(split_name, words)
            words = [path.name if name is None else f"{name}={path.name}" for name, path in named]
        lines.append((row.flag, ", ".join(words)))
    return lines


def deciding_facts(run: Path, file: RunFile) -> list[tuple[str, str]]:
    """The other facts that decide the result, as names with values."""
    versions = {"srkd": file.srkd_version}
    versions |= {name: file.machine.get(key) for key, name in MACHINE.items()}
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
