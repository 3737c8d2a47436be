"""What is said of a method before it is imported, and what another package may add. Nothing here imports torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from compressor.base.errors import SrkdError

Needs = Literal["nothing", "outputs", "network"]
"""The most a method may want of a teacher: no teacher, any teacher's outputs, or one of our networks."""


@dataclass(frozen=True)
class MethodEntry:
    """A method as `module:Class`, imported when asked for, and what it needs of a teacher."""

    where: str
    needs: Needs
    package: str = "srkd"
    """Who brings it; filled in by the catalogue."""

    def __post_init__(self) -> None:
        if self.needs not in get_args(Needs):
            raise SrkdError(f"method {self.where}: needs={self.needs!r} is none of {', '.join(get_args(Needs))}")
        if self.where.count(":") != 1:
            raise SrkdError(f"method {self.where!r} is not of the form module:Class")

    def load(self) -> type[Any]:
        """The class; whatever fails in a foreign module becomes one line that names its package."""
        module, _, name = self.where.partition(":")
        try:
            found: type[Any] = getattr(importlib.import_module(module), name)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise SrkdError(f"the method {self.where} of {self.package} cannot be imported ({told})") from error
        return found


@dataclass(frozen=True)
class Contribution:
    """What an entry point of the group `srkd.recipes` points at: methods by name, and a package with presets.

    `presets` names a package that holds `presets/NAME.yaml`.
    """

    methods: Mapping[str, MethodEntry] = field(default_factory=dict)
    presets: str | None = None
