"""The report of `srkd profile`: models against their teacher, under every runtime, at every size, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.machine import has_integer_products, torch_threads
from compressor.images.metrics import Protocol, below_bicubic, finite_or_none
from compressor.images.sets import ImageSet, embedded_pairs
from compressor.inference.evaluate import EvaluationSettings, evaluate
from compressor.inference.numbers import numbers_of
from compressor.inference.open import SOURCE
from compressor.models.cost import COMPARED_SIZE
from compressor.models.quantised_file import read_quantised_file
from compressor.runtimes.base import Runtime, require_memory_for
from compressor.runtimes.file_runtime import FileRuntime
from compressor.runtimes.onnx_providers import torch_device_for
from compressor.runtimes.table import RUNTIMES
from export.profile.memory import peak_memory_mb
from export.profile.models import ProfiledModel, Settings, open_models
from export.profile.timing import OtherPrograms, Timing, compare, take_turns
from export.speed import Speed

NOTABLE_BUSY_CORES = 0.25
MEMORY_METHOD = (
    "CPU: peak resident memory while running, less that before the model was opened, in a process of its own "
    "(weights, features, workspace); CUDA: peak of torch's allocator"
)


@dataclass(frozen=True)
class Latency:
    """Milliseconds a batch, until its output is synchronised."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Row:
    """One model under one runtime at one size. Speed-ups are medians of paired ratios, above 1 is faster;
    `speedup_interval` and `verdict` belong to `speedup_same_runtime`. In the first call at this size some runtimes
    compile: it counts only for `first_call_ms`."""

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
    int8: EightBits | None = None
    """Of a row in eight bits."""

    @property
    def arithmetic(self) -> str:
        """The precision; of a file whose loss nobody bounded, with that word."""
        return "int8 unbounded" if self.int8 is not None and self.int8.bounded is False else self.precision


@dataclass(frozen=True)
class EightBits:
    """What is known of a row in eight bits: what its file says of itself, and what its runtime computes with integers.
    None is what they do not say."""

    bounded: bool | None
    """False: everything is in eight bits, whatever it loses, because the file was made to be timed."""
    flavour: str | None
    calibration: str | None
    in_float: str | None
    drop_db: float | None
    nodes: int | None
    nodes_in_int8: int | None
    nodes_in_float: Mapping[str, int] | None
    """By operator."""


@dataclass(frozen=True)
class ModelCost:
    """Parameters, and MACs at 256×256 LR pixels as in every table; None where a file does not show them."""

    model: str
    params: int | None
    macs: int | None


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
    costs: tuple[ModelCost, ...]
    quality: tuple[Quality, ...]
    protocol: str
    memory_method: str
    notes: tuple[str, ...]
    """The models that were left out, and whatever disturbed the measurement."""
    about_int8: tuple[str, ...] = ()
    """A line for each model in eight bits, and one for each that was timed beside itself in float."""


def profile_models(
    models: Sequence[Path | str],
    *,
    teacher: Path | str | None = None,
    settings: Settings | None = None,
    context: Context = QUIET,
) -> ProfileReport:
    """Time models (checkpoints, run folders, exported files) against a teacher and each other.

    The teacher is always timed in torch too, because every row says how much faster it is than that. A checkpoint
    under another runtime is exported once to a temporary file, which is compared with the network like any export.
    """
    if not models:
        raise UsageError("nothing to profile: no model was given")
    settings = settings or Settings()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="srkd-profile-")))
        threads = stack.enter_context(torch_threads(settings.threads))
        settings = replace(settings, threads=threads)
        opened, notes = open_models(models, teacher, settings, folder, context)
        for model in opened:
            for size in settings.lr_sizes:
                require_memory_for(size, settings.batch, model.runtime.descriptor, "--lr-size")
        others = OtherPrograms()
        rows: list[Row] = []
        about_int8 = [line for model in opened if (line := _about_int8(model)) is not None]
        for size in settings.lr_sizes:
            of_size, against_float = _measure_size(opened, size, settings, context)
            rows += of_size
            about_int8 += against_float
        notes += _note_disturbances(rows, opened, others.busy_cores())
        if settings.memory:
            rows, errors = _add_memory(rows, opened, settings, context)
            notes += errors
        quality = _measure_quality(opened, context) if settings.quality else ()
        notes += _note_below_bicubic(quality)
    teacher_label = next((model.label for model in opened if model.is_teacher), None)
    protocol = str(Protocol())
    costs = tuple({model.label: _compared_cost(model) for model in opened}.values())
    return ProfileReport(
        teacher_label, tuple(rows), costs, quality, protocol, MEMORY_METHOD, tuple(notes), tuple(about_int8)
    )


