"""evaluations.json of a run folder: the scores of its student, its teacher and bicubic on image sets, kept by all that
decides them.

Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from compressor.base.context import Note
from compressor.base.errors import SrkdError, Unwritable
from compressor.base.files import atomic_path, file_sha256
from compressor.base.machine import installed_version
from srkd.record.reading import Decibels, Entry, parse, read_object
from srkd.terminal.console import json_value
from srkd.version import __version__

EVALUATIONS = "evaluations.json"
SCHEMA = "srkd.evaluations/1"
BICUBIC = "bicubic"
"""Stands for the SHA-256 of the model that has no file."""


class ScoringConditions(Entry):
    """All that decides the scores of a model on a set. `images` is the digest of the set's files; `teacher` the SHA-256
    of the teacher whose images are compared with, if any.
    """

    images: str
    scale: int
    protocol: str
    self_ensemble: bool
    tile: int | None
    device: str
    teacher: str | None
    software: str


class KeptScores(Entry):
    """The mean scores of a model on a set, by their keys in JSON."""

    model: str
    """The SHA-256 of its file."""
    conditions: ScoringConditions
    lr: Literal["made", "stored"]
    figures: dict[str, Decibels]

    @property
    def key(self) -> tuple[str, ScoringConditions]:
        return self.model, self.conditions


class EvaluationsFile(Entry):
    """The contents of evaluations.json."""

    evaluations: tuple[KeptScores, ...]


def software() -> str:
    """The versions that evaluate: another one evaluates anew."""
    return f"srkd {__version__}, torch {installed_version('torch')}"


def images_digest(files: Iterable[Path | None]) -> str:
    """The digest of the contents of files, in their order."""
    hashes = [None if file is None else file_sha256(file) for file in files]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def read_evaluations(run: Path, note: Note) -> tuple[KeptScores, ...]:
    """The kept scores of a run folder; a note says if its file cannot be read."""
    file = run / EVALUATIONS
    if not file.exists():
        return ()
    try:
        values = read_object(file)
        schema = values.pop("schema", None)
        if schema != SCHEMA:
            raise SrkdError(f"{file} cannot be read: its schema is {str(schema)[:40]!r}, not {SCHEMA}")
        return parse(EvaluationsFile, values, file).evaluations
    except SrkdError as error:
        note(f"{error}; evaluating again")
        return ()


def write_evaluations(run: Path, evaluations: Sequence[KeptScores]) -> Unwritable | None:
    """Replace evaluations.json of a run folder; return why that is impossible."""
    values = {"schema": SCHEMA, "evaluations": [entry.model_dump() for entry in evaluations]}
    try:
        with atomic_path(run / EVALUATIONS) as temporary:
            temporary.write_text(json.dumps(json_value(values), indent=1) + "\n", encoding="utf-8")
    except Unwritable as error:
        return error
    return None
