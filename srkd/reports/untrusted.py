"""Reading of untrusted JSON files: a value that is missing or of another type reads as None."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256, read_text
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS, RUN_FOLDER_WEIGHTS

MOST_BYTES = 64 * 10**6
LONGEST_TEXT = 2000
LARGEST_NUMBER = 1e18


@dataclass(frozen=True)
class Facts:
    """A JSON value, with access to the values below it."""

    value: Any = None

    @classmethod
    def read(cls, file: Path) -> Facts:
        """Return the facts of a JSON file; empty if there is no such file."""
        if not file.is_file():
            return cls()
        try:
            return cls(json.loads(read_text(file, MOST_BYTES)))
        except (ValueError, RecursionError) as error:
            raise SrkdError(f"{file} is damaged: {error}") from error

    def at(self, *keys: str) -> Facts:
        """Return the value at the path of keys."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return Facts(value)

    def has(self, *keys: str) -> bool:
        return self.at(*keys).value is not None

    def number(self, *keys: str) -> float | None:
        """Return the finite number at the keys, or None."""
        value = self.at(*keys).value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if math.isfinite(value) and abs(value) <= LARGEST_NUMBER else None

    def count(self, *keys: str) -> int | None:
        """Return the integer of at least 0 at the keys, or None."""
        value = self.at(*keys).value
        return value if type(value) is int and 0 <= value <= LARGEST_NUMBER else None

    def text(self, *keys: str) -> str | None:
        """Return the text at the keys as one printable line, or None."""
        value = self.at(*keys).value
        if not isinstance(value, str):
            return None
        line = "".join(character if character.isprintable() else " " for character in value[:LONGEST_TEXT]).strip()
        return line or None

    def items(self, *keys: str) -> tuple[Facts, ...]:
        """Return the items of the list at the keys."""
        value = self.at(*keys).value
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return tuple(map(Facts, value)) if is_list else ()

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Return the texts of the list at the keys."""
        return tuple(text for item in self.items(*keys) if (text := item.text()) is not None)

    def entries(self, *keys: str) -> dict[str, Facts]:
        """Return the values of the object at the keys by their names."""
        value = self.at(*keys).value
        return {str(name): Facts(item) for name, item in value.items()} if isinstance(value, Mapping) else {}


def require_run_folder(run: Path) -> None:
    """Refuse a path that is not a folder."""
    if not run.is_dir():
        raise SrkdError(f"{run} is not a run folder: it {'is a file' if run.exists() else 'does not exist'}")


def part_names(facts: Facts) -> tuple[str, ...]:
    """Return the folders of the runs of a plan; a name must not lead out of the plan's folder."""
    return tuple(name for name in facts.texts("trials", "runs") if Path(name).name == name and name not in (".", ".."))


def read_run_facts(run: Path, student_sha256: str) -> Facts:
    """Return run.json of a student's folder; empty if that is not a finished run of this very student."""
    student = run / RUN_FOLDER_WEIGHTS
    facts = Facts.read(run / RUN_FOLDER_FACTS)
    is_its_own = student.is_file() and student_sha256 != "" and file_sha256(student) == student_sha256
    return facts if facts.has("result") and is_its_own else Facts()
