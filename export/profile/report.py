"""The report of `srkd profile`: models timed in turns against their teacher, under every runtime, at every size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor.base.choices import Goal
from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.machine import available_memory, integer_products, torch_threads
from compressor.images.protocol import Protocol
from compressor.images.scores import ALL_IMAGES, Scores, below_bicubic, goal_of, without_network
from compressor.images.sets import embedded_pairs, line_about_inputs
from compressor.inference.open import SOURCE
from compressor.models.networks.base import Descriptor
from compressor.models.networks.image_cost import COMPARED_SIZE
from compressor.models.quantisation.file_facts import read_quantised_file
from compressor.runtimes.table import RUNTIMES
from export.profile.conditions import Conditions, observe
from export.profile.measured import FirstCall, PhotoScores
from export.profile.memory import MEMORY_METHOD
from export.profile.models import ProfiledModel, open_models
from export.profile.process import Workload
from export.profile.settings import ProfileSettings
from export.proof.speed import Int8Speed
from export.timing.turns import CallTimes, SpeedUp, compare, measure_turns

WIDE_SPREAD_PERCENT = 20.0
"""Spread of the middle half of the calls, in percent of the median, above which a note warns."""

MEMORY_SHARE = 0.8
"""Models keep freed memory if the sum of their peaks is at most this share of the free memory."""


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of a batch in milliseconds, up to its synchronised output."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class ProfileRow:
    """One model under one runtime in one precision at one size and batch. Speed-ups are medians of paired ratios, above
    1 is faster; `speedup_interval` and `verdict` belong to `speedup_same_runtime`. Some runtimes compile in the first
    call at a size: it counts only for `first_call_ms`. Calls of the warm-up do not count."""

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
    first_call_ms: float
    warm_up_calls: int
    is_steady: bool
    """False if the calls were still getting faster when the warm-up ended."""
    spread_percent: float
    rounds: int
    fps: float
    megapixels_per_second: float
    gmacs_per_second: float | None
    peak_memory_mb: float | None
    speedup_same_runtime: float | None
    speedup_interval: tuple[float, float] | None
    speedup_vs_teacher_eager: float | None
    verdict: str | None
    int8: Int8Facts | None = None
    """Facts of an int8 file; None for other rows."""

    @property
    def arithmetic(self) -> str:
        """The precision, as "int8 unbounded" for an int8 file without a bound on its loss."""
        return "int8 unbounded" if self.int8 is not None and self.int8.bounded is False else self.precision


@dataclass(frozen=True)
class LostRow:
    """A row that could not be measured, with its reason."""

    model: str
    runtime: str
    precision: str
    lr_size: str
    batch: int
    reason: str


@dataclass(frozen=True)
class Int8Facts:
    """Facts of an int8 row: those in its file, and how many nodes its runtime computes with integers. None: unknown."""

    bounded: bool | None
    """False if everything is in int8, whatever the loss, because the file was made only to be timed."""
    flavour: str | None
    calibration: str | None
    in_float: str | None
    drop_db: float | None
    nodes: int | None
    nodes_in_int8: int | None
    nodes_in_float: Mapping[str, int] | None


@dataclass(frozen=True)
class ModelCost:
    """Parameters, and MACs at 256×256 LR pixels as in every table; None if a file does not show them."""

    model: str
    params: int | None
    macs: int | None


@dataclass(frozen=True)
class QualityRow:
    """Mean Y-PSNR in dB of a model in a precision on the embedded validation photos, under the first runtime that has
    it. In int8 each runtime's file has its own row, as the files differ."""

    model: str
    scale: int
    psnr_y: float | None
    """To the originals."""
    over_bicubic: float | None
    """By the goal of the profile."""
    runtime: str | None = None
    """Name of the runtime; None for bicubic, at scale 1 the input."""
    precision: str | None = None
    psnr_y_teacher: float | None = None
    """To the teacher's images; None for the teacher itself, and without one."""

    @property
    def scores(self) -> Scores:
        return Scores(psnr_y=self.psnr_y, psnr_y_teacher=self.psnr_y_teacher)


