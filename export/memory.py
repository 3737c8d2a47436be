"""Peak memory of a model, measured in a process of its own: in a shared one, what ran before has left its heap.

On a CPU: the peak of resident memory while the model runs, minus resident memory after all libraries are loaded and
before the model is opened; so weights, features and the runtime's workspace. On CUDA: the peak of torch's allocator.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from compressor.base.errors import SrkdError
from compressor.base.machine import peak_resident_bytes
from compressor.inference.open import open_model
from compressor.runtimes.onnx_providers import torch_device_for
from compressor.runtimes.table import OpenOptions

LONGEST_SECONDS = 900


@dataclass(frozen=True)
class MemoryJob:
    """What the other process opens and runs. `sizes` are (width, height), smallest first; `libraries` are imported
    before the counting begins."""

    path: str
    sizes: tuple[tuple[int, int], ...]
    libraries: tuple[str, ...] = ()
    runtime: str | None = None
    batch: int = 1
    scale: int | None = None
    arch_options: Mapping[str, object] | None = None
    device: str = "cpu"
    precision: str | None = None
    threads: int = 1


def peak_memory_mb(job: MemoryJob) -> dict[tuple[int, int], float]:
    """Megabytes for each size."""
    root = Path(__file__).resolve().parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(job.threads)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "export.memory"],
            input=json.dumps(asdict(job)),
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SrkdError(f"measuring the memory of {job.path} took over {LONGEST_SECONDS} s") from error
    if done.returncode != 0:
        told = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise SrkdError(f"the memory of {job.path} could not be measured: {told[-1]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(job.sizes, figures, strict=True))


def _measure(job: MemoryJob) -> list[float]:
    """In the other process: megabytes for each size."""
    for library in job.libraries:
        importlib.import_module(library)
    torch.set_num_threads(job.threads)
    # The first convolution loads code that belongs to no model.
    torch.nn.functional.conv2d(torch.zeros(1, 8, 16, 16), torch.zeros(8, 8, 3, 3))
    before = psutil.Process().memory_info().rss
    runtime = open_model(
        job.path,
        OpenOptions(
            scale=job.scale,
            arch_options=job.arch_options,
            device=job.device,
            runtime=job.runtime,
            precision=job.precision,
            threads=job.threads,
        ),
    )
    on_cuda = runtime.device.startswith("cuda")
    if torch_device_for(runtime.device).startswith("cuda") and not runtime.name.startswith("torch"):
        raise SrkdError(f"{runtime.name} on {runtime.device} does not tell what it takes")
    figures = []
    for width, height in job.sizes:
        lr = torch.rand(job.batch, runtime.descriptor.channels, height, width)
        _forget_peak(on_cuda)
        for _ in range(2):
            runtime.run(lr)
        peak = torch.cuda.max_memory_allocated() if on_cuda else peak_resident_bytes() - before
        figures.append(max(peak, 0) / 1e6)
    return figures


def _forget_peak(on_cuda: bool) -> None:
    """Where the system lets us, opening the model does not count for the peak of running it (Linux, proc(5))."""
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _main() -> int:
    fields = json.load(sys.stdin)
    fields["sizes"] = tuple((width, height) for width, height in fields["sizes"])
    fields["libraries"] = tuple(fields["libraries"])
    try:
        figures = _measure(MemoryJob(**fields))
    except SrkdError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
