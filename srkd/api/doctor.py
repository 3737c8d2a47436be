"""Diagnosis of an installation: what it can do, what each missing piece would add, and how to install it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compressor.base.errors import MissingExtra
from compressor.base.machine import gpu_facts, installed_version, integer_products
from compressor.inference.metric_table import METRICS
from compressor.models.networks.registry import NETWORKS
from compressor.runtimes.onnx_providers import GPU_COMMAND, has_cuda
from compressor.runtimes.table import RUNTIMES, missing_modules
from demo import SERVER_MODULES
from demo.files import app_command, is_app_built, is_app_outdated
from export.formats.table import FORMATS
from recipes.catalogue import notes
from srkd.terminal.package_names import name_collisions

CORE = ("torch", "numpy", "pillow", "safetensors", "onnx", "onnxscript", "onnxruntime", "onnxsim", "pydantic", "click")


@dataclass(frozen=True)
class Package:
    """A required package; `version` is None if it is missing."""

    name: str
    version: str | None


@dataclass(frozen=True)
class Piece:
    """An optional part. `command` installs it if it is missing; `remark` is a limit that no package removes."""

    name: str
    adds: str
    ready: bool
    missing: tuple[str, ...]
    command: str | None
    remark: str | None = None
    version: str | None = None
    """The version of the optional package, if it is installed."""


@dataclass(frozen=True)
class Int8Support:
    """Support for int8 here: the processor's instructions for products of bytes, and the runtimes of int8 files."""

    products: tuple[str, ...]
    runtimes: tuple[str, ...]
    """Installed runtimes of int8 files."""
    missing_runtimes: tuple[str, ...]
    """Runtimes for which srkd writes int8 files but that cannot run here."""

    def lines(self) -> tuple[str, str]:
        """A line about the processor, and one about the runtimes."""
        if self.products:
            pays = f"this processor multiplies bytes natively ({', '.join(self.products)}), so int8 pays here"
        else:
            pays = (
                "this processor has neither VNNI nor dot products, which multiply bytes natively: int8 files are "
                "smaller, and may be no faster than float here"
            )
        missing = f"; not here: {', '.join(self.missing_runtimes)}" if self.missing_runtimes else ""
        return f"int8: {pays}", f"int8 files run in: {', '.join(self.runtimes) or 'no runtime'}{missing}"


@dataclass(frozen=True)
class Diagnosis:
    core: tuple[Package, ...]
    gpu: Mapping[str, object] | None
    onnxruntime_devices: tuple[str, ...]
    int8: Int8Support
    formats: tuple[Piece, ...]
    runtimes: tuple[Piece, ...]
    others: tuple[Piece, ...]
    notes: tuple[str, ...]
    """A line for each installed package whose methods, networks, runtimes or formats cannot be used, or that uses a
    name of srkd's."""

    @property
    def missing_core(self) -> tuple[str, ...]:
        """The names of required packages that are missing."""
        return tuple(package.name for package in self.core if package.version is None)


def diagnose() -> Diagnosis:
    """The diagnosis of packages and devices. No large optional package is imported."""
    cuda = has_cuda()
    return Diagnosis(
        core=tuple(Package(name, installed_version(name)) for name in CORE),
        gpu=gpu_facts(),
        onnxruntime_devices=("cpu", "cuda") if cuda else ("cpu",),
        int8=_int8_support(),
        formats=tuple(
            _piece(
                row.name,
                f"--{row.name}: {row.description}",
                row.needs,
                row.extra,
                row.obstacle(),
                row.cannot_run_here(),
            )
            for row in FORMATS.values()
        ),
        runtimes=tuple(
            _piece(name, f"runs {row.files}", row.needs, row.extra, row.obstacle()) for name, row in RUNTIMES.items()
        ),
        others=(
            _piece(
                "spandrel", "teachers of 42 more architectures, by their published files", ("spandrel",), "spandrel"
            ),
            _piece("video", "films in `srkd upscale` and `--data`, and `--degrade h264`", ("av",), "video"),
            _piece("demo", "the server of `srkd demo` (`srkd demo --build` needs none)", SERVER_MODULES, "demo"),
            _demo_app(),
            _piece("tensorboard", "`tensorboard --logdir RUN`, curves of runs", ("tensorboard",), "tensorboard"),
            _piece("ray", "`--on ray`, runs and archives on a Ray cluster", ("ray",), "ray"),
            _piece("wandb", "`srkd compress --track wandb`, curves at Weights & Biases", ("wandb",), "wandb"),
            *(
                _piece(f"--metrics {row.name}", f"{row.title} in `srkd evaluate`", row.needs, row.extra, row.obstacle())
                for row in METRICS.values()
                if row.needs
            ),
            Piece("--device cuda", "ONNX files on an NVIDIA GPU", cuda, (), None if cuda else GPU_COMMAND),
        ),
        notes=tuple(dict.fromkeys((*name_collisions(), *notes(), *NETWORKS.notes, *RUNTIMES.notes, *FORMATS.notes))),
    )


def _int8_support() -> Int8Support:
    rows = [
        RUNTIMES[name] for name in dict.fromkeys(row.runtime for row in FORMATS.values() if row.precision == "int8")
    ]
    ready = {row.name: row.missing_requirement() is None for row in rows}
    return Int8Support(
        integer_products(),
        tuple(name for name, there in ready.items() if there),
        tuple(name for name, there in ready.items() if not there),
    )


def _demo_app() -> Piece:
    """The state of the app of `srkd demo`: whether it is built, and from its present sources."""
    is_built = is_app_built()
    outdated = is_built and is_app_outdated()
    return Piece(
        name="demo app",
        adds="the page that `srkd demo` shows and `srkd demo --build` writes",
        ready=is_built,
        missing=() if is_built else ("built app",),
        command=app_command() if outdated or not is_built else None,
        remark="it is older than its sources" if outdated else None,
    )


def _piece(
    name: str,
    adds: str,
    modules: tuple[str, ...],
    extra: str | None,
    obstacle: str | None = None,
    remark: str | None = None,
) -> Piece:
    """The piece that needs `modules`. No package removes an `obstacle` (no device, another system)."""
    missing = missing_modules(modules)
    optional = next((module for module in modules if module not in CORE), None)
    version = installed_version(optional) if optional is not None and not missing else None
    if obstacle is not None:
        return Piece(name, adds, False, missing, None, obstacle, version)
    command = MissingExtra.command(extra) if extra else "pip install --force-reinstall srkd"
    return Piece(name, adds, not missing, missing, command if missing else None, remark, version)
