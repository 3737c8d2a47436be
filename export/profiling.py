"""`profile`: models against their teacher, under every runtime, at every size, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError
from compressor.images.metrics import Protocol, finite_or_none
from compressor.images.sets import ImageSet, embedded_pairs
from compressor.inference.evaluate import evaluate
from compressor.runtimes.base import Runtime
from compressor.runtimes.onnx_providers import torch_device_for
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.tensorrt_runtime import TensorRTRuntime
from export.contestants import Contestant, Settings, enter
from export.memory import peak_memory_mb
from export.timing import Comparison, OtherPrograms, Timing, compare, take_turns

NOTABLE_CORES = 0.25
MEMORY_METHOD = (
    "CPU: peak resident memory while running, less that before the model was opened, in a process of its own "
    "(weights, features, workspace); CUDA: peak of torch's allocator"
)


@dataclass(frozen=True)
class Latency:
    """Milliseconds a batch, ended by a synchronised output."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Row:
    """One model under one runtime at one size. Speed-ups are medians of paired ratios, above 1 is faster; those of
    `speedup_interval` belong to `speedup_same_runtime`, and `verdict` to it too. In the first call at this size some
    runtimes compile: it counts nowhere else."""

    model: str
    runtime: str
    device: str
    precision: str
    layout: str
    lr_size: str
    batch: int
    threads: int
    params: int | None
    macs: int | None
    latency_ms: Latency
    first_call_ms: float | None
    spread_percent: float
    rounds: int
    fps: float
    gmacs_per_second: float | None
    peak_memory_mb: float | None
    speedup_same_runtime: float | None
    speedup_interval: tuple[float, float] | None
    speedup_vs_teacher_eager: float | None
    verdict: str | None


@dataclass(frozen=True)
class Quality:
    """Mean Y-PSNR on the embedded validation photos; None where it is infinite."""

    model: str
    scale: int
    psnr_y: float | None
    over_bicubic: float | None


@dataclass(frozen=True)
class ProfileReport:
    teacher: str | None
    rows: tuple[Row, ...]
    quality: tuple[Quality, ...]
    protocol: str
    memory_method: str
    notes: tuple[str, ...]
    """What was left out, and why."""


def profile_models(
    models: Sequence[Path | str],
    *,
    teacher: Path | str | None = None,
    settings: Settings | None = None,
    progress: Progress = no_progress,
) -> ProfileReport:
    """Time models (checkpoints, run folders, exported files) against a teacher and each other.

    The teacher is always timed in torch too, because every row says how much faster it is than that. A checkpoint
    under another runtime is exported once to a temporary file, which is compared with the network like any export.
    """
    if not models:
        raise UsageError("nothing to profile: no model was given")
    how = settings or Settings()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="srkd-profile-")))
        threads = stack.enter_context(_torch_threads(how.threads))
        how = replace(how, threads=threads)
        entries, notes = enter(models, teacher, how, folder, progress)
        others = OtherPrograms()
        rows = [row for size in how.lr_sizes for row in _measure_size(entries, size, how, progress)]
        notes += _disturbance(others.busy_cores()) + _first_calls(rows) + _roundings(entries)
        if how.memory:
            rows, troubles = _with_memory(rows, entries, how, progress)
            notes += troubles
        quality = _quality(entries, progress) if how.quality else ()
    teacher_label = next((entry.label for entry in entries if entry.is_teacher), None)
    protocol = str(Protocol())
    return ProfileReport(teacher_label, tuple(rows), quality, protocol, MEMORY_METHOD, tuple(notes))


def _disturbance(busy_cores: float) -> list[str]:
    if busy_cores < NOTABLE_CORES:
        return []
    return [
        f"other programs kept {busy_cores:.1f} cores busy meanwhile: latencies are longer than on a quiet machine, "
        "the paired ratios suffer less"
    ]


def _first_calls(rows: Sequence[Row]) -> list[str]:
    """Of runtimes that compile when they are first called."""
    return [
        f"{row.model} under {row.runtime} at {row.lr_size}: the first call took {row.first_call_ms / 1000:.1f} s"
        for row in rows
        if row.first_call_ms is not None and row.first_call_ms > max(1000.0, 10 * row.latency_ms.p50)
    ]


