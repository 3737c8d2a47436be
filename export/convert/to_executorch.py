"""ExecuTorch, for phones: a .pte file whose convolutions run in XNNPACK, float32, N,C,H,W in [0,1], one image per call.

The memory between XNNPACK's parts is planned for the largest image of a file and allocated when it is opened. So a file
for any size has a bound, which depends on the network's width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressor.base.machine import installed_version
from compressor.models.networks.base import Network
from export.formats.conversion import Conversion, example_size, refusals_of, require_size

PLANNED_BYTES = 256 * 1024**2
"""Largest planned memory of a file for any size, in bytes."""
SIDE_RANGE = (128, 512)
"""Range of the largest side in pixels of a file for any size."""


def convert(job: Conversion) -> Mapping[str, object]:
    """Write the program; return its facts. The runtime reads the file's hash and largest size from the sidecar."""
    require_size(job, "ExecuTorch")
    size = job.options.lr_size
    side = None if size is not None else max_side(job.network)
    with refusals_of("ExecuTorch", job.network):
        return write(job, lower(trace(job.network, size, side)), side)


def trace(network: Network, size: tuple[int, int] | None, side: int | None) -> Any:
    """The exported program of a network for one size (width, height), or for sides up to `side`."""
    if size is not None:
        return retrace(network.for_size(size[1], size[0]), network, size, side)
    return retrace(network, network, size, side)


def retrace(module: nn.Module, network: Network, size: tuple[int, int] | None, side: int | None) -> Any:
    """The exported program of a module for the images of a network."""
    with torch.no_grad():
        if size is not None:
            example = torch.zeros(1, network.descriptor.channels, size[1], size[0])
            return torch.export.export(module, (example,), strict=False)
        free = {axis: torch.export.Dim(name, min=1, max=side) for axis, name in ((2, "height"), (3, "width"))}
        return torch.export.export(module, (_example(network),), dynamic_shapes=(free,), strict=False)


def lower(program: Any) -> Any:
    """The lowered program; XNNPACK computes all parts that it supports."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])


def write(job: Conversion, lowered: Any, side: int | None) -> dict[str, object]:
    """Write a lowered program and return its facts."""
    with torch.no_grad():
        manager = lowered.to_executorch()
    content = bytes(manager.buffer)
    (plan,) = manager.executorch_program.execution_plan
    job.path.write_bytes(content)
    facts: dict[str, object] = {
        "executorch": installed_version("executorch"),
        "backend": "XNNPACK",
        "parts_in_xnnpack": len(plan.delegates),
        "other_operators": len(plan.operators),
        "planned_mb": round(sum(plan.non_const_buffer_sizes) / 1e6, 1),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return facts if side is None else {**facts, "max_size": f"{side}x{side}"}


def _example(network: Network) -> torch.Tensor:
    height, width = example_size(network)[::-1]
    return torch.zeros(1, network.descriptor.channels, height, width)


def max_side(network: Network) -> int:
    """The largest side at which two copies of the widest feature, as before and after a pixel shuffle, fit into
    the planned memory."""
    example = _example(network)
    widest = 0

    def measure(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal widest
        widest = max(widest, output.numel())

    handles = [module.register_forward_hook(measure) for module in network.modules() if isinstance(module, nn.Conv2d)]
    try:
        with torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    pixels = PLANNED_BYTES * example.shape[2] * example.shape[3] // (2 * 4 * max(1, widest))
    return min(max(math.isqrt(pixels) // 16 * 16, SIDE_RANGE[0]), SIDE_RANGE[1])
