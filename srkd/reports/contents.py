"""The facts of a run folder, read from its files. No model is opened; a missing fact is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressor.base.files import file_sha256
from compressor.training.run_folder import FACTS, STUDENT
from srkd.record.measurements import ExportedEntry, read_exports
from srkd.record.result import CompressReport, Quality
from srkd.record.run_file import RunFile, StudentSpec, read_for_display
from srkd.record.trials import Gain, Spread
from srkd.reports.curves import Metrics
from srkd.reports.reproduction import Reproduction

Role = Literal["teacher", "student", "baseline", "start", "bicubic"]


@dataclass(frozen=True)
class Score:
    """A row of the table: a network's cost, and its Y-PSNR in dB on the validation images over a number of seeds."""

    name: str
    role: Role
    params: int | None
    macs: int | None
    psnr_y: float | None
    sd: float | None = None
    seeds: int = 1

    @property
    def spread(self) -> str:
        return "unknown" if self.psnr_y is None else str(Spread(self.psnr_y, self.sd))


@dataclass(frozen=True)
class ExportedFile:
    """An exported file, the results of its export, and whether it is still the file that was compared."""

    name: str
    format: str
    precision: str
    bytes: int | None
    state: str | None
    """Reason why the results are no longer valid; None if they are."""
    verdict: str | None
    reason: str | None
    largest_difference: float | None
    psnr_to_network: float | None
    drop_db: float | None
    photos: int | None
    speed: str | None
    """Comparison of its speed with float in a sentence, measured on `processor`."""
    processor: str | None


@dataclass(frozen=True)
class Contents:
    """The contents of one run folder."""

    path: Path
    name: str
    recipe: str
    title: str | None
    network: str | None
    scale: int | None
    protocol: str | None
    validation: tuple[str, ...]
    data_digest: str | None
    steps: int | None
    seconds: float | None
    unfinished: str | None
    """Line saying what an unfinished run lacks; None for a finished run."""
    scores: tuple[Score, ...]
    gains: tuple[str, ...]
    remarks: tuple[str, ...]
    metrics: tuple[Metrics, ...]
    files: tuple[ExportedFile, ...]
    student_sha256: str | None
    teacher_licence: str | None
    reproduction: Reproduction

    def score(self, role: Role) -> Score | None:
        """Return the first row of a role."""
        return next((score for score in self.scores if score.role == role), None)

    @property
    def student(self) -> Score | None:
        return self.score("student")


def read_contents(run: Path) -> Contents:
    """Return the contents of a run folder or of the folder of a plan of runs."""
    file = read_for_display(run)
    parts = [run / name for name in file.run_names]
    # The run.json of an unfinished plan has few facts: take the others from its first run.
    first = file if file.student is not None else _first_of(parts) or file
    metrics = tuple(rows for part in (run, *parts) if (rows := Metrics.read(part)) is not None)
    student, result = run / STUDENT, file.result
    finished = result is not None and student.is_file()
    return Contents(
        path=run,
        name=run.resolve().name,
        recipe=(None if result is None else result.recipe) or first.recipe or "unknown",
        title=None if first.preset is None else first.preset.title,
        network=None if first.student is None else _network(first.student),
        scale=None if first.student is None else first.student.scale,
        protocol=None if result is None else result.protocol,
        validation=() if first.data is None else first.data.validation,
        data_digest=None if first.data is None else first.data.digest,
        steps=max((rows.last_step for rows in metrics), default=None) if result is None else result.steps,
        seconds=None if result is None else result.seconds,
        unfinished=None if finished else _unfinished(run, file, first, metrics, parts),
        scores=tuple(_finished_scores(result) if result is not None and finished else _scores_so_far(metrics)),
        gains=() if result is None or result.trials is None else tuple(map(_gain_line, result.trials.gains)),
        remarks=() if result is None else result.flags,
        metrics=metrics,
        files=tuple(_exported_file(run, name, entry) for name, entry in read_exports(run).items()),
        student_sha256=file_sha256(student) if student.is_file() else None,
        teacher_licence=None if first.teacher is None else first.teacher.licence,
        reproduction=Reproduction.of(run, file, first),
    )


def _first_of(parts: Sequence[Path]) -> RunFile | None:
    """Return run.json of a plan's first run; None if none has begun."""
    return read_for_display(parts[0]) if parts and (parts[0] / FACTS).exists() else None


def _network(student: StudentSpec) -> str:
    """Return the student's shape, such as `edsr x4, width 24, depth 16`."""
    fields = student.model_extra or {}
    sizes = [f"{key} {fields[key]}" for key in ("width", "depth") if isinstance(fields.get(key), int)]
    return ", ".join([f"{student.arch} x{student.scale}", *sizes])