@dataclass(frozen=True)
class ProfileReport:
    """The result of `profile`: measured rows, cost and quality of the models, and the conditions of the measurement."""

    teacher: str | None
    rows: tuple[ProfileRow, ...]
    costs: tuple[ModelCost, ...]
    quality: tuple[QualityRow, ...]
    protocol: str
    memory_method: str
    notes: tuple[str, ...]
    """Lines about models that were left out and about disturbances of the measurement."""
    about_int8: tuple[str, ...] = ()
    """A line for each int8 model, and one for each that was also timed in float."""
    lost: tuple[LostRow, ...] = ()
    conditions: tuple[Conditions, ...] = ()
    goal: Goal = "original"
    """What the quality is judged by."""

    def quality_of(self, row: ProfileRow) -> QualityRow | None:
        """The quality of a row: for int8 that of its own file, otherwise that of its model in its precision."""
        own = [item for item in self.quality if (item.model, item.precision) == (row.model, row.precision)]
        if row.precision == "int8":
            own = [item for item in own if item.runtime == row.runtime]
        return own[0] if own else None


def profile_models(
    models: Sequence[Path | str],
    *,
    teacher: Path | str | None = None,
    settings: ProfileSettings | None = None,
    context: Context = QUIET,
) -> ProfileReport:
    """Time models (checkpoints, run folders, exported files) against a teacher and each other.

    The teacher is always timed in torch too, because every row states its speed-up over that. For another runtime a
    checkpoint is exported once to a temporary file, which is compared with the network like any export.
    Each row has a process of its own, and all take turns: if one crashes or runs out of memory, only its row is lost.
    """
    if not models:
        raise UsageError("nothing to profile: no model was given")
    settings = settings or ProfileSettings()
    with torch_threads(settings.threads) as threads:
        settings = replace(settings, threads=threads)
        with open_models(models, teacher, settings, context) as (opened, notes):
            for model in opened:
                settings.require_memory(Descriptor(model.facts.scale, model.facts.channels))
            return _Measurement(opened, settings, context, notes).report()


Timings = Mapping[ProfiledModel, CallTimes]


