"""Image and timer for calls of a model: by the wall clock or, on a device that has them, by its events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from compressor.base.compute_device import ComputeDevice
from compressor.images.sample import sample_photo
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import RUNTIMES, torch_device_for
from export.timing.turns import Call, time_calls

CallTimer = Callable[[Call, int], tuple[float, ...]]
"""Function that times a number of calls: `time_calls`, or the same with a device's own clock."""


def image_for(runtime: Runtime, width: int, height: int, batch: int = 1) -> torch.Tensor:
    """A batch of LR images of one fixed photo, already on the device from which the runtime reads it."""
    lr = sample_photo(width, height, channels=runtime.descriptor.channels, batch=batch)
    device = ComputeDevice.named(torch_device_for(runtime.device))
    return lr.to(device.device) if RUNTIMES[runtime.name].reads_torch_memory and device.is_here else lr


def timer_for(device: str) -> CallTimer:
    """The timer for calls that compute on this device."""
    place = ComputeDevice.named(torch_device_for(device))
    has_events = place.has_own_memory and place.is_here and hasattr(place.module, "Event")
    return (lambda call, count: time_by_events(call, count, place.module)) if has_events else time_calls


def time_by_events(call: Call, count: int, module: Any) -> tuple[float, ...]:
    """The milliseconds between device events before and after each call.

    The device is idle before the first event, so that no earlier call counts. `module` is torch's of the device.
    """
    if count > 1:
        call()
    module.synchronize()
    milliseconds = []
    for _ in range(count):
        start, end = (module.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        milliseconds.append(float(start.elapsed_time(end)))
    return tuple(milliseconds)
