"""The base of all runtimes of super-resolution models, independent of the file format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from compressor.base.errors import SrkdError, UsageError, report_unreadable
from compressor.base.machine import total_memory
from compressor.models.networks.base import Descriptor, Spec


class Runtime(ABC):
    """An open model. A subclass sets the attributes and computes; shapes are checked here."""

    name: str
    """The runtime's name in `RUNTIMES`: "torch", "onnxruntime"."""
    label: str
    """The name of the model in tables: the stem of its file, unless it was opened under another name."""
    descriptor: Descriptor
    device: str = "cpu"
    """ "cpu", "cuda:0"."""
    precision: str = "fp32"
    """The number format of the arithmetic: "fp32", "bf16", "fp16"; "int8" for exported 8-bit files."""
    layout: str = "runtime"
    """The memory layout of features if srkd selects it ("channels_last"), else "runtime"."""
    emulated: bool = False
    """True if the precision is emulated in float32 with each result rounded: exact, but useless for timing."""
    metadata: Mapping[str, str] = {}
    """The `srkd.*` keys of the file; empty for a foreign one."""
    spec: Spec | None = None
    """The network's spec; None if the file does not hold it."""

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        """Return (N, C, h·scale, w·scale) for (N, C, h, w) in [0,1], in float32 on its device: unclamped, without
        grad, and computed when it is returned.
        """
        require_input(lr, self.descriptor, self.label)
        self._require_size(lr.shape[3], lr.shape[2])
        return require_enlarged(self._run(lr), lr, self.descriptor.scale, self.label)

    def _require_size(self, width: int, height: int) -> None:
        largest = self.descriptor.max_size
        if largest is not None and (width > largest[0] or height > largest[1]):
            raise UsageError(
                f"{self.label} takes images of at most {largest[0]}x{largest[1]}, got {width}x{height}: "
                "cut them into tiles"
            )

    @abstractmethod
    def _run(self, lr: torch.Tensor) -> torch.Tensor:
        """The enlarged (N, C, h, w) images in [0,1], on the device of `lr`."""


def require_input(lr: torch.Tensor, descriptor: Descriptor, label: str) -> None:
    """Refuse a tensor that does not fit the model, before a library does with its own message."""
    if lr.dim() != 4 or lr.shape[1] != descriptor.channels or not lr.is_floating_point() or not lr.numel():
        raise UsageError(
            f"{label} takes float images of shape (N, {descriptor.channels}, H, W), "
            f"got {lr.dtype} of shape {tuple(lr.shape)}"
        )
    size, fixed = (lr.shape[3], lr.shape[2]), descriptor.fixed_size
    if fixed is not None and size != fixed:
        raise UsageError(f"{label} takes images of {fixed[0]}x{fixed[1]} only, got {size[0]}x{size[1]}")


def require_enlarged(sr: torch.Tensor, lr: torch.Tensor, scale: int, label: str) -> torch.Tensor:
    """Return a model's output for `lr`; refuse one of another size, which cannot be trusted."""
    expected = (*lr.shape[:2], lr.shape[2] * scale, lr.shape[3] * scale)
    if tuple(sr.shape) != expected:
        given = f"{label} returned shape {tuple(sr.shape)} for {tuple(lr.shape)}"
        raise SrkdError(f"{given}: at scale {scale} {expected} is expected; is its scale really {scale}?")
    return sr


def require_memory_for(size: tuple[int, int], batch: int, descriptor: Descriptor, option: str) -> None:
    """Refuse images too large for this machine's memory, before a library tries; `size` is LR (width, height)."""
    values = batch * descriptor.channels * size[0] * size[1] * (1 + descriptor.scale**2)
    memory = total_memory()
    if 4 * values > memory:
        of_batch = f" in a batch of {batch}" if batch > 1 else ""
        raise UsageError(
            f"{option} {size[0]}x{size[1]}{of_batch} takes {4 * values / 1e9:.0f} GB for the images alone, and this "
            f"machine has {memory / 1e9:.0f} GB: name a smaller size"
        )


def find_scale(run: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, int, int, int], label: str) -> int:
    """The scale at which a model enlarges a smooth image of this shape; one line if its output is no such image."""
    batch, channels, height, width = shape
    sr = run(torch.linspace(0, 1, width).expand(shape).contiguous())
    scale = sr.shape[-1] // width if sr.dim() == 4 else 0
    if scale < 1 or tuple(sr.shape) != (batch, channels, height * scale, width * scale):
        raise SrkdError(f"{label} returned shape {tuple(sr.shape)} for {tuple(shape)}: not an enlarged image")
    return scale


def read_header(path: Path, length: int) -> bytes:
    """Return the first bytes of a file; one line if it is missing or cannot be read."""
    if not path.is_file():
        raise SrkdError(f"{path}: no such file")
    with report_unreadable(path), open(path, "rb") as file:
        return file.read(length)
