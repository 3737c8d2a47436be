"""Methods and presets by name: srkd's own, and those of installed packages. Nothing here imports torch.

To add a method: one file, one line in METHODS, two presets. Another package adds methods by an entry point of the group
`srkd.recipes` that names a `Contribution`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, get_args, runtime_checkable

from compressor.base.errors import SrkdError, UsageError, nearest

if TYPE_CHECKING:
    from compressor.training.method import Method

GROUP = "srkd.recipes"
"""The entry point group by which a package adds methods and presets."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")

TeacherNeeds = Literal["nothing", "outputs", "network"]
"""The teacher that a method needs: none, any model for its outputs, or one of srkd's networks."""
TEACHER_NEEDS: tuple[TeacherNeeds, ...] = get_args(TeacherNeeds)
"""From the least to the most."""


@runtime_checkable
class ChoosesTeacherNeeds(Protocol):
    """A method whose options decide what it needs of the teacher; its entry in the catalogue says the most."""

    @property
    def teacher_needs(self) -> TeacherNeeds: ...


@dataclass(frozen=True)
class MethodEntry:
    """A method as `module:Class`, imported on first use, and the most that it needs of a teacher."""

    where: str
    needs: TeacherNeeds
    package: str = "srkd"
    """The distribution that provides it; the catalogue fills it in."""

    def __post_init__(self) -> None:
        if self.needs not in TEACHER_NEEDS:
            raise SrkdError(f"method {self.where}: needs={self.needs!r} is not one of {', '.join(TEACHER_NEEDS)}")
        if self.where.count(":") != 1:
            raise SrkdError(f"method {self.where!r} does not have the form module:Class")

    def load(self) -> type[Any]:
        """Import the class. A failure of the module becomes one line that names its package."""
        module, _, name = self.where.partition(":")
        try:
            method: type[Any] = getattr(importlib.import_module(module), name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise SrkdError(f"the method {self.where} of {self.package} cannot be imported ({reason})") from error
        return method


METHODS: Mapping[str, MethodEntry] = {
    "scratch": MethodEntry("recipes.scratch:Scratch", "nothing"),
    "inherit": MethodEntry("recipes.scratch:Inherit", "network"),
    "logits": MethodEntry("recipes.logits:Logits", "outputs"),
    "ds": MethodEntry("recipes.ds:DeepSupervision", "nothing"),
    "clsd": MethodEntry("recipes.clsd:Clsd", "nothing"),
    "hkdsr": MethodEntry("recipes.hkdsr:Hkdsr", "network"),
    "fakd": MethodEntry("recipes.fakd:FAKD", "network"),
    "lfd": MethodEntry("recipes.lfd:LFD", "network"),
    "facd": MethodEntry("recipes.facd:FACD", "network"),
    "csd": MethodEntry("recipes.csd:Csd", "network"),
    "csd-lite": MethodEntry("recipes.csd:CsdLite", "network"),
    "dukd": MethodEntry("recipes.dukd:DUKD", "outputs"),
}


@dataclass(frozen=True)
class Contribution:
    """The additions of another package: methods by name, and `presets`, a package that holds `presets/NAME.yaml`.

    An entry point of the group `srkd.recipes` points at one.
    """

    methods: Mapping[str, MethodEntry] = field(default_factory=dict)
    presets: str | None = None


@dataclass(frozen=True)
class PresetFile:
    """A preset as `presets/NAME.yaml` inside the module `module`, and the distribution that provides it."""

    name: str
    package: str
    module: str

    def text(self) -> str:
        return (resources.files(self.module) / "presets" / f"{self.name}.yaml").read_text(encoding="utf-8")


@dataclass
class Catalogue:
    """All methods and presets by name; `notes` are lines about packages that cannot be used."""

    methods: dict[str, MethodEntry] = field(default_factory=dict)
    presets: dict[str, PresetFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    conflicts: dict[str, list[str]] = field(default_factory=dict)
    """Names that several other packages provide, with those packages. None of them gets the name."""

    def method(self, name: str) -> MethodEntry:
        return self.methods[name] if name in self.methods else self._refuse("method", name, self.methods)

    def preset(self, name: str) -> PresetFile:
        return self.presets[name] if name in self.presets else self._refuse("recipe", name, self.presets)

    def _refuse(self, kind: str, name: str, names: Iterable[str]) -> NoReturn:
        """Raise for an unknown name, with the notes: a broken package may be the one that provides it."""
        if f"{kind} {name}" in self.conflicts:
            raise UsageError(self._conflict(f"{kind} {name}"))
        raise UsageError("; ".join([f"no {kind} is called {name!r}", nearest(name, names), *self.notes]))

    def add(self, package: str, contribution: Contribution) -> None:
        """Add what a package provides. A name in use is refused, with a note that names both packages."""
        for name, entry in contribution.methods.items():
            if self._is_free("method", name, package, self.methods):
                self.methods[name] = dataclasses.replace(entry, package=package)
        for preset in _preset_files(package, contribution.presets):
            if self._is_free("recipe", preset.name, package, self.presets):
                self.presets[preset.name] = preset

    def _is_free(self, kind: str, name: str, package: str, entries: dict[str, Any]) -> bool:
        key = f"{kind} {name}"
        if not NAME.fullmatch(name):
            self.notes.append(f"{kind} {name!r} of {package} is refused: names are small letters, digits, - and _")
        elif name in entries and entries[name].package == "srkd":
            self.notes.append(f"{key} of {package} is refused: srkd has a {kind} of that name")
        elif name in entries or key in self.conflicts:
            # No package gets it: the order of packages must not decide what a name means.
            first = [entries.pop(name).package] if name in entries else []
            self.conflicts.setdefault(key, first).append(package)
            self.notes.append(self._conflict(key))
        else:
            return True
        return False

    def _conflict(self, key: str) -> str:
        packages = " and by ".join(self.conflicts[key])
        return f"{key} is provided by {packages}, so none of them is used: rename or remove all but one"


@cache
def catalogue() -> Catalogue:
    """srkd's methods and presets, and those of every installed package. A broken package only adds a note."""
    return build_catalogue(metadata.entry_points(group=GROUP))


def build_catalogue(points: Iterable[metadata.EntryPoint]) -> Catalogue:
    result = Catalogue()
    result.add("srkd", Contribution(METHODS, "recipes"))

    def package_of(point: metadata.EntryPoint) -> str:
        return point.name if point.dist is None else str(point.dist.name)

    for point in sorted(points, key=lambda point: (package_of(point), point.name)):
        package = package_of(point)
        try:
            contribution = point.load()
            if not isinstance(contribution, Contribution):
                raise TypeError(f"{point.value} is not a Contribution")
            result.add(package, contribution)
        except Exception as error:  # noqa: BLE001
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            result.notes.append(f"the package {package} cannot be used: its entry point {point.value} raised {reason}")
    return result


def _preset_files(package: str, module: str | None) -> list[PresetFile]:
    if module is None:
        return []
    folder = resources.files(module) / "presets"
    if not folder.is_dir():
        raise SrkdError(f"{module} has no folder presets/")
    names = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    return [PresetFile(name, package, module) for name in names]


def teacher_needs(method: Method) -> TeacherNeeds:
    """Return what the method needs of its teacher: as its options decide, or as its entry says."""
    if isinstance(method, ChoosesTeacherNeeds):
        return method.teacher_needs
    return catalogue().method(method.name).needs


def preset_names() -> tuple[str, ...]:
    return tuple(sorted(catalogue().presets))