def _roundings(entries: Sequence[Contestant]) -> list[str]:
    return [
        f"{entry.label}: {entry.runtime.precision} is computed in float32 here and rounded after each operation, "
        "so its time says nothing about hardware that has it"
        for entry in entries
        if isinstance(entry.runtime, OnnxRuntime) and entry.runtime.emulated
    ]


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[int]:
    """torch has one number for the whole process: it is put back afterwards."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _measure_size(entries: Sequence[Contestant], size: tuple[int, int], how: Settings, progress: Progress) -> list[Row]:
    width, height = size
    title = f"{width}x{height}"
    calls = [_call(entry.runtime, how.batch, size) for entry in entries]
    timings = take_turns(
        calls, seconds_each=how.seconds, progress=lambda what, done, total: progress(f"{what} {title}", done, total)
    )
    references = {
        entry.runtime.name: timing for entry, timing in zip(entries, timings, strict=True) if entry.is_teacher
    }
    return [_row(entry, timing, references, size, how) for entry, timing in zip(entries, timings, strict=True)]


def _call(runtime: Runtime, batch: int, size: tuple[int, int]) -> Callable[[], object]:
    """One batch that already lies on the device where the runtime wants it."""
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(batch, runtime.descriptor.channels, size[1], size[0], generator=generator)
    home = torch_device_for(runtime.device)
    bound = isinstance(runtime, (OnnxRuntime, TensorRTRuntime)) and torch.cuda.is_available()
    placed = lr.to(home) if bound or runtime.name.startswith("torch") else lr
    return lambda: runtime.run(placed)


def _row(
    entry: Contestant, timing: Timing, references: Mapping[str, Timing], size: tuple[int, int], how: Settings
) -> Row:
    runtime, cost = entry.runtime, entry.cost(size)
    same = _against(references.get(runtime.name), timing)
    eager = _against(references.get("torch"), timing)
    median = timing.percentile(50)
    return Row(
        model=entry.label,
        runtime=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
        layout=runtime.layout,
        lr_size=f"{size[0]}x{size[1]}",
        batch=how.batch,
        threads=how.threads or 1,
        params=None if cost is None else cost.params,
        macs=None if cost is None else cost.macs,
        latency_ms=Latency(median, timing.percentile(95), timing.percentile(99)),
        first_call_ms=timing.first_ms,
        spread_percent=timing.spread_percent,
        rounds=len(timing.rounds),
        fps=1000 * how.batch / median,
        gmacs_per_second=None if cost is None else cost.macs * how.batch / median / 1e6,
        peak_memory_mb=None,
        speedup_same_runtime=None if same is None else same.speedup,
        speedup_interval=None if same is None else (same.low, same.high),
        speedup_vs_teacher_eager=None if eager is None else eager.speedup,
        verdict="reference" if entry.is_teacher else None if same is None else same.verdict,
    )


def _against(reference: Timing | None, timing: Timing) -> Comparison | None:
    return None if reference is None else compare(reference, timing)


def _with_memory(
    rows: Sequence[Row], entries: Sequence[Contestant], how: Settings, progress: Progress
) -> tuple[list[Row], list[str]]:
    found: dict[tuple[str, str, str], float] = {}
    troubles = []
    for done, entry in enumerate(entries):
        progress("memory", done, len(entries))
        try:
            figures = peak_memory_mb(entry.memory_job(how))
        except SrkdError as error:
            troubles.append(f"{entry.label}, {entry.runtime.name}: {error}")
            continue
        for (width, height), megabytes in figures.items():
            found[entry.label, entry.runtime.name, f"{width}x{height}"] = megabytes
    progress("memory", len(entries), len(entries))
    return [replace(row, peak_memory_mb=found.get((row.model, row.runtime, row.lr_size))) for row in rows], troubles


def _quality(entries: Sequence[Contestant], progress: Progress) -> tuple[Quality, ...]:
    """Each model once, under the first of its runtimes; bicubic first, for each scale."""
    photos = (ImageSet("embedded photos", embedded_pairs("val")),)
    by_scale: dict[int, dict[str, Runtime]] = {}
    for entry in entries:
        by_scale.setdefault(entry.runtime.descriptor.scale, {}).setdefault(entry.label, entry.runtime)
    rows = []
    for scale, runtimes in by_scale.items():
        scores = evaluate(list(runtimes.values()), photos, scale=scale, progress=progress).models
        bicubic, *others = (sets["embedded photos"].psnr_y for sets in scores.values())
        rows.append(Quality("bicubic", scale, finite_or_none(bicubic), 0.0))
        for label, psnr in zip(runtimes, others, strict=True):
            rows.append(Quality(label, scale, finite_or_none(psnr), finite_or_none(psnr - bicubic)))
    return tuple(rows)
