"""What this installation can do, what each missing piece would add, and the command that brings it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from compressor.base.errors import MissingExtra
from compressor.base.machine import gpu, installed_version
from compressor.inference.open import RUNTIMES, RuntimeKind, absent
from compressor.runtimes.onnx_providers import PROVIDERS, providers_here
from demo.serving import NEEDS
from export.formats import FORMATS, Format

CORE = ("torch", "numpy", "pillow", "safetensors", "onnx", "onnxscript", "onnxruntime", "onnxsim", "pydantic", "click")

OTHERS: Mapping[str, tuple[tuple[str, ...], str, str]] = MappingProxyType(
    {
        "spandrel": (("spandrel",), "teachers of 42 more architectures, by their published files", "spandrel"),
        "demo": (NEEDS, "the server of `srkd demo` (`srkd demo --build` needs nothing more)", "demo"),
    }
)
"""Name → modules, what they add, the extra that brings them; for what is neither a format nor a runtime."""


@dataclass(frozen=True)
class Package:
    """A package that every installation has; `version` None: it is missing."""

    name: str
    version: str | None


@dataclass(frozen=True)
class Piece:
    """Something that can be there or not. `command` is what to type where it is not; `remark` a limit that stays."""

    name: str
    adds: str
    ready: bool
    missing: tuple[str, ...]
    command: str | None
    remark: str | None = None
    version: str | None = None
    """Of its first package that a plain installation has not, where that is installed."""


@dataclass(frozen=True)
class Diagnosis:
    core: tuple[Package, ...]
    gpu: Mapping[str, object] | None
    onnxruntime_devices: tuple[str, ...]
    formats: tuple[Piece, ...]
    runtimes: tuple[Piece, ...]
    others: tuple[Piece, ...]

    @property
    def ok(self) -> bool:
        """Whether all that a plain installation has is there."""
        return all(package.version is not None for package in self.core)


def diagnose() -> Diagnosis:
    """Look, without importing anything heavy that is optional."""
    return Diagnosis(
        core=tuple(Package(name, installed_version(name)) for name in CORE),
        gpu=gpu(),
        onnxruntime_devices=tuple(providers_here()),
        formats=tuple(_format(row) for row in FORMATS.values()),
        runtimes=tuple(_runtime(name, kind) for name, kind in RUNTIMES.items()),
        others=(
            *(_piece(name, adds, modules, extra) for name, (modules, adds, extra) in OTHERS.items()),
            *_providers(),
        ),
    )


def _format(row: Format) -> Piece:
    piece = _piece(row.name, f"--{row.name}: {row.told}", row.needs, row.extra)
    return _hindered(replace(piece, remark=row.not_run_here()), row.obstacle())


def _runtime(name: str, kind: RuntimeKind) -> Piece:
    return _hindered(_piece(name, f"runs {kind.takes}", kind.needs, kind.extra), kind.obstacle())


def _hindered(piece: Piece, obstacle: str | None) -> Piece:
    """A package is of no use without its device or system, and nothing that can be typed brings that."""
    return piece if obstacle is None else replace(piece, ready=False, command=None, remark=obstacle)


def _providers() -> list[Piece]:
    """Device words of ONNX Runtime: one of its builds has some of them."""
    here = providers_here()
    return [
        Piece(f"--device {device}", row.adds, device in here, (), None if device in here else row.command)
        for device, row in PROVIDERS.items()
    ]


def _piece(name: str, adds: str, modules: tuple[str, ...], extra: str | None) -> Piece:
    missing = absent(modules)
    command = None
    if missing:
        command = MissingExtra.command(extra) if extra else "pip install --force-reinstall srkd"
    own = next((module for module in modules if module not in CORE), None)
    version = installed_version(own) if own is not None and not missing else None
    return Piece(name, adds, not missing, missing, command, version=version)
