"""Number formats and memory layouts: native support by devices, and selection in torch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from compressor.base.choices import Layout, Precision


def computes_bf16(device: torch.device) -> bool:
    """Return True if the device multiplies bf16 natively; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def training_layout(device: torch.device, precision: Precision) -> Layout:
    """Return the memory layout in which networks train faster on this device.

    That is channels last, but for fp32 on x86 processors without AVX-512: there oneDNN takes up to four times as long
    for the gradients of wide layers' weights if channels are last.
    """
    if device.type == "cpu" and precision == "fp32":
        capabilities = torch.cpu.get_capabilities()
        if capabilities.get("architecture") == "x86_64" and not capabilities.get("avx512_f"):
            return "contiguous"
    return "channels_last"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def memory_format(layout: Layout) -> torch.memory_format:
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
