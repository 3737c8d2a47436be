"""`--sweep KEY=V1,V2`: the points of a sweep, each of which is the base options with some values replaced."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

from compressor.base.errors import UsageError
from srkd.options.compress import THEN, CompressOptions
from srkd.options.option import Declaration, declarations
from srkd.options.values import parse_scalar

GROUPS = ("student", "training")
"""The groups whose options can be swept."""
NOT_SWEPT = {
    "seed": "--seeds N trains N of them",
    "settings": "name the setting itself, such as --sweep kappa=0.5,1",
    "then": "--then makes one student",
}
MOST_NAME = 120
"""Characters of the name of a folder."""


@dataclass(frozen=True)
class Point:
    """One combination of swept values: name of its folders and label (both empty without a sweep), and its options."""

    name: str
    label: str
    options: CompressOptions


@dataclass(frozen=True)
class _Change:
    """A value of a swept key: as the user wrote it, and as it is read. `row` is None for a key that `--set` takes."""

    key: str
    text: str
    row: Declaration | None
    value: Any

    def apply(self, options: CompressOptions) -> CompressOptions:
        if self.row is None:
            settings = (*options.training.settings, f"{self.key}={self.text}")
            return replace(options, training=replace(options.training, settings=settings))
        group = replace(getattr(options, self.row.group), **{self.row.name: self.value})
        return replace(options, **{self.row.group: group})


def points(options: CompressOptions) -> tuple[Point, ...]:
    base = replace(options, run=replace(options.run, sweep=()))
    if not options.run.sweep:
        return (Point("", "", base),)
    axes = [_read(text, base) for text in options.run.sweep]
    keys = [axis[0].key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"--sweep {key}=...: it is given twice; write all values in one, {key}=V1,V2")
    found: dict[str, Point] = {}
    for changes in itertools.product(*axes):
        chosen = base
        for change in changes:
            chosen = change.apply(chosen)
        text = "-".join(f"{change.key}-{change.text}" for change in changes)
        name = first = re.sub(r"[^\w.+=-]+", "-", text)[:MOST_NAME].strip("-.")
        numbers = itertools.count(2)
        while name in found:
            name = f"{first}-{next(numbers)}"
        found[name] = Point(name, ", ".join(f"{change.key}={change.text}" for change in changes), chosen)
    return tuple(found.values())


def _read(text: str, base: CompressOptions) -> list[_Change]:
    """The values of one `--sweep`: of an option of the student or the training, or of a key that the recipe checks."""
    key, equals, listed = text.partition("=")
    rows = {row.name: row for row in declarations(CompressOptions)}
    row = rows.get(key.strip().replace("-", "_"))
    key = key.strip() if row is None else row.name
    words = _split(listed, has_fields=key == "student")
    if not equals or not key or not all(words):
        raise UsageError(f"--sweep {text}: write KEY=V1,V2, such as rate=1e-4,2e-4")
    swept = "then" if key.startswith(THEN) else key
    if swept in NOT_SWEPT or (row is not None and row.group not in GROUPS):
        why = NOT_SWEPT.get(swept, "only options of the student and the training can be swept")
        raise UsageError(f"--sweep {text}: {why}")
    if row is None:
        is_given, other = key in base.training.own_keys, f"--set {key}=..."
    else:
        before = getattr(getattr(base, row.group), row.name)
        is_given, other = before != row.default, f"{row.flag} {before}"
    if is_given:
        raise UsageError(f"--sweep {text} and {other} contradict each other: give one of them")
    changes: list[_Change] = []
    for word in words:
        where = f"--sweep {key}={word}"
        value = parse_scalar(word) if row is None else row.read_word(word, where)
        if value in [change.value for change in changes]:
            raise UsageError(f"{where}: this value is given twice")
        changes.append(_Change(key, word, row, value))
    return changes


def _split(listed: str, *, has_fields: bool) -> list[str]:
    """The values between commas. A comma inside brackets belongs to its value, and with `has_fields` also one before
    `name=`, as in compact:width=24,depth=8.
    """
    words, depth = [""], 0
    for character in listed:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            words.append("")
        else:
            words[-1] += character
    joined: list[str] = []
    for word in map(str.strip, words):
        if has_fields and joined and re.match(r"[\w-]+\s*=", word):
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined
