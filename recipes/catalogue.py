"""Methods and presets by name: ours, and those of installed packages. Adding a method: one file, one line here, two
presets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, resources
from typing import Any, NoReturn

from compressor.base.errors import SrkdError, UsageError
from recipes.entry import Contribution, MethodEntry
from recipes.problems import closest

GROUP = "srkd.recipes"
"""The entry point group by which a package adds methods and presets."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")

METHODS: Mapping[str, MethodEntry] = {
    "scratch": MethodEntry("recipes.scratch:Scratch", "nothing"),
    "inherit": MethodEntry("recipes.inherit:Inherit", "network"),
    "logits": MethodEntry("recipes.logits:Logits", "outputs"),
    "ds": MethodEntry("recipes.ds:DeepSupervision", "nothing"),
    "clsd": MethodEntry("recipes.clsd:Clsd", "nothing"),
    "hkdsr": MethodEntry("recipes.hkdsr:Hkdsr", "network"),
    "fakd": MethodEntry("recipes.fakd:FAKD", "network"),
    "lfd": MethodEntry("recipes.lfd:LFD", "network"),
    "facd": MethodEntry("recipes.facd:FACD", "network"),
    "csd": MethodEntry("recipes.csd:Csd", "network"),
    "csd-lite": MethodEntry("recipes.csd_lite:CsdLite", "network"),
    "dukd": MethodEntry("recipes.dukd:DUKD", "outputs"),
}


@dataclass(frozen=True)
class PresetFile:
    """A preset as `presets/NAME.yaml` inside an importable package, and the distribution that brings it."""

    name: str
    package: str
    inside: str

    def text(self) -> str:
        return (resources.files(self.inside) / "presets" / f"{self.name}.yaml").read_text(encoding="utf-8")


@dataclass
class Catalogue:
    """Everything that has a name; `notes` say what is wrong with a package."""

    methods: dict[str, MethodEntry] = field(default_factory=dict)
    presets: dict[str, PresetFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    claims: dict[str, list[str]] = field(default_factory=dict)
    """Names that several foreign packages bring, and that none of them has."""

    def method(self, name: str) -> MethodEntry:
        return self.methods[name] if name in self.methods else self._refuse("method", name, self.methods)

    def preset(self, name: str) -> PresetFile:
        return self.presets[name] if name in self.presets else self._refuse("recipe", name, self.presets)

    def _refuse(self, kind: str, name: str, known: Iterable[str]) -> NoReturn:
        """It may be a name of a package that is broken: that is said too."""
        if f"{kind} {name}" in self.claims:
            raise UsageError(self._claimed(f"{kind} {name}"))
        raise UsageError("; ".join([f"no {kind} is called {name!r}", closest(name, known), *self.notes]))

    def add(self, package: str, contribution: Contribution) -> None:
        """Take what a package brings; a name that is taken is refused, and both packages are named."""
        for name, entry in contribution.methods.items():
            if self._free("method", name, package, self.methods):
                self.methods[name] = dataclasses.replace(entry, package=package)
        for found in _presets_of(package, contribution.presets):
            if self._free("recipe", found.name, package, self.presets):
                self.presets[found.name] = found

    def _free(self, kind: str, name: str, package: str, taken: dict[str, Any]) -> bool:
        key = f"{kind} {name}"
        if not NAME.fullmatch(name):
            self.notes.append(f"{kind} {name!r} of {package} is refused: names are small letters, digits, - and _")
        elif name in taken and taken[name].package == "srkd":
            self.notes.append(f"{key} of {package} is refused: srkd has a {kind} of that name")
        elif name in taken or key in self.claims:
            # None of them has it: which package came first must not decide what a name means.
            self.claims.setdefault(key, [taken.pop(name).package] if name in taken else []).append(package)
            self.notes.append(self._claimed(key))
        else:
            return True
        return False

    def _claimed(self, key: str) -> str:
        return f"{key} is brought by {' and by '.join(self.claims[key])}, and is nobody's: rename or remove all but one"


@cache
def catalogue() -> Catalogue:
    """Ours, and those of every installed package; a broken package is a note, and nothing else suffers."""
    return gather(metadata.entry_points(group=GROUP))


def gather(points: Iterable[metadata.EntryPoint]) -> Catalogue:
    found = Catalogue()
    found.add("srkd", Contribution(METHODS, "recipes"))
    for point in sorted(points, key=lambda point: (package_of(point), point.name)):
        package = package_of(point)
        try:
            contribution = point.load()
            if not isinstance(contribution, Contribution):
                raise TypeError(f"{point.value} is no Contribution")
            found.add(package, contribution)
        except Exception as error:  # noqa: BLE001
            told = " ".join(f"{type(error).__name__}: {error}".split())
            found.notes.append(f"the package {package} cannot be used: its entry point {point.value} gave {told}")
    return found


def package_of(point: metadata.EntryPoint) -> str:
    """The distribution that brings an entry point."""
    return point.name if point.dist is None else str(point.dist.name)


def _presets_of(package: str, inside: str | None) -> list[PresetFile]:
    if inside is None:
        return []
    folder = resources.files(inside) / "presets"
    if not folder.is_dir():
        raise SrkdError(f"{inside} has no folder presets/")
    names = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    return [PresetFile(name, package, inside) for name in names]


def preset_names() -> tuple[str, ...]:
    return tuple(sorted(catalogue().presets))
