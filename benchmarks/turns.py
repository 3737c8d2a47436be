"""Calls timed in turns, so that ratios hold although the machine is shared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from compressor.base.compute_device import ComputeDevice


def in_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each way and round, without the first round, which warms up."""
    place = ComputeDevice(device or torch.device("cpu"))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            place.synchronise()
            began = clock()
            way()
            place.synchronise()
            seconds[name].append(clock() - began)
    return {name: times[1:] for name, times in seconds.items()}
