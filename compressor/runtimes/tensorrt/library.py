"""TensorRT's Python module, what it says while it works, and what of it differs between 10.x and 11.x."""

from __future__ import annotations

from typing import Any

from compressor.base.errors import MissingExtra, SrkdError

OLDEST = 10


def tensorrt() -> Any:
    """The module; one line where it is missing, too old, or cannot load its libraries."""
    try:
        import tensorrt as trt
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise SrkdError(f"TensorRT cannot be imported: {error}") from error
        raise MissingExtra("tensorrt", "tensorrt") from error
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SrkdError(f"TensorRT is installed but cannot load its libraries ({reason}): reinstall it") from error
    version = str(trt.__version__)
    if int(version.partition(".")[0]) < OLDEST:
        raise SrkdError(f"TensorRT {version} is too old, {OLDEST}.0 is the least: pip install -U 'srkd[tensorrt]'")
    return trt


def has_precision_flags(trt: Any) -> bool:
    """10.x: precision is a permission given to the builder. 11.x: it is what the network's own types say."""
    return hasattr(trt.BuilderFlag, "FP16")


class Said:
    """What TensorRT logged, for the one line of an error."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def reason(self) -> str:
        """The first error: those that follow are its consequences."""
        told = self.errors or self.warnings or ["TensorRT gave no reason"]
        return " ".join(told[0].split())[:300]


def logger(trt: Any, said: Said) -> Any:
    """A logger that keeps errors and warnings. Whoever holds it must outlive what was made with it."""
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity_of: Any, message: str) -> None:
            if severity_of in (severity.INTERNAL_ERROR, severity.ERROR):
                said.errors.append(message)
            elif severity_of == severity.WARNING:
                said.warnings.append(message)

    return Logger()
