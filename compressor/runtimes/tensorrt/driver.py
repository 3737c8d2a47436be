"""Whether there is an NVIDIA driver. It is looked for before any native call: without one TensorRT does not fail, it
crashes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from pathlib import Path

from compressor.base.errors import MissingExtra, SrkdError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
KERNEL_MODULE = Path("/proc/driver/nvidia/version")
BINDINGS = (("cuda.bindings", "tensorrt"), ("pycuda", "pycuda"))
"""Modules that reach CUDA, either is enough, and the extras that bring them."""


def driver_missing() -> str | None:
    """In one line, why nothing of NVIDIA can run here; None: there is a driver."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"no NVIDIA driver here: {LIBRARY} cannot be loaded"
    return None


def packages_missing() -> str | None:
    """In one line, which Python package is not installed, with the command; None: all are."""
    if _absent("tensorrt"):
        return str(MissingExtra("tensorrt", "tensorrt"))
    if all(_absent(module) for module, _ in BINDINGS):
        return str(MissingExtra("cuda-python (or pycuda: 'srkd[pycuda]')", "tensorrt"))
    return None


def trt_missing() -> str | None:
    """In one line, why TensorRT cannot be used on this machine; None: as far as can be told without it, it can."""
    return driver_missing() or packages_missing()


def require_trt() -> None:
    missing = trt_missing()
    if missing is not None:
        raise SrkdError(f"TensorRT cannot be used: {missing}")


def kernel_driver() -> str | None:
    """The driver's own version ("580.65.06"), where the system tells it; CUDA knows only its interface's."""
    try:
        told = KERNEL_MODULE.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", told)
    return found[0] if found else None


def _absent(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # the package around it is missing
        return True