def _unfinished(run: Path, file: RunFile, first: RunFile, metrics: Sequence[Metrics], parts: Sequence[Path]) -> str:
    """Return a line with the progress of an unfinished run and the command that continues it."""
    if file.is_finished:
        return f"The run is finished, but {STUDENT} is missing from its folder."
    done = max((rows.last_step for rows in metrics), default=0)
    steps = None if first.preset is None else first.preset.schedule.steps
    where = f"step {done:,}" + (f" of {steps:,}" if steps and not parts else "")
    if parts:
        started = sum((part / FACTS).is_file() for part in parts)
        where = f"run {started} of {len(parts)}"
    return f"This run is not finished: it is at {where}. srkd compress --resume {run.resolve().name} continues it."


def _finished_scores(result: CompressReport) -> list[Score]:
    """Return the scores of teacher, student, baselines, the student's start, and bicubic."""
    params, macs = _cost(result.student)
    rows = []
    teachers = {"teacher": result.teacher, "teacher, trained with the student": result.teacher_joint}
    rows += [_score(name, "teacher", quality) for name, quality in teachers.items() if quality is not None]
    if result.trials is None:
        rows.append(_score(", ".join(filter(None, ("student", result.quantisation))), "student", result.student))
    else:
        for index, row in enumerate(result.trials.rows):
            role: Role = "baseline" if index else "student"
            name = f"student ({row.name})" if role == "student" else row.name
            rows.append(Score(name, role, params, macs, _finite(row.mean), row.sd, len(row.psnr_y)))
    if result.untrained is not None:
        before = {"its start": result.untrained.student, "a slice of the teacher": result.untrained.slice}
        rows += [Score(f"{name}, untrained", "start", params, macs, _finite(psnr)) for name, psnr in before.items()]
    if result.float_student is not None:
        rows.append(_score("student before it was quantised", "baseline", result.float_student))
    return [*rows, _score("bicubic", "bicubic", result.bicubic)]


def _score(name: str, role: Role, quality: Quality) -> Score:
    return Score(name, role, *_cost(quality), _finite(quality.psnr_y))


def _cost(quality: Quality) -> tuple[int | None, int | None]:
    """Return the parameters and MACs of a network; None for each without a network."""
    return (None, None) if quality.cost is None else (quality.cost.params, quality.cost.macs)


def _finite(psnr_y: float) -> float | None:
    """Return a score that can be drawn; None for the infinite one of equal images."""
    return psnr_y if math.isfinite(psnr_y) else None


def _scores_so_far(metrics: Sequence[Metrics]) -> list[Score]:
    """Return the scores of the newest validation in the first run of an unfinished folder."""
    rows = [row for row in metrics[0].rows if row.kind == "validation"] if metrics else []
    if not rows:
        return []
    newest = rows[-1]
    names: dict[Role, str] = {"teacher": "teacher", "student": f"student at step {newest.step:,}", "bicubic": "bicubic"}
    scores: dict[Role, float | None] = {role: newest.numbers.get(f"{role}_psnr_y") for role in names}
    return [Score(names[role], role, None, None, psnr_y) for role, psnr_y in scores.items() if psnr_y is not None]


def _gain_line(gain: Gain) -> str:
    """Return a line on the gain over a baseline, from the summary of the run."""
    if gain.sd is None:
        return f"{gain.mean:+.3f} dB over {gain.over} (one seed: its spread is unknown)"
    return f"{gain.mean:+.3f} ± {gain.sd:.3f} dB over {gain.over} ({len(gain.differences)} seeds: {gain.verdict})"


def _exported_file(run: Path, name: str, entry: ExportedEntry) -> ExportedFile:
    difference, loss = entry.parity, entry.quality
    return ExportedFile(
        name=name,
        format=entry.format,
        precision=entry.precision,
        bytes=entry.bytes,
        state=_state(run / name, entry),
        verdict=entry.verdict,
        reason=entry.reason,
        largest_difference=None if difference is None else difference.max_abs,
        psnr_to_network=None if difference is None else difference.psnr,
        drop_db=None if loss is None else loss.drop,
        photos=None if loss is None else loss.photos,
        speed=None if entry.speed is None else entry.speed.sentence,
        processor=entry.machine.cpu,
    )


def _state(file: Path, entry: ExportedEntry) -> str | None:
    """Return why the results of a file are no longer valid; None if they are."""
    if not file.exists():
        return "the file is gone"
    if entry.sha256 is not None and (not file.is_file() or file_sha256(file) != entry.sha256):
        return "the file has changed since it was compared"
    student, source = file.parent / STUDENT, entry.source_sha256
    if source is not None and student.is_file() and file_sha256(student) != source:
        return "made from other weights than the student's"
    return None
