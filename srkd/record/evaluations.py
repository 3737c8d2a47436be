"""evaluations.json of a run folder: the scores of its student, its teacher and bicubic on image sets, each under one
hash of all that decides them. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from compressor.base.context import Note
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.base.machine import installed_version
from srkd.record.reading import Decibels, Entry, parse, read_object, write_object
from srkd.terminal.console import json_value
from srkd.version import __version__

EVALUATIONS = "evaluations.json"
SCHEMA = "srkd.evaluations/3"
BICUBIC = "bicubic"
"""Stands for the SHA-256 of the model that has no file."""


class KeptScores(Entry):
    """The scores of a model on each image of a set, by their keys in JSON, and whether the LR images were made."""

    lr: Literal["made", "stored"]
    images: dict[str, list[Decibels]]


class EvaluationsFile(Entry):
    """The contents of evaluations.json: scores by `scores_key`."""

    scores: dict[str, KeptScores]


def software() -> str:
    """The versions that evaluate: another one evaluates anew."""
    return f"srkd {__version__}, torch {installed_version('torch')}"


def scores_key(model: str, images: str, conditions: Mapping[str, object]) -> str:
    """One hash of all that decides the scores of a model (its SHA-256) on images (their digest)."""
    return hashlib.sha256(json.dumps([model, images, conditions, software()], sort_keys=True).encode()).hexdigest()


def images_digest(files: Iterable[Path | None]) -> str:
    hashes = [None if file is None else file_sha256(file) for file in files]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def read_evaluations(run: Path, note: Note) -> dict[str, KeptScores]:
    """The kept scores of a run folder; a note says if its file cannot be read."""
    file = run / EVALUATIONS
    if not file.exists():
        return {}
    try:
        values = read_object(file)
        if values.pop("schema", None) != SCHEMA:
            raise SrkdError(f"{file} cannot be read: its schema is not {SCHEMA}")
        return parse(EvaluationsFile, values, file).scores
    except SrkdError as error:
        note(f"{error}; evaluating again")
        return {}


def write_evaluations(run: Path, scores: Mapping[str, KeptScores], note: Note) -> None:
    """Replace evaluations.json of a run folder; a note says if that is impossible."""
    values = {"schema": SCHEMA, "scores": json_value(scores)}
    write_object(run / EVALUATIONS, values, note, "scores are not kept for the next time")