def _about_int8(model: ProfiledModel) -> str | None:
    """Return a line about a model in eight bits, or None for another."""
    if model.runtime.precision != "int8":
        return None
    unbounded = "all in eight bits to be timed, its loss is not bounded (srkd export bounds it)"
    parts = [numbers_of(model.runtime).line(), unbounded if model.unbounded else None, model.integer_nodes]
    return f"{model.label} under {model.runtime.name}: {'; '.join(str(part) for part in parts if part is not None)}"


def _eight_bits(model: ProfiledModel) -> EightBits | None:
    if model.runtime.precision != "int8":
        return None
    file, nodes = read_quantised_file(model.runtime.metadata), model.integer_nodes
    return EightBits(
        bounded=None if file is None else not model.unbounded,
        flavour=None if file is None else file.flavour,
        calibration=None if file is None else file.calibration,
        in_float=None if file is None else file.in_float,
        drop_db=None if file is None else file.drop_db,
        nodes=None if nodes is None else nodes.nodes,
        nodes_in_int8=None if nodes is None else nodes.nodes_in_int8,
        nodes_in_float=None if nodes is None else nodes.in_float,
    )


def _against_float(
    models: Sequence[ProfiledModel], timings: Sequence[Timing], size: tuple[int, int], settings: Settings
) -> list[str]:
    """Return a line for each model in eight bits that was timed beside itself in float, in the same runtime."""
    lines = []
    for model, timing in zip(models, timings, strict=True):
        source = model.runtime.metadata.get(SOURCE)
        for other, reference in zip(models, timings, strict=True):
            same = source is not None and other.runtime.metadata.get(SOURCE) == source
            in_float = other.runtime.precision == "fp32" and other.runtime.name == model.runtime.name
            if model.runtime.precision == "int8" and same and in_float:
                speed = Speed(
                    timing.percentile(50),
                    reference.percentile(50),
                    compare(reference, timing),
                    model.runtime.name,
                    size,
                    settings.threads or 1,
                    model.integer_nodes,
                    has_integer_products(),
                )
                lines.append(f"{model.label} beside {other.label}: {speed}")
    return lines


def _compared_cost(model: ProfiledModel) -> ModelCost:
    cost = model.cost(COMPARED_SIZE)
    return ModelCost(model.label, *((None, None) if cost is None else (cost.params, cost.macs)))


def _note_disturbances(rows: Sequence[Row], models: Sequence[ProfiledModel], busy_cores: float) -> list[str]:
    """Note other programs, runtimes that compile in their first call, and emulated precision."""
    notes = []
    if busy_cores >= NOTABLE_BUSY_CORES:
        notes.append(
            f"other programs kept {busy_cores:.1f} cores busy meanwhile: latencies are longer than on a quiet machine, "
            "the paired ratios suffer less"
        )
    notes += [
        f"{row.model} under {row.runtime} at {row.lr_size}: the first call took {row.first_call_ms / 1000:.1f} s"
        for row in rows
        if row.first_call_ms is not None and row.first_call_ms > max(1000.0, 10 * row.latency_ms.p50)
    ]
    return notes + [
        f"{model.label}: {model.runtime.precision} is computed in float32 here and rounded after each operation, "
        "so its time does not apply to hardware that has it"
        for model in models
        if isinstance(model.runtime, FileRuntime) and model.runtime.emulated
    ]


def _measure_size(
    models: Sequence[ProfiledModel], size: tuple[int, int], settings: Settings, context: Context
) -> tuple[list[Row], list[str]]:
    """Time all models at one size, in turns; the lines say how much faster eight bits are than float."""
    text = f"{size[0]}x{size[1]}"
    timings = take_turns(
        [_call(model.runtime, settings.batch, size) for model in models],
        seconds_each=settings.seconds,
        progress=lambda title, done, total: context.progress(f"{title} {text}", done, total),
    )
    references = {model.runtime.name: timing for model, timing in zip(models, timings, strict=True) if model.is_teacher}
    rows = [
        _build_row(model, timing, references, size, settings) for model, timing in zip(models, timings, strict=True)
    ]
    return rows, _against_float(models, timings, size, settings)


