"""Peak memory of a model, measured in a process of its own: a shared process holds the heap of other models.

On a CPU: the peak of resident memory while the model runs, minus resident memory after all libraries are loaded and
before the model is opened: weights, features and the runtime's workspace. On CUDA: the peak of torch's allocator.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

from compressor.base.compute_device import ComputeDevice
from compressor.base.errors import SrkdError
from compressor.base.machine import peak_resident_bytes
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import torch_device_for

MEMORY_METHOD = (
    "CPU: peak resident memory while running, less that before the model was opened, in a process of its own "
    "(weights, features, workspace); CUDA: peak of torch's allocator"
)


class PeakMemory:
    """Memory of the model that this process opens next. Sizes must be measured smallest first."""

    def __init__(self) -> None:
        # The first convolution loads code that must not count as the model's.
        torch.nn.functional.conv2d(torch.zeros(1, 8, 16, 16), torch.zeros(8, 8, 3, 3))
        self._before = psutil.Process().memory_info().rss

    def reset(self, runtime: Runtime) -> None:
        """Reset the peak, also that of opening the model, if the system allows it (Linux, proc(5))."""
        device = ComputeDevice.named(torch_device_for(runtime.device))
        if device.has_own_memory and device.is_here:
            device.module.reset_peak_memory_stats(device.device)
        elif os.access("/proc/self/clear_refs", os.W_OK):
            Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self, runtime: Runtime) -> float:
        """The peak since the reset, in MB."""
        device = ComputeDevice.named(torch_device_for(runtime.device))
        if device.has_own_memory and runtime.name.startswith("torch"):
            return (device.peak_memory() or 0) / 1e6
        if device.has_own_memory:
            raise SrkdError(f"{runtime.name} on {runtime.device} does not report its memory")
        return max(0, peak_resident_bytes() - self._before) / 1e6
