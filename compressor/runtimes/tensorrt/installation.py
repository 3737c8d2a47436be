"""TensorRT's installation on this machine: NVIDIA's driver, the Python package, and the library's messages.

The driver is checked before any native call: without one TensorRT does not fail, it crashes. Importing this module
imports neither torch nor TensorRT.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from compressor.base.errors import MissingExtra, SrkdError

DRIVER = "libcuda.so.1"
KERNEL_MODULE = Path("/proc/driver/nvidia/version")
OLDEST_MAJOR = 10


def driver_missing() -> str | None:
    """Return one line if there is no NVIDIA driver; None if there is."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return f"no NVIDIA driver here: {DRIVER} cannot be loaded"
    return None


def cuda_version() -> int:
    """The newest CUDA version that the driver supports: 13000 for 13.0."""
    version = ctypes.c_int()
    ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(version))
    return version.value


def driver_version() -> str:
    """The driver as in engine files: its CUDA version, and its own if it is known: 13.0 (580.65.06)."""
    number = cuda_version()
    version = f"{number // 1000}.{number % 1000 // 10}"
    try:
        text = KERNEL_MODULE.read_text(errors="replace")
    except OSError:
        return version
    match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return f"{version} ({match[0]})" if match else version


def import_tensorrt() -> Any:
    """Return the tensorrt module; one line if it is missing, too old, or cannot load its libraries."""
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise SrkdError(f"TensorRT cannot be imported: {error}") from error
        raise MissingExtra("tensorrt", "tensorrt") from error
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SrkdError(f"TensorRT is installed but cannot load its libraries ({reason}): reinstall it") from error
    trt: Any = tensorrt  # type checkers may confuse it with this folder
    version = str(trt.__version__)
    if int(version.partition(".")[0]) < OLDEST_MAJOR:
        raise SrkdError(
            f"TensorRT {version} is too old, {OLDEST_MAJOR}.0 is the oldest supported: pip install -U 'srkd[tensorrt]'"
        )
    return trt


def has_precision_flags(trt: Any) -> bool:
    """True if builder flags permit precisions (10.x), False if the network's own types decide (11.x)."""
    return hasattr(trt.BuilderFlag, "FP16")


class BuilderLog:
    """The errors and warnings logged by TensorRT, for the one line of an error.

    `logger` is the object for TensorRT; it must outlive everything created with it.
    """

    def __init__(self, trt: Any) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        severities = trt.ILogger.Severity
        log = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                    log.errors.append(message)
                elif severity == severities.WARNING:
                    log.warnings.append(message)

        self.logger: Any = Logger()

    def reason(self) -> str:
        """The first error, of which the later ones are consequences."""
        messages = self.errors or self.warnings or ["TensorRT gave no reason"]
        return " ".join(messages[0].split())[:300]
