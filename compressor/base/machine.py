"""Facts about the machine, reported with every figure measured on it; muting of native libraries."""

from __future__ import annotations

import io
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import metadata
from pathlib import Path

from compressor.base.errors import UsageError


def machine_facts() -> dict[str, object]:
    """Return the machine as JSON values: the `"machine"` of every JSON object.

    A command that has not imported torch has used neither its threads nor a GPU: both are None then, and torch is not
    imported to find them out.
    """
    import psutil

    torch = sys.modules.get("torch")
    return {
        "cpu": cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "usable_cores": usable_cores(),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": installed_version("torch") if torch is None else torch.__version__,
        "onnxruntime": installed_version("onnxruntime"),
        "gpu": None if torch is None else gpu_facts(),
    }


def cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


INTEGER_PRODUCTS = {"avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "amx_int8": "AMX", "asimddp": "dot products"}
"""Names of the instructions that add 8-bit products in 32 bits, by their flag in /proc/cpuinfo."""


def integer_products() -> tuple[str, ...]:
    """Return the names of the processor's instructions that add 8-bit products in 32 bits; older ones use 16 bits, and
    overflow.

    Every 64-bit Apple processor has dot products.
    """
    listing = Path("/proc/cpuinfo")
    if not listing.exists():
        return ("dot products",) if platform.machine().lower() in ("arm64", "aarch64") else ()
    words = set(listing.read_text(errors="replace").split())
    return tuple(name for word, name in INTEGER_PRODUCTS.items() if word in words)


def usable_cores() -> int | None:
    """Return the number of logical cores that this process may use: fewer than all in a container or under taskset."""
    import psutil

    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count(logical=True)


def require_threads(threads: int | None) -> None:
    """Refuse more threads than cores: 99 threads on two cores took minutes, and every measured time was wrong."""
    cores = usable_cores()
    if cores is not None and threads is not None and threads > cores:
        raise UsageError(
            f"threads={threads}: srkd may use {cores} cores here, and more threads than cores wait for each other: "
            f"give at most {cores}"
        )


def let_forks_compute() -> None:
    """Let torch compute in children that this process forks after it has computed itself, with one thread.

    OpenMP's threads do not exist in such a child; with more than one it waits for them for ever.
    """

    def use_one_thread() -> None:
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "set_num_threads"):  # an import may not have ended
            torch.set_num_threads(1)

    os.register_at_fork(after_in_child=use_one_thread)


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Set torch's number of threads, a process-wide setting, and restore it afterwards; None leaves it unchanged."""
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def available_memory(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the free memory in bytes: the machine's, or less if the container is limited (cgroup v2)."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = (control_group / "memory.max").read_text().strip()
        used = int((control_group / "memory.current").read_text())
        # Without the cache of files, which makes room.
        used -= int(dict(map(str.split, (control_group / "memory.stat").read_text().splitlines()))["inactive_file"])
    except OSError:
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - used))


def total_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def gpu_facts() -> dict[str, object] | None:
    """Return facts about the first accelerator that torch can use, or None."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return {
            "name": properties.name,
            "count": torch.cuda.device_count(),
            "memory_mb": round(properties.total_memory / 1e6),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return {"name": "Apple GPU (MPS)", "count": 1} if torch.backends.mps.is_available() else None


def count_threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, without importing it; None if it is missing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def peak_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # not ru_maxrss: on Linux a process inherits that of its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def native_silence() -> Iterator[None]:
    """Drop all output to standard error within the block, also of native code; errors still arrive as exceptions.

    In a notebook Python's stderr is another place than the file of native code.
    """
    sys.stderr.flush()
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)
