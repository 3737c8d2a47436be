"""The values of a JSON file that anyone may have written: what is missing or of another kind reads as None."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256, read_text

MOST_BYTES = 64 * 10**6
LONGEST_TEXT = 2000
LARGEST_NUMBER = 1e18


@dataclass(frozen=True)
class Facts:
    """A value and what lies below it."""

    value: Any = None

    @classmethod
    def read(cls, file: Path) -> Facts:
        """Return the facts of a JSON file; none where there is no such file."""
        if not file.is_file():
            return cls()
        try:
            return cls(json.loads(read_text(file, MOST_BYTES)))
        except (ValueError, RecursionError) as error:
            raise SrkdError(f"{file} is damaged: {error}") from error

    def at(self, *keys: str) -> Facts:
        """Return what is found along the keys."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return Facts(value)

    def has(self, *keys: str) -> bool:
        return self.at(*keys).value is not None

    def number(self, *keys: str) -> float | None:
        """Return a finite number."""
        value = self.at(*keys).value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if math.isfinite(value) and abs(value) <= LARGEST_NUMBER else None

    def count(self, *keys: str) -> int | None:
        """Return a whole number that is not negative."""
        value = self.at(*keys).value
        return value if type(value) is int and 0 <= value <= LARGEST_NUMBER else None

    def text(self, *keys: str) -> str | None:
        """Return a text as one printable line."""
        value = self.at(*keys).value
        if not isinstance(value, str):
            return None
        line = "".join(character if character.isprintable() else " " for character in value[:LONGEST_TEXT]).strip()
        return line or None

    def items(self, *keys: str) -> tuple[Facts, ...]:
        """Return the items of a list."""
        value = self.at(*keys).value
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return tuple(map(Facts, value)) if is_list else ()

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Return the texts of a list."""
        return tuple(text for item in self.items(*keys) if (text := item.text()) is not None)

    def entries(self, *keys: str) -> dict[str, Facts]:
        """Return the values of an object by their names."""
        value = self.at(*keys).value
        return {str(name): Facts(item) for name, item in value.items()} if isinstance(value, Mapping) else {}


def read_run_facts(run: Path, student_sha256: str) -> Facts:
    """Return run.json of the folder that a student lies in; none where that is no run, or the student another file."""
    student = run / "student.safetensors"
    facts = Facts.read(run / "run.json")
    is_its_own = student.is_file() and student_sha256 != "" and file_sha256(student) == student_sha256
    return facts if facts.has("result") and is_its_own else Facts()
