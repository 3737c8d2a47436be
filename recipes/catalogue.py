"""Methods and presets by name: srkd's own, and those of installed packages. Nothing here imports torch.

To add a method: one file, one line in METHODS, two presets. Another package adds methods by an entry point of the group
`srkd.recipes` that names a `Contribution`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

from compressor.base.entry_points import NAME, package_of
from compressor.base.errors import SrkdError, UsageError, nearest

if TYPE_CHECKING:
    from compressor.training.method import Method

GROUP = "srkd.recipes"
"""The entry point group by which a package adds methods and presets."""

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


Entry = TypeVar("Entry", MethodEntry, PresetFile)


@dataclass
class Catalogue:
    """All methods and presets by name; `notes` are lines about packages that cannot be used."""

    methods: dict[str, MethodEntry]
    presets: dict[str, PresetFile]
    notes: list[str] = field(default_factory=list)

    def method(self, name: str) -> MethodEntry:
        return self._find("method", name, self.methods)

    def preset(self, name: str) -> PresetFile:
        return self._find("recipe", name, self.presets)

    def _find(self, kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
        """Return an entry, or refuse an unknown name with the notes: a broken package may provide it."""
        if name not in entries:
            raise UsageError("; ".join([f"no {kind} is called {name!r}", nearest(name, entries), *self.notes]))
        return entries[name]

    def add(self, kind: str, entries: dict[str, Entry], offers: Mapping[str, Sequence[Entry]]) -> None:
        """Add what packages offer, by name, to `entries`; a name that is refused becomes a note with all packages."""
        for name, offered in offers.items():
            packages = [entry.package for entry in offered]
            refused = f"of {' and '.join(packages)} is refused"
            if not NAME.fullmatch(name):
                self.notes.append(f"{kind} {name!r} {refused}: names are small letters, digits, - and _")
            elif name in entries:
                self.notes.append(f"{kind} {name} {refused}: srkd has a {kind} of that name")
            elif len(offered) > 1:
                # The order of packages must not decide what a name means.
                self.notes.append(
                    f"{kind} {name} is provided by {' and by '.join(packages)}, so none of them is used: rename or "
                    "remove all but one"
                )
            else:
                entries[name] = offered[0]


@cache
def catalogue() -> Catalogue:
    """srkd's methods and presets, and those of every installed package. A broken package only adds a note."""
    return build_catalogue(metadata.entry_points(group=GROUP))


def build_catalogue(points: Iterable[metadata.EntryPoint]) -> Catalogue:
    result = Catalogue(dict(METHODS), {file.name: file for file in _preset_files("srkd", "recipes")})
    methods: dict[str, list[MethodEntry]] = {}
    presets: dict[str, list[PresetFile]] = {}
    for point in sorted(points, key=lambda point: (package_of(point), point.name)):
        package = package_of(point)
        try:
            contribution = point.load()
            if not isinstance(contribution, Contribution):
                raise TypeError(f"{point.value} is not a Contribution")
            files = [] if contribution.presets is None else _preset_files(package, contribution.presets)
            entries = [
                (name, dataclasses.replace(entry, package=package)) for name, entry in contribution.methods.items()
            ]
        except Exception as error:  # noqa: BLE001 - whatever another package raises must not stop srkd
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            result.notes.append(f"the package {package} cannot be used: its entry point {point.value} raised {reason}")
            continue
        for name, entry in entries:
            methods.setdefault(name, []).append(entry)
        for file in files:
            presets.setdefault(file.name, []).append(file)
    result.add("method", result.methods, methods)
    result.add("recipe", result.presets, presets)
    return result


def _preset_files(package: str, module: str) -> list[PresetFile]:
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