@dataclass
class _Measurement:
    """The measurement of open models, in the order of `report`."""

    models: Sequence[ProfiledModel]
    settings: ProfileSettings
    context: Context
    notes: list[str]
    first: dict[tuple[ProfiledModel, Workload], FirstCall] = field(default_factory=dict)
    lost: list[LostRow] = field(default_factory=list)

    def report(self) -> ProfileReport:
        self.prepare()
        about_int8 = [line for model in self.models if (line := _about_int8(model)) is not None]
        conditions_meanwhile = observe()
        timings = {workload: self.take_turns(workload) for workload in self.settings.workloads}
        conditions = conditions_meanwhile(self.distributions())
        rows = []
        for workload, of_workload in timings.items():
            rows += [self.row(model, workload, of_workload) for model in of_workload]
            about_int8 += self.beside_float(workload, of_workload)
        if not rows:
            reasons = dict.fromkeys(f"{row.model} under {row.runtime}: {row.reason}" for row in self.lost)
            raise SrkdError(f"nothing could be profiled: {'; '.join(reasons)}")
        self.note_disturbances(rows, conditions)
        quality, goal = self.measure_quality() if self.settings.quality else ((), self.goal_of(None))
        if goal == "original":
            self.notes += _note_below_bicubic(quality, {model.label: model.facts.metadata for model in self.models})
        self.notes += filter(None, (line_about_inputs(embedded_pairs("val"), row.scale) for row in quality))
        return ProfileReport(
            teacher=next((model.label for model in self.models if model.is_teacher), None),
            rows=tuple(rows),
            costs=tuple({model.label: _compared_cost(model) for model in self.models}.values()),
            quality=quality,
            protocol=str(Protocol()),
            memory_method=MEMORY_METHOD,
            notes=tuple(dict.fromkeys(self.notes)),
            about_int8=tuple(about_int8),
            lost=tuple(self.lost),
            conditions=(conditions,),
            goal=goal,
        )

    def goal_of(self, teacher: PhotoScores | None) -> Goal:
        """What the models are judged by: auto asks whether the teacher is nearer to the originals than bicubic."""
        if self.settings.goal != "auto":
            return self.settings.goal
        if teacher is None or teacher.own.psnr_y is None or teacher.bicubic.psnr_y is None:
            return "original"
        return "original" if teacher.own.psnr_y > teacher.bicubic.psnr_y else "teacher"

    def lose(self, model: ProfiledModel, workload: Workload, error: SrkdError) -> None:
        """Record a row that cannot be measured."""
        width, height, batch = workload
        facts = model.facts
        self.lost.append(LostRow(model.label, facts.runtime, facts.precision, f"{width}x{height}", batch, str(error)))

    def prepare(self) -> None:
        """Run every workload once, small ones first, because memory must be measured in this order."""
        workloads = sorted(self.settings.workloads, key=math.prod)
        for model, workload in self.context.each("first calls", list(product(self.models, workloads))):
            try:
                first = model.process.prepare(workload, memory=self.settings.memory)
            except SrkdError as error:
                self.lose(model, workload, error)
                continue
            self.first[model, workload] = first
            if first.memory_missing is not None:
                self.notes.append(f"{model.name}: {first.memory_missing}")
        peaks = dict.fromkeys(self.models, 0.0)
        for (model, _), first in self.first.items():
            peaks[model] = max(peaks[model], first.memory_mb or 0.0)
        if sum(peaks.values()) * 1e6 <= MEMORY_SHARE * available_memory():
            for model in self.models:
                try:
                    model.process.keep_memory()
                except SrkdError as error:
                    self.notes.append(f"{model.name}: {error}")

    def take_turns(self, workload: Workload) -> Timings:
        width, height, batch = workload
        text = f"{width}x{height}" + (f" batch {batch}" if batch > 1 else "")
        present = [model for model in self.models if (model, workload) in self.first]
        timings = measure_turns(
            [partial(model.process.turn, workload) for model in present],
            seconds_each=self.settings.seconds,
            progress=lambda title, done, total: self.context.progress(f"{title} {text}", done, total),
            lost=lambda index, error: self.lose(present[index], workload, error),
        )
        return {model: timing for model, timing in zip(present, timings, strict=True) if timing is not None}

    def row(self, model: ProfiledModel, workload: Workload, timings: Timings) -> ProfileRow:
        width, height, batch = workload
        facts, cost = model.facts, model.cost((width, height))
        timing, first = timings[model], self.first[model, workload]
        same = _speed_up(timings, facts.runtime, facts.precision, timing)
        eager = _speed_up(timings, "torch", "fp32", timing)
        median = timing.percentile(50)
        return ProfileRow(
            model=model.label,
            runtime=facts.runtime,
            device=facts.device,
            precision=facts.precision,
            layout=facts.layout,
            lr_size=f"{width}x{height}",
            batch=batch,
            threads=self.settings.threads or 1,
            params=None if cost is None else cost.params,
            macs=None if cost is None else cost.macs,
            latency_ms=Latency(median, timing.percentile(95), timing.percentile(99)),
            first_call_ms=first.first_ms,
            warm_up_calls=timing.warm_up_calls,
            is_steady=timing.is_steady,
            spread_percent=timing.spread_percent,
            rounds=len(timing.rounds),
            fps=1000 * batch / median,
            megapixels_per_second=batch * width * height * facts.scale**2 / median / 1000,
            gmacs_per_second=None if cost is None else cost.macs * batch / median / 1e6,
            peak_memory_mb=first.memory_mb,
            speedup_same_runtime=None if same is None else same.speedup,
            speedup_interval=None if same is None else (same.low, same.high),
            speedup_vs_teacher_eager=None if eager is None else eager.speedup,
            verdict="reference" if model.is_teacher else None if same is None else same.verdict,
            int8=_int8_facts(model),
        )

    def beside_float(self, workload: Workload, timings: Timings) -> Iterator[str]:
        """A line for each int8 model that was also timed in float in the same runtime."""
        width, height, _ = workload
        for model, other in product(timings, repeat=2):
            source = model.facts.metadata.get(SOURCE)
            is_same = source is not None and other.facts.metadata.get(SOURCE) == source
            in_float = other.facts.precision == "fp32" and other.facts.runtime == model.facts.runtime
            if model.facts.precision == "int8" and is_same and in_float:
                speed = Int8Speed(
                    timings[model].percentile(50),
                    timings[other].percentile(50),
                    compare(timings[other], timings[model]),
                    model.facts.runtime,
                    (width, height),
                    self.settings.threads or 1,
                    model.facts.integer_nodes,
                    bool(integer_products()),
                )
                yield f"{model.label} beside {other.label}: {speed}"

    def measure_quality(self) -> tuple[tuple[QualityRow, ...], Goal]:
        """Score the teacher, then each model once per precision and each int8 file; for each scale bicubic comes first.
        Also return what the models are judged by.
        """
        chosen: dict[tuple[str, ...], ProfiledModel] = {}
        for model in sorted(self.models, key=lambda model: not model.is_teacher):
            own_file = (model.facts.runtime,) if model.facts.precision == "int8" else ()
            chosen.setdefault((model.label, model.facts.precision, *own_file), model)
        scored: list[tuple[ProfiledModel, PhotoScores]] = []
        with TemporaryDirectory(prefix="srkd-profile-") as folder:
            for model in self.context.each("quality", chosen.values()):
                is_reference = model.is_teacher and not any(other.is_teacher for other, _ in scored)
                try:
                    scored.append((model, model.process.quality(folder, is_teacher=is_reference)))
                except SrkdError as error:
                    self.notes.append(f"{model.name}: {error}")
        goal = self.goal_of(next((scores for model, scores in scored if model.is_teacher), None))
        # The last bicubic of a scale: the teacher's own row has no image of the teacher to compare it with.
        bicubics = {model.facts.scale: scores.bicubic for model, scores in scored}
        rows: list[QualityRow] = []
        for scale, bicubic in bicubics.items():
            name, base = without_network(scale), bicubic.by(goal)
            rows.append(QualityRow(name, scale, bicubic.psnr_y, 0.0, psnr_y_teacher=bicubic.psnr_y_teacher))
            for model, scores in scored:
                facts, own, judged = model.facts, scores.own, scores.own.by(goal)
                if facts.scale == scale:
                    over = None if judged is None or base is None else judged - base
                    of_file = facts.runtime, facts.precision
                    rows.append(QualityRow(model.label, scale, own.psnr_y, over, *of_file, own.psnr_y_teacher))
        return tuple(rows), goal

    def distributions(self) -> tuple[str, ...]:
        """The distribution names of torch, ONNX Runtime and the packages that these models' runtimes need."""
        needs = (RUNTIMES[model.facts.runtime].needs for model in self.models)
        names = ["torch", "onnxruntime", *(name.replace("_", "-") for group in needs for name in group)]
        return tuple(dict.fromkeys(names))

    def note_disturbances(self, rows: Sequence[ProfileRow], conditions: Conditions) -> None:
        """Note other programs, spread, runtimes that compile in their first call, and emulated precision."""
        self.notes += conditions.warnings
        for row in rows:
            name = f"{row.model} under {row.runtime} at {row.lr_size}"
            steady = f"{name} in {row.precision}"
            if row.first_call_ms > max(1000.0, 10 * row.latency_ms.p50):
                self.notes.append(f"{name}: the first call took {row.first_call_ms / 1000:.1f} s")
            if not row.is_steady:
                self.notes.append(
                    f"{steady}: its calls were still getting faster after {row.warm_up_calls}, when the warm-up ended: "
                    "measure for longer (--seconds)"
                )
        wide = [row for row in rows if row.spread_percent > WIDE_SPREAD_PERCENT]
        if wide:
            worst = max(wide, key=lambda row: row.spread_percent)
            self.notes.append(
                f"the times of {len(wide)} of {len(rows)} rows spread widely, most of all those of {worst.model} under "
                f"{worst.runtime} in {worst.precision} at {worst.lr_size}, whose middle half takes "
                f"{worst.spread_percent:.0f} % of the median: measure for longer (--seconds), on a quieter machine"
            )
        self.notes += [
            f"{model.label}: {model.facts.precision} is computed in float32 here and rounded after each operation, "
            "so its time does not apply to hardware that has it"
            for model in self.models
            if model.facts.emulated
        ]


