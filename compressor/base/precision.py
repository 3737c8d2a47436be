"""Number formats and memory layouts, as torch selects them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from compressor.base.choices import Layout, Precision
from compressor.base.compute_device import cpu_capabilities


def training_layout(device: torch.device, precision: Precision) -> Layout:
    """Return the memory layout in which networks train faster on this device.

    That is channels last, but for fp32 on x86 processors without AVX-512: there oneDNN takes up to four times as long
    for the gradients of wide layers' weights if channels are last.
    """
    if device.type == "cpu" and precision == "fp32":
        capabilities = cpu_capabilities()
        if capabilities.get("architecture") == "x86_64" and not capabilities.get("avx512_f"):
            return "contiguous"
    return "channels_last"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def memory_format(layout: Layout) -> torch.memory_format:
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format
