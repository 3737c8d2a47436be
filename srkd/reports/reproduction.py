"""Facts for repeating a run: its command, versions, hashes and seeds, without folders of the machine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.files import file_sha256
from compressor.training.run_folder import STUDENT
from srkd.options.declare import Declaration, declarations
from srkd.options.verbs import INPUT_PATHS, CompressOptions
from srkd.reports.untrusted import Facts

VERSIONS = {"srkd_version": "srkd"}
MACHINE = {"torch": "torch", "onnxruntime": "onnxruntime", "python": "Python", "os": "system", "cpu": "processor"}
HASH_CHARACTERS = 64
STATED = ("recipe", "seed")
"""Options that the command always states, as their defaults may change."""


@dataclass(frozen=True)
class Reproduction:
    """The facts for repeating a run. `command` is None if run.json does not state it; `facts` are names with values."""

    command: str | None
    facts: tuple[tuple[str, str], ...]
    shortened: bool
    """True if the command names files or folders without their parent folders."""

    @classmethod
    def of(cls, run: Path, facts: Facts, first: Facts) -> Reproduction:
        """Return the facts from a run.json; `first` is the run.json of the first run of a plan."""
        words, shortened = _words(run.resolve().name, facts.at("request"))
        return cls(None if words is None else shlex.join(words), tuple(_lines(run, facts, first)), shortened)


def _words(run: str, request: Facts) -> tuple[list[str] | None, bool]:
    """Return the command line with the options that differ from defaults, and whether paths were shortened."""
    values = request.entries()
    if not values:
        return None, False
    words, shortened = ["srkd", "compress"], False
    for row in declarations(CompressOptions):
        value = values.get(row.name, Facts()).value
        if not row.option.in_json or value is None or value in ([], {}, False):
            continue
        if value == row.default and row.name not in STATED:
            continue
        if isinstance(row.default, tuple) and value == list(row.default):
            continue
        if row.name in INPUT_PATHS or (row.name in ("recipe", "then") and "/" in str(value)):
            value, shortened = Path(str(value)).name, True
        words += _option(row, value)
    return [*words, "--out", f"runs/{run}"], shortened


def _option(row: Declaration, value: Any) -> list[str]:
    """Return the words of one option."""
    if value is True:
        return [row.flag]
    if isinstance(value, dict):
        return [word for name, item in value.items() for word in (row.flag, f"{name}={item}")]
    if isinstance(value, list) and not row.is_multiple:
        return [row.flag, ",".join(map(str, value))]
    values = value if isinstance(value, list) else [value]
    return [word for item in values for word in (row.flag, str(item))]


def _lines(run: Path, facts: Facts, first: Facts) -> list[tuple[str, str]]:
    """Return the other facts that decide the result, as names with values."""
    lines: list[tuple[str, str]] = []
    for key, name in VERSIONS.items():
        if (version := facts.text(key) or first.text(key)) is not None:
            lines.append((name, version))
    lines += [(name, text) for key, name in MACHINE.items() if (text := facts.text("machine", key)) is not None]
    seeds = [str(seed.count()) for seed in facts.items("result", "trials", "seeds") if seed.count() is not None]
    seed = first.count("seed")
    if seeds or seed is not None:
        lines.append(("seed" if len(seeds) < 2 else "seeds", ", ".join(seeds) or str(seed)))
    teacher = first.text("teacher", "path")
    if teacher is not None:
        lines.append(("teacher", f"{Path(teacher).name}, sha256 {_hash(first.text('teacher', 'sha256'))}"))
    if first.has("data", "digest"):
        origin = first.text("data", "origin") or "unknown"
        used = first.count("data", "used")
        lines.append(("images", f"{Path(origin).name}, {used} used, digest {_hash(first.text('data', 'digest'))}"))
    if (run / STUDENT).is_file():
        lines.append(("student", f"{STUDENT}, sha256 {file_sha256(run / STUDENT)}"))
    precision = first.text("pace", "precision")
    if precision is not None:
        lines.append(("trained in", f"{precision} on {first.text('device') or 'cpu'}"))
    return lines


def _hash(text: str | None) -> str:
    return "unknown" if text is None else text[:HASH_CHARACTERS]
