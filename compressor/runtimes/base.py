"""What can run a super-resolution model, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.base import Descriptor, Spec


class Runtime(Protocol):
    """A model that is open and ready: `run` takes and gives float32 NCHW in [0,1]."""

    @property
    def name(self) -> str:
        """Which runtime: "torch", "onnxruntime"."""
        ...

    @property
    def label(self) -> str:
        """How tables call the model: the file's stem, or a given name."""
        ...

    @property
    def device(self) -> str:
        """ "cpu", "cuda:0"."""
        ...

    @property
    def precision(self) -> str:
        """What the arithmetic is done in: "fp32", "bf16", "fp16", "int8"."""
        ...

    @property
    def layout(self) -> str:
        """How features lie in memory where that is ours to choose ("channels_last"), else "runtime"."""
        ...

    @property
    def descriptor(self) -> Descriptor: ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The `srkd.*` keys of the file; empty for a foreign one."""
        ...

    @property
    def spec(self) -> Spec | None:
        """The network's spec; None where the file does not say."""
        ...

    def run(self, lr: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) → (N, C, h·scale, w·scale) on the device of `lr`: unclamped, synchronised, without grad."""
        ...


def require_input(lr: torch.Tensor, descriptor: Descriptor, label: str) -> None:
    """Refuse a tensor that the model was not made for, before a library says so in its own words."""
    if lr.dim() != 4 or lr.shape[1] != descriptor.channels or not lr.is_floating_point() or not lr.numel():
        raise UsageError(
            f"{label} takes float images of shape (N, {descriptor.channels}, H, W), "
            f"got {lr.dtype} of shape {tuple(lr.shape)}"
        )
    size, fixed = (lr.shape[3], lr.shape[2]), descriptor.fixed_size
    if fixed is not None and size != fixed:
        raise UsageError(f"{label} takes images of {fixed[0]}x{fixed[1]} only, got {size[0]}x{size[1]}")


def require_output(lr: torch.Tensor, sr: torch.Tensor, descriptor: Descriptor, label: str) -> None:
    """A model that enlarges by something else than its stated scale is not to be trusted with anything."""
    wanted = (lr.shape[0], descriptor.channels, lr.shape[2] * descriptor.scale, lr.shape[3] * descriptor.scale)
    if tuple(sr.shape) != wanted:
        raise SrkdError(
            f"{label} gave shape {tuple(sr.shape)} for {tuple(lr.shape)}: at scale {descriptor.scale} it is {wanted}"
        )
