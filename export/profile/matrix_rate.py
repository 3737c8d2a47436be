"""How fast a device multiplies: the rate that a network's multiply-accumulates are compared with.

A product of two square matrices and a 3x3 convolution of many channels are what libraries compute best; the faster of
the two is the rate. A convolution may be computed with fewer products than it is counted for (Winograd), so that a
network can exceed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.base.precision import synchronise
from compressor.runtimes.torch_runtime import PRECISIONS, tf32_off, torch_device

SECONDS = 0.3
"""Each of the two is repeated for so long; the fastest repetition counts, which other programs disturb least."""
SIDE, CHANNELS, IMAGE_SIDE = 512, 64, 64
"""A few milliseconds on a core, so that some repetitions pass without another program's turn."""
FEW_THREADS = 4
MANY_SIDE, MANY_CHANNELS, MANY_IMAGE_SIDE = 2048, 128, 128
"""For more threads than that."""
GPU_SIDE, GPU_CHANNELS, GPU_IMAGE_SIDE = 8192, 256, 256
"""For a GPU, which is full with larger ones only."""


@dataclass(frozen=True)
class MatrixRate:
    """Giga multiply-accumulates a second, on a device with a number of threads (of its CPU)."""

    device: str
    precision: str
    threads: int
    gmacs_per_second: float
    method: str


def matrix_rate(device: str, precision: str, *, seconds: float = SECONDS) -> MatrixRate | None:
    """Measure the rate; None where torch has no such product on the device."""
    place = torch_device(device)
    side, channels, image_side = SIDE, CHANNELS, IMAGE_SIDE
    if place.type != "cpu":
        side, channels, image_side = GPU_SIDE, GPU_CHANNELS, GPU_IMAGE_SIDE
    elif torch.get_num_threads() > FEW_THREADS:
        side, channels, image_side = MANY_SIDE, MANY_CHANNELS, MANY_IMAGE_SIDE
    candidates: dict[str, tuple[int, Callable[[], Tensor]]] = {}
    product = f"a product of two {side}x{side} matrices"
    if precision == "int8":
        a, b = (torch.randint(-128, 128, (side, side), dtype=torch.int8, device=place) for _ in range(2))
        candidates[product] = (side**3, lambda: torch._int_mm(a, b))  # pyright: ignore[reportPrivateImportUsage]
    elif precision in PRECISIONS:
        dtype = PRECISIONS[precision]
        x, y = (torch.rand(side, side, device=place, dtype=dtype) for _ in range(2))
        image = torch.rand(1, channels, image_side, image_side, device=place, dtype=dtype)
        weight = torch.rand(channels, channels, 3, 3, device=place, dtype=dtype)
        image, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (image, weight))
        convolution = f"a 3x3 convolution of {channels} channels at {image_side}x{image_side}"
        candidates[product] = (side**3, lambda: x @ y)
        candidates[convolution] = (
            9 * channels**2 * image_side**2,
            lambda: torch.nn.functional.conv2d(image, weight, padding=1),
        )
    rates: dict[str, float] = {}
    with torch.no_grad(), tf32_off():
        for name, (macs, call) in candidates.items():
            with suppress(RuntimeError, NotImplementedError):  # a kernel that this build of torch does not have
                rates[name] = macs / _fastest_seconds(call, place, seconds) / 1e9
    if not rates:
        return None
    best = max(rates, key=lambda name: rates[name])
    method = f"the faster of {' and '.join(rates)}: {best}" if len(rates) > 1 else best
    return MatrixRate(str(place), precision, torch.get_num_threads(), rates[best], f"torch, {method}")


def _fastest_seconds(call: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
    """Return the shortest of many calls; the first ones warm up."""
    fastest, started = float("inf"), time.perf_counter()
    count = 0
    while count < 3 or time.perf_counter() - started < seconds:
        synchronise(device)
        before = time.perf_counter()
        call()
        synchronise(device)
        if count:
            fastest = min(fastest, time.perf_counter() - before)
        count += 1
    return fastest
