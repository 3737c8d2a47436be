"""What is wrong with a preset: where, which key, its value, what was expected; all of it at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.base.errors import UsageError

Path = tuple[str | int, ...]
"""Where a value lies: ("methods", 0, "options", "kappa")."""

EXPECTED = {
    "missing": "is missing",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
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
"""In our words, by pydantic's name of the mistake; what is not here is told in pydantic's."""


@dataclass(frozen=True)
class Problem:
    """One mistake. `setting` is the `--set` that made it, `line` where the file has it."""

    file: str
    line: int | None
    key: str
    value: str | None
    expected: str
    setting: str | None = None

    def __str__(self) -> str:
        if self.setting is not None:
            shown = self.key if self.expected.startswith("unknown key") else ""
            return f"--set {self.setting}: {self.expected}{f' ({shown})' if shown not in self.setting else ''}"
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        value = "" if self.value is None else f"={self.value}"
        return f"{where}: {self.key}{value}{': ' if self.key else ''}{self.expected}"


class PresetError(UsageError):
    """A preset with mistakes; the message is one line, `problems` has them one by one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, problems)))


def one_problem(file: str, expected: str, line: int | None = None) -> PresetError:
    """A mistake of the file as a whole."""
    return PresetError([Problem(file, line, "", None, expected)])


@dataclass(frozen=True)
class Origin:
    """Where values came from: the file, the line of each path, and the setting that put a value there."""

    file: str
    lines: Mapping[Path, int]
    settings: Mapping[Path, str]

    def problem(self, path: Path, value: str | None, expected: str) -> Problem:
        setting = _nearest_above(self.settings, path)
        line = None if setting is not None else _nearest_above(self.lines, path)
        return Problem(self.file, line, dotted(path), value, expected, setting)


def told(
    detail: Mapping[str, Any], prefix: Path, origin: Origin, siblings: Iterable[str], far: Iterable[str]
) -> Problem:
    """A mistake that pydantic found. `siblings` are the keys beside an unknown one, `far` paths of all the others."""
    kind, path = detail["type"], (*prefix, *detail["loc"])
    if kind == "extra_forbidden":
        return origin.problem(path, None, f"unknown key, {closest_key(str(path[-1]), siblings, far)}")
    if kind == "missing":
        return origin.problem(path, None, EXPECTED[kind])
    words = EXPECTED.get(kind)
    context = {name: _number(limit) for name, limit in detail.get("ctx", {}).items()}
    expected = words.format(**context) if words else "expected " + detail["msg"].removeprefix("Input should be ")
    if kind == "literal_error" and isinstance(detail["input"], str):
        offered = [choice.strip("'") for choice in str(context["expected"]).replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(detail["input"], offered, n=1)
        expected += f", did you mean {near[0]!r}?" if near else ""
    return origin.problem(path, shown(detail["input"]), expected)


def closest(name: str, known: Iterable[str]) -> str:
    """The end of a message: what was perhaps meant, and what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there are {', '.join(known)}" if known else "there are none"


def closest_key(name: str, siblings: Iterable[str], far: Iterable[str]) -> str:
    """What an unknown key may have meant: one beside it, or one elsewhere in a preset, which is given as a path."""
    siblings = list(siblings)
    near = difflib.get_close_matches(name, siblings, n=1)
    if near:
        return f"did you mean {near[0]}?"
    elsewhere = {path.rpartition(".")[2]: path for path in far}
    near = difflib.get_close_matches(name, elsewhere, n=1)
    if near:
        return f"did you mean {elsewhere[near[0]]}?"
    return f"there are {', '.join(siblings)}" if siblings else "there are none here"


def shown(value: object) -> str:
    """A value as the file would have it, shortened."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(path: Path) -> str:
    """`methods.0.options.kappa`, as `--set` takes it."""
    return ".".join(map(str, path))


def _number(limit: object) -> object:
    return f"{limit:g}" if isinstance(limit, float) else limit


def _nearest_above(places: Mapping[Path, Any], path: Path) -> Any:
    """What is known of a path, or of the nearest thing that holds it."""
    return next((places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in places), None)
