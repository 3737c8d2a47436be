"""Mistakes in a YAML file: each with file, line, key, value and expected value, all reported at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.base.errors import UsageError, shorten

KeyPath = tuple[str | int, ...]
"""The keys and list indices that lead to a value: ("methods", 0, "options", "kappa")."""

EXPECTED = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "too_short": "expected at least {min_length} entries, not {actual_length}",
    "too_long": "expected at most {max_length} entries, not {actual_length}",
    "literal_error": "expected {expected}",
}
"""srkd's messages by pydantic's error type; all others use pydantic's own message."""


@dataclass(frozen=True)
class Problem:
    """One mistake. `setting` is the `--set` option that caused it; `line` is the line in the file."""

    file: str
    line: int | None
    key: str
    value: str | None
    expected: str
    setting: str | None = None

    def __str__(self) -> str:
        if self.setting is not None:
            key = self.key if self.expected.startswith("unknown key") else ""
            setting = shorten(self.setting, 200)
            return f"--set {setting}: {self.expected}{f' ({shorten(key)})' if key not in self.setting else ''}"
        line = "" if self.line is None else f":{self.line}"
        value = "" if self.value is None else f"={self.value}"
        return f"{self.file}{line}: {shorten(self.key, 100)}{value}{': ' if self.key else ''}{self.expected}"


MOST_IN_A_LINE = 20


class YamlError(UsageError):
    """A file with mistakes. The message is one line about the first ones; `problems` holds all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        more = [f"and {len(problems) - MOST_IN_A_LINE} more"] if len(problems) > MOST_IN_A_LINE else []
        super().__init__("; ".join([*map(str, problems[:MOST_IN_A_LINE]), *more]))


def file_error(file: str, expected: str, line: int | None = None) -> YamlError:
    """Return an error that belongs to no key of the file, at most to a line."""
    return YamlError([Problem(file, line, "", None, expected)])


@dataclass(frozen=True)
class YamlSource:
    """The source of the values: their file, the line of each path, and the setting that last changed each path."""

    file: str
    lines: Mapping[KeyPath, int]
    settings: Mapping[KeyPath, str]

    def problem(self, path: KeyPath, value: str | None, expected: str) -> Problem:
        """Return the mistake at `path`, with the setting or line of it, or of the nearest value that contains it."""
        parents = [path[:length] for length in range(len(path), -1, -1)]
        setting = next((self.settings[parent] for parent in parents if parent in self.settings), None)
        line = next((self.lines[parent] for parent in parents if parent in self.lines), None)
        return Problem(self.file, line if setting is None else None, ".".join(map(str, path)), value, expected, setting)

    def pydantic_problem(
        self,
        error: Mapping[str, Any],
        siblings: Iterable[str],
        *,
        prefix: KeyPath = (),
        other_paths: Iterable[str] = (),
    ) -> Problem:
        """Return the mistake of a pydantic error.

        An unknown key is compared with `siblings`, the valid keys at its place, and with `other_paths`, those
        elsewhere.
        """
        kind, path = error["type"], (*prefix, *error["loc"])
        if kind == "extra_forbidden":
            return self.problem(path, None, f"unknown key, {suggest_key(str(path[-1]), siblings, other_paths)}")
        if kind == "missing":
            return self.problem(path, None, "is missing")
        limits = {
            name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in error.get("ctx", {}).items()
        }
        if kind == "value_error":
            expected = str(error["ctx"]["error"])
        elif kind in EXPECTED:
            expected = EXPECTED[kind].format(**limits)
        else:
            expected = "expected " + error["msg"].removeprefix("Input should be ")
        # The value as the file writes it.
        value = repr(error["input"]) if isinstance(error["input"], str) else json.dumps(error["input"], default=str)
        return self.problem(path, shorten(value), expected)


def suggest_key(name: str, siblings: Iterable[str], other_paths: Iterable[str] = ()) -> str:
    """Return a suggestion for an unknown key: the nearest valid key at its place, or a path elsewhere."""
    siblings = list(siblings)
    for candidates in ({key: key for key in siblings}, {path.rpartition(".")[2]: path for path in other_paths}):
        for match in difflib.get_close_matches(name, candidates, n=1):
            return f"did you mean {candidates[match]}?"
    return f"there are {', '.join(siblings)}" if siblings else "there are none here"
