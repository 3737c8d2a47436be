"""`--set key=value`: any key of a preset by its path, and a method's options by their bare names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from compressor.base.errors import SrkdError, UsageError
from recipes.catalogue import catalogue
from recipes.options import options_of
from recipes.preset import Preset, ScheduleRule
from recipes.problems import Path, Problem
from recipes.yaml_text import parse_value

PATCHES = ("lr_patch", "hr_patch")


@dataclass
class Applied:
    """Which setting put a value where, and the settings that could not be used."""

    places: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def apply_settings(values: dict[str, Any], settings: Sequence[str]) -> Applied:
    """Change `values` in place; later settings win."""
    done = Applied()
    if settings:
        _fill_in_lists(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            if not equals or not all(key.split(".")):
                raise UsageError("not of the form key=value")
            for path in _paths(values, key):
                _put(values, path, parse_value(text))
                _instead(values, path, parse_value(text))
                done.places[path] = setting
        except UsageError as error:
            done.problems.append(Problem("", None, key, None, str(error), setting))
    return done


def _fill_in_lists(values: dict[str, Any]) -> None:
    """So that one entry of a list can be set where the file leaves the list open."""
    given = values.get("schedule", {})
    if isinstance(given, dict):
        lists = {name: value for name, value in ScheduleRule().model_dump(mode="json").items() if type(value) is list}
        values["schedule"] = {**lists, **given}


def _instead(values: dict[str, Any], path: Path, value: Any) -> None:
    """A patch that is set takes the place of the one that the file gives in the other pixels."""
    if len(path) == 2 and path[0] == "schedule" and path[1] in PATCHES and value is not None:
        (other,) = (name for name in PATCHES if name != path[1])
        values["schedule"].pop(other, None)


def _paths(values: dict[str, Any], key: str) -> list[Path]:
    """Where a setting goes: `schedule.rate`, `methods.0.options.kappa`, `logits.kappa`, or `kappa` of all methods."""
    first, *rest = key.split(".")
    if first in Preset.model_fields:
        return [(first, *(int(piece) if piece.isdecimal() else piece for piece in rest))]
    rules = _rules(values)
    named = [index for index, rule in enumerate(rules) if rest and rule.get("name") == first]
    if named:
        return [("methods", index, "options", *rest) for index in named]
    holders = [index for index, rule in enumerate(rules) if first in options_in(rule)]
    if holders:
        return [("methods", index, "options", first, *rest) for index in holders]
    elsewhere = [name for name in sorted(catalogue().methods) if first in options_in({"name": name})]
    if elsewhere and rules:
        here = " nor ".join(str(rule.get("name")) for rule in rules)
        raise UsageError(f"{first} is an option of {', '.join(elsewhere)}, and not of {here}")
    # Nobody has it: the check of the whole tells the nearest key.
    return [(first, *rest)]


def _rules(values: dict[str, Any]) -> list[dict[str, Any]]:
    rules = values.get("methods")
    return [rule if isinstance(rule, dict) else {} for rule in rules] if isinstance(rules, list) else []


def options_in(rule: dict[str, Any]) -> tuple[str, ...]:
    """The options of the method that a rule names, if there is one."""
    try:
        return tuple(options_of(catalogue().method(str(rule.get("name")))).model_fields)
    except SrkdError:
        return ()


def _put(values: Any, path: Path, value: Any) -> None:
    """Set what lies at `path`; keys on the way are made, entries of a list must be there."""
    *parents, last = path
    for step, piece in enumerate(parents):
        if isinstance(values, dict):
            following = values.get(str(piece))
            if following is None:
                following = values[str(piece)] = {}
            values = following
        else:
            values = _entries(values, path[: step + 1])[_index(values, path[: step + 1])]
    if isinstance(values, dict):
        values[str(last)] = value
    else:
        _entries(values, path)[_index(values, path)] = value


def _entries(values: Any, path: Path) -> list[Any]:
    if not isinstance(values, list):
        raise UsageError(f"{'.'.join(map(str, path[:-1]))} is a plain value and holds no {path[-1]}")
    return values


def _index(values: Any, path: Path) -> int:
    entries, piece = _entries(values, path), str(path[-1])
    if not piece.isdecimal() or int(piece) >= len(entries):
        raise UsageError(f"{'.'.join(map(str, path[:-1]))} has entries 0 to {len(entries) - 1}, not {piece}")
    return int(piece)
