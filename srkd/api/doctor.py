"""Diagnosis of an installation: what it can do, what each missing piece would add, and how to install it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from compressor.base.errors import MissingExtra
from compressor.base.machine import gpu_facts, installed_version, integer_products
from compressor.inference.metric_table import METRICS
from compressor.models.networks.registry import NETWORKS
from compressor.runtimes.onnx_providers import GPU_COMMAND, has_cuda
from compressor.runtimes.table import RUNTIMES, missing_modules
from demo import SERVER_MODULES
from demo.files import app_command, is_app_built
from export.formats.table import FORMATS
from recipes.catalogue import notes
from srkd.terminal.package_names import name_collisions

REQUIRED, OF_FORMATS, OF_RUNTIMES, OTHERS = (
    "required",
    "formats of srkd export",
    "runtimes of profile, evaluate and upscale",
    "others",
)
REINSTALL = "pip install --force-reinstall srkd"
CORE = (
    "torch", "numpy", "pillow", "safetensors", "click", "rich", "jinja2", "markupsafe", "matplotlib", "pydantic",
    "pydantic-core", "pyyaml", "onnx", "onnxscript", "onnxruntime", "onnxsim", "tensorboardX", "psutil", "filelock",
    "typing-extensions",
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A required package or an optional part. `command` installs it; `remark` is a limit that no package removes."""

    group: str
    name: str
    adds: str
    ready: bool
    missing: tuple[str, ...] = ()
    command: str | None = None
    remark: str | None = None
    version: str | None = None
    """The version of the package, if it is installed."""


@dataclass(frozen=True)
class Diagnosis:
    pieces: tuple[Piece, ...]
    gpu: Mapping[str, object] | None
    onnxruntime_devices: tuple[str, ...]
    int8: tuple[str, str]
    """A line on the processor's products of bytes, and one on the runtimes of int8 files."""
    notes: tuple[str, ...]
    """A line for each package whose methods, networks, runtimes or formats cannot be used, or that uses srkd's name."""

    def group(self, name: str) -> list[Piece]:
        return [piece for piece in self.pieces if piece.group == name]


def diagnose() -> Diagnosis:
    """The diagnosis of packages and devices. No large optional package is imported."""
    return Diagnosis(
        pieces=tuple(_pieces()),
        gpu=gpu_facts(),
        onnxruntime_devices=("cpu", "cuda") if has_cuda() else ("cpu",),
        int8=(_int8_of_processor(), _int8_runtimes()),
        notes=tuple(dict.fromkeys((*name_collisions(), *notes(), *NETWORKS.notes, *RUNTIMES.notes, *FORMATS.notes))),
    )


def _pieces() -> Iterator[Piece]:
    for name in CORE:
        version = installed_version(name)
        yield Piece(
            REQUIRED, name, "srkd itself", version is not None, version=version, command=None if version else REINSTALL
        )
    for form in FORMATS.values():
        yield _piece(
            OF_FORMATS,
            form.name,
            f"--{form.name}: {form.description}",
            form.needs,
            form.extra,
            form.obstacle(),
            form.cannot_run_here(),
        )
    for name, runtime in RUNTIMES.items():
        yield _piece(OF_RUNTIMES, name, f"runs {runtime.files}", runtime.needs, runtime.extra, runtime.obstacle())
    for name, adds, modules in (
        ("spandrel", "teachers of 42 more architectures, by their published files", ("spandrel",)),
        ("video", "films in `srkd upscale` and `--data`, and `--degrade h264`", ("av",)),
        ("heif", "HEIC pictures", ("pillow_heif",)),
        ("hub", "models of the Hugging Face hub: hf://OWNER/NAME, and `srkd export --push`", ("huggingface_hub",)),
        ("demo", "the server of `srkd demo` (`srkd demo --build` needs none)", SERVER_MODULES),
        ("tensorboard", "`tensorboard --logdir RUN`, curves of runs", ("tensorboard",)),
        ("ray", "`--on ray`, runs and archives on a Ray cluster", ("ray",)),
        ("wandb", "`srkd compress --track wandb`, curves at Weights & Biases", ("wandb",)),
    ):
        yield _piece(OTHERS, name, adds, modules, name)
    is_built = is_app_built()
    yield Piece(
        OTHERS,
        "demo app",
        "the page that `srkd demo` shows and `srkd demo --build` writes",
        is_built,
        missing=() if is_built else ("built app",),
        command=None if is_built else app_command(),
    )
    for metric in METRICS.values():
        if metric.needs:
            adds = f"{metric.title} in `srkd evaluate`"
            yield _piece(OTHERS, f"--metrics {metric.name}", adds, metric.needs, metric.extra, metric.obstacle())
    cuda = has_cuda()
    yield Piece(OTHERS, "--device cuda", "ONNX files on an NVIDIA GPU", cuda, command=None if cuda else GPU_COMMAND)


def _int8_of_processor() -> str:
    products = integer_products()
    if products:
        return f"this processor multiplies bytes natively ({', '.join(products)}), so int8 pays here"
    return (
        "this processor has neither VNNI nor dot products, which multiply bytes natively: int8 files are smaller, and "
        "may be no faster than float here"
    )


def _int8_runtimes() -> str:
    names = dict.fromkeys(row.runtime for row in FORMATS.values() if row.precision == "int8")
    ready = [name for name in names if RUNTIMES[name].missing_requirement() is None]
    missing = [name for name in names if name not in ready]
    others = f"; not here: {', '.join(missing)}" if missing else ""
    return f"int8 files run in: {', '.join(ready) or 'no runtime'}{others}"


def _piece(
    group: str,
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
        return Piece(group, name, adds, False, missing, None, obstacle, version)
    command = MissingExtra.command(extra) if extra else REINSTALL
    return Piece(group, name, adds, not missing, missing, command if missing else None, remark, version)