def _call(runtime: Runtime, batch: int, size: tuple[int, int]) -> Callable[[], object]:
    """Return a call that runs one batch, which is already on the device where the runtime reads it."""
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(batch, runtime.descriptor.channels, size[1], size[0], generator=generator)
    device = torch_device_for(runtime.device)
    in_place = RUNTIMES[runtime.name].reads_torch_memory
    if in_place and (not device.startswith("cuda") or torch.cuda.is_available()):
        lr = lr.to(device)
    return lambda: runtime.run(lr)


def _build_row(
    model: ProfiledModel,
    timing: Timing,
    references: Mapping[str, Timing],
    size: tuple[int, int],
    settings: Settings,
) -> Row:
    runtime, cost = model.runtime, model.cost(size)
    same, eager = (
        compare(references[name], timing) if name in references else None for name in (runtime.name, "torch")
    )
    median = timing.percentile(50)
    return Row(
        model=model.label,
        runtime=runtime.name,
        device=runtime.device,
        precision=runtime.precision,
        layout=runtime.layout,
        lr_size=f"{size[0]}x{size[1]}",
        batch=settings.batch,
        threads=settings.threads or 1,
        params=None if cost is None else cost.params,
        macs=None if cost is None else cost.macs,
        latency_ms=Latency(median, timing.percentile(95), timing.percentile(99)),
        first_call_ms=timing.first_ms,
        spread_percent=timing.spread_percent,
        rounds=len(timing.rounds),
        fps=1000 * settings.batch / median,
        gmacs_per_second=None if cost is None else cost.macs * settings.batch / median / 1e6,
        peak_memory_mb=None,
        speedup_same_runtime=None if same is None else same.speedup,
        speedup_interval=None if same is None else (same.low, same.high),
        speedup_vs_teacher_eager=None if eager is None else eager.speedup,
        verdict="reference" if model.is_teacher else None if same is None else same.verdict,
        int8=_eight_bits(model),
    )


def _add_memory(
    rows: Sequence[Row], models: Sequence[ProfiledModel], settings: Settings, context: Context
) -> tuple[list[Row], list[str]]:
    """Return the rows with their peak memory, and a line for each model where it could not be measured."""
    megabytes: dict[tuple[str, str, str], float] = {}
    errors = []
    for done, model in enumerate(models):
        context.progress("memory", done, len(models))
        try:
            figures = peak_memory_mb(model.memory_job(settings))
        except SrkdError as error:
            errors.append(f"{model.label}, {model.runtime.name}: {error}")
            continue
        for (width, height), figure in figures.items():
            megabytes[model.label, model.runtime.name, f"{width}x{height}"] = figure
    context.progress("memory", len(models), len(models))
    return [replace(row, peak_memory_mb=megabytes.get((row.model, row.runtime, row.lr_size))) for row in rows], errors


def _note_below_bicubic(quality: Sequence[Quality]) -> list[str]:
    """Note the models that a bicubic enlargement beats."""
    bicubic = {row.scale: row.psnr_y for row in quality if row.model == "bicubic"}
    scores = [(row.model, row.psnr_y, bicubic.get(row.scale)) for row in quality]
    lines = [below_bicubic(name, own, other) for name, own, other in scores if own is not None and other is not None]
    return [line for line in lines if line is not None]


def _measure_quality(models: Sequence[ProfiledModel], context: Context) -> tuple[Quality, ...]:
    """Score each model once, under the first of its runtimes; bicubic first, for each scale."""
    photos = (ImageSet("embedded photos", embedded_pairs("val")),)
    by_scale: dict[int, dict[str, Runtime]] = {}
    for model in models:
        by_scale.setdefault(model.runtime.descriptor.scale, {}).setdefault(model.label, model.runtime)
    rows = []
    for scale, runtimes in by_scale.items():
        scores = evaluate(list(runtimes.values()), photos, EvaluationSettings(scale), context.progress).models
        bicubic, *others = (sets["embedded photos"].psnr_y for sets in scores.values())
        rows.append(Quality("bicubic", scale, finite_or_none(bicubic), 0.0))
        for label, psnr in zip(runtimes, others, strict=True):
            rows.append(Quality(label, scale, finite_or_none(psnr), finite_or_none(psnr - bicubic)))
    return tuple(rows)
