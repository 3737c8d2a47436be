"""What a device of torch can do: torch's module of its kind is asked (torch.cuda, torch.mps, one of a backend)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from compressor.base.errors import UsageError


@dataclass(frozen=True)
class ComputeDevice:
    """A device that torch computes on."""

    device: torch.device

    @classmethod
    def named(cls, name: str) -> ComputeDevice:
        """Return the device of a name, which need not be here."""
        try:
            return cls(torch.device(name))
        except RuntimeError as error:
            raise UsageError(f"device {name!r} is not one torch knows: try cpu or cuda") from error

    @property
    def module(self) -> Any:
        return getattr(torch, self.device.type, None)

    @property
    def is_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def has_own_memory(self) -> bool:
        """Whether it computes in memory of its own, not in the host's."""
        return hasattr(self.module, "mem_get_info")

    @property
    def count(self) -> int:
        """How many of its kind torch sees here."""
        return int(self.module.device_count()) if hasattr(self.module, "device_count") else 0

    @property
    def is_here(self) -> bool:
        return (self.device.index or 0) < self.count

    @property
    def records_graphs(self) -> bool:
        """Whether torch.compile records its kernels once for all steps."""
        return self.device.type == "cuda"

    @property
    def computes_bf16(self) -> bool:
        """Whether it multiplies bf16 natively; emulated bf16 is slower than fp32."""
        if self.is_cpu:
            capabilities = cpu_capabilities()
            return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return self.device.type == "cuda" and bool(self.module.get_device_capability(self.device) >= (8, 0))

    def free_memory(self) -> int | None:
        """Return the free bytes of its own memory; None if it shares the host's."""
        return int(self.module.mem_get_info(self.device)[0]) if self.has_own_memory else None

    def peak_memory(self) -> int | None:
        """Return the most bytes of its own memory that were in use; None if it shares the host's."""
        return int(self.module.max_memory_allocated(self.device)) if self.has_own_memory else None

    def synchronise(self) -> None:
        """Wait until it has finished its work."""
        if not self.is_cpu:
            self.module.synchronize(*[self.device] if self.has_own_memory else [])

    def receive(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor on this device; from page-locked memory, so that the copy overlaps with computation."""
        if tensor.device == self.device:
            return tensor
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)  # torch.mps would read other memory late, when it may be freed


def cpu_capabilities() -> Mapping[str, Any]:
    """What the processor computes natively; torch before 2.11 does not say."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def free_unused_memory() -> None:
    """Give back what torch keeps of the accelerator's memory for later tensors."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        ComputeDevice(accelerator).module.empty_cache()
