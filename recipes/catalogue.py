"""Methods by name, and where presets lie. Adding a method: one file, one line here, one preset."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

from compressor.errors import UsageError
from compressor.training.method import Method

FIXED = ("name", "needs_teacher", "needs_network", "weights")
"""Fields of a method that are facts about it, not options."""


@dataclass(frozen=True)
class MethodEntry:
    """A method by module and class; imported when asked for."""

    module: str
    type_name: str

    def load(self) -> type[Any]:
        return cast("type[Any]", getattr(importlib.import_module(self.module), self.type_name))

    def options(self) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(self.load()) if field.name not in FIXED)


METHODS: Mapping[str, MethodEntry] = {
    "scratch": MethodEntry("recipes.scratch", "Scratch"),
    "inherit": MethodEntry("recipes.inherit", "Inherit"),
    "logits": MethodEntry("recipes.logits", "Logits"),
}


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """The method with its options, or one line that names what is wrong."""
    if name not in METHODS:
        raise UsageError(f"no method is called {name!r}; {_nearest(name, list(METHODS))}")
    entry = METHODS[name]
    known = entry.options()
    for option in options:
        if option not in known:
            offered = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"method {name} has no option {option!r}; {offered}")
    return cast(Method, entry.load()(**options))


def preset_names() -> tuple[str, ...]:
    folder = resources.files("recipes") / "presets"
    return tuple(sorted(item.name[: -len(".yaml")] for item in folder.iterdir() if item.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    names = preset_names()
    if name not in names:
        raise UsageError(f"no recipe is called {name!r}; {_nearest(name, list(names))}")
    return (resources.files("recipes") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there are {', '.join(names)}"
