"""Peak memory of a model, measured in a child process: in a shared one, earlier runs have left their heap.

On a CPU: the peak of resident memory while the model runs, minus resident memory after all libraries are loaded and
before the model is opened; so weights, features and the runtime's workspace. On CUDA: the peak of torch's allocator.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from compressor.base.child import run_in_child
from compressor.base.context import Progress
from compressor.base.errors import SrkdError
from compressor.base.machine import peak_resident_bytes
from compressor.inference.open import open_model
from compressor.runtimes.onnx_providers import torch_device_for
from compressor.runtimes.table import OpenOptions

TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class MemoryJob:
    """A model to open and run in the child process. `sizes` are (width, height), smallest first; `libraries` are
    imported before the first measurement."""

    path: str
    sizes: tuple[tuple[int, int], ...]
    options: OpenOptions = field(default_factory=OpenOptions)
    libraries: tuple[str, ...] = ()
    batch: int = 1


def peak_memory_mb(job: MemoryJob) -> dict[tuple[int, int], float]:
    """Return the megabytes for each size."""
    try:
        figures = run_in_child(
            "export.profile.memory:measure",
            asdict(job),
            what="measuring",
            timeout_seconds=TIMEOUT_SECONDS,
            environment={"OMP_NUM_THREADS": str(job.options.threads or 1)},
        )
    except SrkdError as error:
        raise SrkdError(f"the memory of {job.path} could not be measured: {error}") from error
    return dict(zip(job.sizes, figures, strict=True))


def measure(
    progress: Progress,
    *,
    path: str,
    sizes: Sequence[tuple[int, int]],
    options: Mapping[str, Any],
    libraries: Sequence[str],
    batch: int,
) -> list[float]:
    """In the child process: return the megabytes for each size."""
    for library in libraries:
        importlib.import_module(library)
    torch.set_num_threads(options["threads"] or 1)
    # The first convolution loads code that belongs to no model.
    torch.nn.functional.conv2d(torch.zeros(1, 8, 16, 16), torch.zeros(8, 8, 3, 3))
    before = psutil.Process().memory_info().rss
    runtime = open_model(path, OpenOptions(**options))
    on_cuda = runtime.device.startswith("cuda")
    if torch_device_for(runtime.device).startswith("cuda") and not runtime.name.startswith("torch"):
        raise SrkdError(f"{runtime.name} on {runtime.device} does not report its memory")
    figures = []
    for width, height in sizes:
        lr = torch.rand(batch, runtime.descriptor.channels, height, width)
        _reset_peak(on_cuda)
        for _ in range(2):
            runtime.run(lr)
        peak = torch.cuda.max_memory_allocated() if on_cuda else peak_resident_bytes() - before
        figures.append(max(peak, 0) / 1e6)
    return figures


def _reset_peak(on_cuda: bool) -> None:
    """Reset the peak, so that opening the model does not count, if the system allows it (Linux, proc(5))."""
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
