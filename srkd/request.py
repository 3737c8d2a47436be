"""What a user asks of `compress`, in words that run.json keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.cache_folder import DEFAULT_LIMIT, bytes_of
from compressor.base.choices import Border, Select
from compressor.data.prepare import DataChoice
from recipes.config.reading import is_recipe_file
from srkd.student_choice import Init


@dataclass(frozen=True)
class Request:
    """What the user asked for, in JSON values: run.json keeps it, and a resumed run starts from it."""

    teacher: str | None
    recipe: str
    data: str | None
    lr: str | None
    val: str | None
    lr_border: Border
    width: float | None
    depth: float | None
    student: str | None
    init: Init | None
    select: Select | None
    init_from: str | None
    steps: int | None
    seed: int
    device: str
    scale: int | None
    arch_options: Mapping[str, Any]
    settings: Sequence[str]
    lr_only: str | None = None
    cache_size: int = DEFAULT_LIMIT
    teacher_cache: bool = False
    phi_weights: str | None = None

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Request:
        """The command line's words, those that are part of a request: paths become absolute, so that a run can be
        continued from another folder."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in words.items() if name in known}
        paths = ("teacher", "data", "lr", "val", "init_from", "lr_only", "phi_weights")
        values |= {name: _absolute(values.get(name)) for name in paths}
        recipe = str(values["recipe"])
        values["recipe"] = str(Path(recipe).resolve()) if is_recipe_file(recipe) else recipe
        values["arch_options"], values["settings"] = dict(values["arch_options"]), tuple(values["settings"])
        values["cache_size"] = bytes_of(values["cache_size"])
        return cls(**values)

    def images(self) -> DataChoice:
        """What was said about data; refuses what contradicts itself."""
        return DataChoice(
            data=path_of(self.data),
            lr=path_of(self.lr),
            val=path_of(self.val),
            lr_border=self.lr_border,
            lr_only=path_of(self.lr_only),
            cache_size=self.cache_size,
        )


def path_of(path: str | None) -> Path | None:
    return None if path is None else Path(path)


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).resolve())
