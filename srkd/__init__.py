"""The public API of srkd, which compresses image super-resolution networks. Importing it does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from compressor.base.errors import SrkdError

if TYPE_CHECKING:
    from compressor.training.method import PlainMethod
    from recipes.catalogue import Contribution, MethodEntry
    from srkd.api import build_student, cost, evaluate, export, inspect, load, profile, save, upscale
    from srkd.compression import compress, resume
    from srkd.curves import plot

__version__ = "0.1.0"

__all__ = [
    "Contribution",
    "MethodEntry",
    "PlainMethod",
    "SrkdError",
    "__version__",
    "build_student",
    "compress",
    "cost",
    "evaluate",
    "export",
    "inspect",
    "load",
    "plot",
    "profile",
    "resume",
    "save",
    "upscale",
]

_MODULES = dict.fromkeys(__all__, "srkd.api") | {
    "compress": "srkd.compression",
    "resume": "srkd.compression",
    "plot": "srkd.curves",
    "Contribution": "recipes.catalogue",
    "MethodEntry": "recipes.catalogue",
    "PlainMethod": "compressor.training.method",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'srkd' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
