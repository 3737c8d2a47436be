"""The multiply rate of a device, with which a network's multiply-accumulates are compared.

Libraries are most efficient at a product of two square matrices and a 3x3 convolution of many channels; the faster of
the two is the rate. A network can exceed it, as a convolution may need fewer products than are counted (Winograd).
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
"""Time for which each of the two is repeated; the fastest repetition counts, as other programs disturb it least."""
SIDE, CHANNELS, IMAGE_SIDE = 512, 64, 64
"""Sizes that take a few milliseconds on a core, so that some repetitions run undisturbed."""
FEW_THREADS = 4
MANY_SIDE, MANY_CHANNELS, MANY_IMAGE_SIDE = 2048, 128, 128
"""Sizes for more than FEW_THREADS threads."""
GPU_SIDE, GPU_CHANNELS, GPU_IMAGE_SIDE = 8192, 256, 256
"""Sizes for a GPU, which smaller ones do not fill."""


@dataclass(frozen=True)
class MatrixRate:
    """Giga multiply-accumulates per second of a device; `threads` are those of the CPU."""

    device: str
    precision: str
    threads: int
    gmacs_per_second: float
    method: str


def matrix_rate(device: str, precision: str, *, seconds: float = SECONDS) -> MatrixRate | None:
    """Measure the rate; return None if torch has no such product on the device."""
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
    """The shortest time of many calls in seconds; the first call warms up and does not count."""
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
