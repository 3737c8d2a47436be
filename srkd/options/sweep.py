"""`--sweep KEY=V1,V2`: the points of a sweep, each of which is the base options with some values replaced."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from compressor.base.errors import UsageError
from srkd.options.compress import THEN, CompressOptions
from srkd.options.option import Declaration, declarations, read_word
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

Apply = Callable[[CompressOptions], CompressOptions]


@dataclass(frozen=True)
class Point:
    """One combination of swept values: the name of its folders, its label for a person, and its options.

    Without a sweep there is one point, whose name and label are empty.
    """

    name: str
    label: str
    options: CompressOptions


@dataclass(frozen=True)
class _Value:
    """A value of a swept key as the user wrote it, and how it changes the options."""

    key: str
    text: str
    apply: Apply


def points(options: CompressOptions) -> tuple[Point, ...]:
    """The points of the sweep of `options`; the first key changes slowest."""
    base = replace(options, run=replace(options.run, sweep=()))
    if not options.run.sweep:
        return (Point("", "", base),)
    axes = [_read(text, base) for text in options.run.sweep]
    keys = [axis[0].key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"--sweep {key}=...: it is given twice; write all values in one, {key}=V1,V2")
    found: dict[str, Point] = {}
    for values in itertools.product(*axes):
        chosen = base
        for value in values:
            chosen = value.apply(chosen)
        name = _free_name("-".join(f"{value.key}-{value.text}" for value in values), found)
        found[name] = Point(name, ", ".join(f"{value.key}={value.text}" for value in values), chosen)
    return tuple(found.values())


def _read(text: str, base: CompressOptions) -> list[_Value]:
    """The values of one `--sweep`."""
    key, equals, listed = text.partition("=")
    key = key.strip()
    rows = {row.name: row for row in declarations(CompressOptions) if row.group in GROUPS}
    row = rows.get(key.replace("-", "_"))
    words = _split(listed, has_fields=row is not None and row.name == "student")
    if not equals or not key or not all(words):
        raise UsageError(f"--sweep {text}: write KEY=V1,V2, such as rate=1e-4,2e-4")
    if row is None:
        return _of_setting(key, words, base)
    if row.name in NOT_SWEPT:
        raise UsageError(f"--sweep {text}: {NOT_SWEPT[row.name]}")
    return _of_option(row, words, base)


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


def _of_option(row: Declaration, words: list[str], base: CompressOptions) -> list[_Value]:
    """The values of an option of the student or the training."""
    group = getattr(base, row.group)
    before = getattr(group, row.name)
    if before != row.default:
        raise UsageError(f"--sweep {row.name}={words[0]},... and {row.flag} {before} contradict each other: give one")
    values, read = [], set[object]()
    for word in words:
        where = f"--sweep {row.name}={word}"
        value = read_word(row, word, where)
        try:
            changed = replace(group, **{row.name: value})
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        _require_new(getattr(changed, row.name), read, where)
        values.append(_Value(row.name, word, partial(_with_option, row=row, value=value)))
    return values


def _of_setting(key: str, words: list[str], base: CompressOptions) -> list[_Value]:
    """The values of a key that `--set` takes; the recipe checks them."""
    if key.startswith(THEN):
        raise UsageError(f"--sweep {key}={words[0]}: {NOT_SWEPT['then']}")
    if any(row.name == key.replace("-", "_") for row in declarations(CompressOptions)):
        raise UsageError(f"--sweep {key}={words[0]}: only options of the student and the training can be swept")
    if key in base.training.own_keys:
        raise UsageError(f"--sweep {key}={words[0]},... and --set {key}=... contradict each other: give one of them")
    read = set[object]()
    for word in words:
        _require_new(parse_scalar(word), read, f"--sweep {key}={word}")
    return [_Value(key, word, partial(_with_setting, setting=f"{key}={word}")) for word in words]


def _with_option(options: CompressOptions, *, row: Declaration, value: Any) -> CompressOptions:
    changed = replace(getattr(options, row.group), **{row.name: value})
    return replace(options, **{row.group: changed})


def _with_setting(options: CompressOptions, *, setting: str) -> CompressOptions:
    training = options.training
    return replace(options, training=replace(training, settings=(*training.settings, setting)))


def _require_new(value: object, read: set[object], where: str) -> None:
    if value in read:
        raise UsageError(f"{where}: this value is given twice")
    read.add(value)


def _free_name(text: str, taken: dict[str, Point]) -> str:
    """A name for a folder that no other point has."""
    name = re.sub(r"[^\w.+=-]+", "-", text)[:MOST_NAME].strip("-.")
    numbers = itertools.count(2)
    free = name
    while free in taken:
        free = f"{name}-{next(numbers)}"
    return free
