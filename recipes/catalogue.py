"""Methods and presets by name: srkd's own, and those of installed packages. This module imports no torch.

To add a method, add one file, one line in BUILTIN, a preset, and a page in docs/methods. Another package adds methods
by an entry point of the group `srkd.recipes` that names a `Contribution`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata, resources
from typing import Any, cast

from compressor.base.entry_points import EntryPointTable, describe_failure, package_of, top_module
from compressor.base.errors import SrkdError
from compressor.training.method import TEACHER_NEEDS, Method, TeacherNeeds, declares

GROUP = "srkd.recipes"
"""The entry point group for methods and presets of other packages."""


@dataclass(frozen=True)
class MethodEntry:
    """A method as `module:Class`, imported on first use, and its largest teacher needs."""

    where: str
    needs: TeacherNeeds
    package: str = "srkd"
    """The distribution that provides it; the table sets this and the name."""
    name: str = ""
    loaded: type[Any] | None = None
    """The class itself, if no package provides it."""

    def __post_init__(self) -> None:
        if self.needs not in TEACHER_NEEDS:
            raise SrkdError(f"method {self.where}: needs={self.needs!r} is not one of {', '.join(TEACHER_NEEDS)}")
        if self.where.count(":") != 1 and self.loaded is None:
            raise SrkdError(f"method {self.where!r} does not have the form module:Class")

    def load(self) -> type[Any]:
        """Return the imported class. A failure of the module becomes one line that names its package."""
        if self.loaded is not None:
            return self.loaded
        module, _, name = self.where.partition(":")
        try:
            method: type[Any] = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            reason = describe_failure(error, top_module(module))
            raise SrkdError(f"the method {self.where} of {self.package} cannot be imported ({reason})") from error
        return method


BUILTIN: Mapping[str, MethodEntry] = {
    "scratch": MethodEntry("recipes.methods.scratch:Scratch", "nothing"),
    "inherit": MethodEntry("recipes.methods.scratch:Inherit", "network"),
    "logits": MethodEntry("recipes.methods.logits:Logits", "outputs"),
    "ds": MethodEntry("recipes.methods.ds:DeepSupervision", "nothing"),
    "clsd": MethodEntry("recipes.methods.clsd:Clsd", "nothing"),
    "hkdsr": MethodEntry("recipes.methods.hkdsr:Hkdsr", "network"),
    "fakd": MethodEntry("recipes.methods.fakd:FAKD", "network"),
    "lfd": MethodEntry("recipes.methods.lfd:LFD", "network"),
    "facd": MethodEntry("recipes.methods.facd:FACD", "network"),
    "csd": MethodEntry("recipes.methods.csd:Csd", "network"),
    "csd-lite": MethodEntry("recipes.methods.csd:CsdLite", "outputs"),
    "dckd": MethodEntry("recipes.methods.dckd:DCKD", "outputs"),
    "perceptual": MethodEntry("recipes.methods.perceptual:Perceptual", "outputs"),
    "dukd": MethodEntry("recipes.methods.dukd:DUKD", "outputs"),
    "calm": MethodEntry("recipes.methods.calm:Calm", "nothing"),
    "pams": MethodEntry("recipes.methods.pams:Pams", "network"),
    "pact": MethodEntry("recipes.methods.pact:Pact", "network"),
}
"""srkd's own methods."""

PIXEL_ONLY = frozenset({"scratch", "inherit"})
"""Methods whose only loss is L1 to the label: they differ in the student's start."""
FOR_FILMS, FOR_LOOKS = "calm", "perceptual"
"""The method that is added where images are frames of a film, and the one for teachers that are trained for looks."""


@dataclass(frozen=True)
class Contribution:
    """The contribution of another package: methods by name, and `presets`, a package with files `presets/NAME.yaml`.

    An entry point of the group `srkd.recipes` points at it.
    """

    methods: Mapping[str, MethodEntry] = field(default_factory=dict)
    presets: str | None = None


@dataclass(frozen=True)
class PresetFile:
    """A preset in `presets/NAME.yaml` inside the package `module`, and the distribution that provides it."""

    name: str
    package: str
    module: str

    def text(self) -> str:
        return (resources.files(self.module) / "presets" / f"{self.name}.yaml").read_text(encoding="utf-8")


def _read_contribution(point: metadata.EntryPoint) -> Contribution:
    contribution = point.load()
    if not isinstance(contribution, Contribution):
        raise TypeError(f"{point.value} is not a Contribution")
    return contribution


def _read_methods(point: metadata.EntryPoint) -> list[MethodEntry]:
    return _named_entries(_read_contribution(point).methods, package_of(point))


def _named_entries(methods: Mapping[str, MethodEntry], package: str) -> list[MethodEntry]:
    return [dataclasses.replace(entry, name=name, package=package) for name, entry in methods.items()]


def _read_presets(point: metadata.EntryPoint) -> list[PresetFile]:
    module = _read_contribution(point).presets
    return [] if module is None else _preset_files(package_of(point), module)


def _preset_files(package: str, module: str) -> list[PresetFile]:
    folder = resources.files(module) / "presets"
    if not folder.is_dir():
        raise SrkdError(f"{module} has no folder presets/")
    names = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
    return [PresetFile(name, package, module) for name in names]


METHODS = EntryPointTable("method", _named_entries(BUILTIN, "srkd"), GROUP, _read_methods)
RECIPES = EntryPointTable("recipe", _preset_files("srkd", "recipes"), GROUP, _read_presets)


def notes() -> tuple[str, ...]:
    """Return one line for each refused package, and for each refused name."""
    return tuple(dict.fromkeys((*METHODS.notes, *RECIPES.notes)))


def teacher_needs(method: Method) -> TeacherNeeds:
    """Return what the method needs of a teacher: what its options say, otherwise what its entry or its class says."""
    if method.teacher_needs is not None:
        return method.teacher_needs
    entry = METHODS.get(method.name)
    return needs_of_class(type(method)) if entry is None else entry.needs


def needs_of_class(method: type[Method]) -> TeacherNeeds:
    """Return the most that a method without an entry can need: its `teacher_needs`, if that does not depend on options.

    Without it: outputs, or the network for a method that declares pairs of features.
    """
    declared: object = method.teacher_needs
    if isinstance(declared, str):
        return cast(TeacherNeeds, declared)  # checked by MethodEntry
    is_open = declares(method, "teacher_needs") or declares(method, "feature_pairs")
    return "network" if is_open else "outputs"
