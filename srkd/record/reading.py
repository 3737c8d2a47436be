"""JSON files that srkd wrote and anybody may have changed, read into typed models; one line says what is wrong.

The line names the file, the key, its value and what was expected there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from compressor.base.context import Note
from compressor.base.errors import SrkdError, Unwritable, report_unreadable
from compressor.base.files import read_text, write_text
from compressor.base.yaml_errors import YamlSource

MOST_BYTES = 64 * 10**6
LARGEST_NUMBER = 2.0**64
"""No figure of a run is larger; a larger one could not be computed with."""
LONGEST_TEXT = 2000
"""The most characters of a text that is shown."""


class Entry(BaseModel):
    """A part of a file: frozen, without conversions between types, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


EntryT = TypeVar("EntryT", bound=Entry)


Decibels = Annotated[
    float, Field(allow_inf_nan=True), BeforeValidator(lambda value: math.inf if value is None else value)
]
"""A PSNR or a difference of two, in dB. JSON has no infinity: there it is null."""


def read_object(file: Path) -> dict[str, Any]:
    """The object of a JSON file. Every number in it is finite and of a size that can be computed with."""
    with report_unreadable(file):
        try:
            values = json.loads(read_text(file, MOST_BYTES))
            where = _unusable_number(values)
        except (ValueError, RecursionError) as error:
            raise SrkdError(f"{file} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise SrkdError(f"{file} is damaged: it is not a JSON object")
    if where is not None:
        raise SrkdError(f"{file} is damaged: {where}: no figure of a run is so large")
    return values


def write_object(file: Path, values: Mapping[str, object], note: Note, otherwise: str) -> None:
    """Replace a JSON file; if that is impossible, a note says what follows."""
    try:
        write_text(file, json.dumps(values, indent=1) + "\n")
    except Unwritable as error:
        note(f"{otherwise}: {error}")


def _unusable_number(value: object, key: str = "") -> str | None:
    """The key and value of the first number that is not finite or too large; None if all can be used."""
    if isinstance(value, (int, float)):
        # The second comparison is False for NaN as well.
        return None if abs(value) <= LARGEST_NUMBER else f"{key}={str(value)[:40]}"
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        if (found := _unusable_number(child, f"{key}.{name}" if key else str(name))) is not None:
            return found
    return None


def parse(model: type[EntryT], values: dict[str, Any], file: Path) -> EntryT:
    """The values of a file as its model; a missing key, an unknown one or a wrong value is an error."""
    try:
        text = json.dumps(values, ensure_ascii=False)
        try:
            return model.model_validate_json(text.encode())
        except UnicodeEncodeError:
            # A name of a file that is not UTF-8, which pydantic's JSON cannot hold.
            return model.model_validate(values, strict=False)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        origin = YamlSource(str(file), {}, {})
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            mistake = origin.problem(first["loc"], None, "unknown key: another version of srkd wrote it")
        else:
            mistake = origin.pydantic_problem(first, ())
        raise SrkdError(f"{mistake}{more}") from error
    except SrkdError as error:
        raise SrkdError(f"{file}: {error}") from error


def printable(value: Any) -> Any:
    """A JSON value whose texts are printable lines, at most 2,000 characters long."""
    if isinstance(value, str):
        line = "".join(character if character.isprintable() else " " for character in value[:LONGEST_TEXT])
        return line.strip()
    if isinstance(value, dict):
        return {printable(name): printable(item) for name, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, list) else value