def _speed_up(timings: Timings, runtime: str, precision: str, timing: CallTimes) -> SpeedUp | None:
    """The speed-up over the teacher in a runtime, in this precision or else the teacher's first one there."""
    references = {
        model.facts.precision: times
        for model, times in timings.items()
        if model.is_teacher and model.facts.runtime == runtime
    }
    reference = references.get(precision) or next(iter(references.values()), None)
    return None if reference is None else compare(reference, timing)


def _about_int8(model: ProfiledModel) -> str | None:
    """A line about an int8 model; None for other models."""
    if model.facts.precision != "int8":
        return None
    unbounded = "all in int8 to be timed, its loss is not bounded (srkd export bounds it)"
    parts = [model.facts.numbers, unbounded if model.is_unbounded else None, model.facts.integer_nodes]
    return f"{model.name}: {'; '.join(str(remark) for remark in parts if remark is not None)}"


def _int8_facts(model: ProfiledModel) -> Int8Facts | None:
    if model.facts.precision != "int8":
        return None
    file, nodes = read_quantised_file(model.facts.metadata), model.facts.integer_nodes
    of_file = {name: getattr(file, name, None) for name in ("flavour", "calibration", "in_float", "drop_db")}
    return Int8Facts(
        bounded=None if file is None else not model.is_unbounded,
        **of_file,
        nodes=None if nodes is None else nodes.nodes,
        nodes_in_int8=None if nodes is None else nodes.nodes_in_int8,
        nodes_in_float=None if nodes is None else nodes.in_float,
    )


def _compared_cost(model: ProfiledModel) -> ModelCost:
    cost = model.cost(COMPARED_SIZE)
    return ModelCost(model.label, *((None, None) if cost is None else (cost.params, cost.macs)))


def _note_below_bicubic(quality: Sequence[QualityRow], headers: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A line for each model that scores below bicubic, by `headers`: advice on training is for srkd's students."""
    bicubic = {row.scale: row.scores for row in quality if row.model == without_network(row.scale)}
    lines = []
    for row in quality:
        plain, header = bicubic.get(row.scale, Scores()), headers.get(row.model, {})
        line = below_bicubic(row.model, {ALL_IMAGES: (row.scores, plain)}, goal_of(header), row.scale)
        if goal_of(header) == "teacher" and row.psnr_y_teacher is None:
            teacher = header.get("srkd.teacher", "its teacher")
            line = f"{row.model} learned the images of {teacher}, and is judged by its distance to them: give --teacher"
        elif line is not None and "srkd.recipe" not in header:
            line = (
                f"{row.model} is farther from the originals than {without_network(row.scale)}, {row.psnr_y:.2f} dB "
                f"against {plain.psnr_y:.2f} dB: a network that is trained for looks may be, and srkd inspect --check "
                "tells; its students are judged by its own images"
            )
        lines.append(line)
    return [line for line in lines if line is not None]
