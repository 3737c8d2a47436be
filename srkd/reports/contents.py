"""The facts of a run folder, read from its files. No model is opened; a missing fact is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.training.run_folder import FACTS, METRICS, SCHEMA, STUDENT
from export.writing.record import RECORD
from srkd.record.trials import Spread
from srkd.reports.curves import Metrics
from srkd.reports.reproduction import Reproduction
from srkd.reports.untrusted import Facts, part_names, require_run_folder

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
    require_run_folder(run)
    facts = Facts.read(run / FACTS)
    if facts.value is None:
        raise SrkdError(f"{run} is not a run folder of srkd compress: it has no {FACTS}")
    if not isinstance(facts.value, dict) or facts.text("schema") != SCHEMA:
        raise SrkdError(f"{run / FACTS} is not the file of a run: its schema is not {SCHEMA}")
    parts = [run / name for name in part_names(facts)]
    # The run.json of an unfinished plan has few facts: take the others from its first run.
    first = facts if facts.has("student") else next((Facts.read(part / FACTS) for part in parts), Facts())
    metrics = tuple(rows for part in (run, *parts) if (rows := _metrics(part)) is not None)
    student = run / STUDENT
    finished = facts.has("result", "student") and student.is_file()
    return Contents(
        path=run,
        name=run.resolve().name,
        recipe=facts.text("result", "recipe") or first.text("recipe") or "unknown",
        title=first.text("preset", "title"),
        network=_network(first),
        scale=first.count("student", "scale"),
        protocol=facts.text("result", "protocol"),
        validation=first.texts("data", "validation"),
        data_digest=first.text("data", "digest"),
        steps=facts.count("result", "steps") or max((rows.last_step for rows in metrics), default=None),
        seconds=facts.number("result", "seconds"),
        unfinished=None if finished else _unfinished(run, facts, first, metrics, parts),
        scores=tuple(_finished_scores(facts)) if finished else tuple(_scores_so_far(metrics)),
        gains=tuple(_gains(facts)),
        remarks=facts.texts("result", "flags"),
        metrics=metrics,
        files=tuple(_exported_files(run)),
        student_sha256=file_sha256(student) if student.is_file() else None,
        teacher_licence=first.text("teacher", "licence"),
        reproduction=Reproduction.of(run, facts, first),
    )


def _metrics(run: Path) -> Metrics | None:
    return Metrics.read(run) if (run / METRICS).is_file() else None


def _network(facts: Facts) -> str | None:
    """Return the student's shape, such as `edsr x4, width 24, depth 16`."""
    name, scale = facts.text("student", "arch"), facts.count("student", "scale")
    if name is None or scale is None:
        return None
    sizes = [f"{key} {size}" for key in ("width", "depth") if (size := facts.count("student", key)) is not None]
    return ", ".join([f"{name} x{scale}", *sizes])


def _unfinished(run: Path, facts: Facts, first: Facts, metrics: Sequence[Metrics], parts: Sequence[Path]) -> str:
    """Return a line with the progress of an unfinished run and the command that continues it."""
    if facts.has("result", "student"):
        return f"The run is finished, but {STUDENT} is missing from its folder."
    done = max((rows.last_step for rows in metrics), default=0)
    steps = first.count("preset", "schedule", "steps")
    where = f"step {done:,}" + (f" of {steps:,}" if steps and not parts else "")
    if parts:
        started = sum((part / FACTS).is_file() for part in parts)
        where = f"run {started} of {len(parts)}"
    return f"This run is not finished: it is at {where}. srkd compress --resume {run.resolve().name} continues it."


def _finished_scores(facts: Facts) -> list[Score]:
    """Return the scores of teacher, student, baselines, the student's start, and bicubic."""
    result = facts.at("result")
    params, macs = (result.count("student", "cost", key) for key in ("params", "macs"))
    rows = []
    for key, name in (("teacher", "teacher"), ("teacher_joint", "teacher, trained with the student")):
        if result.has(key):
            cost = result.at(key, "cost")
            rows.append(Score(name, "teacher", cost.count("params"), cost.count("macs"), result.number(key, "psnr_y")))
    variants = result.items("trials", "rows")
    for index, row in enumerate(variants):
        values = row.items("psnr_y")
        name, role = row.text("name") or "unnamed", "baseline" if index else "student"
        mean, sd = row.number("mean"), row.number("sd")
        rows.append(
            Score(name if index else f"student ({name})", role, params, macs, mean, sd, len(values))  # type: ignore[arg-type]
        )
    if not variants:
        how = result.text("quantisation")
        name = "student" if how is None else f"student, {how}"
        rows.append(Score(name, "student", params, macs, result.number("student", "psnr_y")))
    for key, name in (("student", "its start, untrained"), ("slice", "a slice of the teacher, untrained")):
        if result.has("untrained", key):
            rows.append(Score(name, "start", params, macs, result.number("untrained", key)))
    if result.has("float_student"):
        cost = result.at("float_student", "cost")
        psnr_y = result.number("float_student", "psnr_y")
        rows.append(
            Score("student before it was quantised", "baseline", cost.count("params"), cost.count("macs"), psnr_y)
        )
    return [*rows, Score("bicubic", "bicubic", None, None, result.number("bicubic", "psnr_y"))]


def _scores_so_far(metrics: Sequence[Metrics]) -> list[Score]:
    """Return the scores of the newest validation in the first run of an unfinished folder."""
    if not metrics:
        return []
    rows = [row for row in metrics[0].rows if row.get("kind") == "validation"]
    newest = Facts(dict(rows[-1]) if rows else {})
    scores = {role: newest.number(f"{role}_psnr_y") for role in ("teacher", "student", "bicubic")}
    at = newest.count("step") or 0
    names = {"student": f"student at step {at:,}"}
    return [
        Score(names.get(role, role), role, None, None, psnr_y)  # type: ignore[arg-type]
        for role, psnr_y in scores.items()
        if psnr_y is not None
    ]


def _gains(facts: Facts) -> list[str]:
    """Return a line on the gain over each baseline, from the summary of the run."""
    lines = []
    for gain in facts.items("result", "trials", "gains"):
        over, mean, sd = gain.text("over"), gain.number("mean"), gain.number("sd")
        if over is None or mean is None:
            continue
        seeds = len(gain.items("differences"))
        if sd is None:
            lines.append(f"{mean:+.3f} dB over {over} (one seed: its spread is unknown)")
        else:
            verdict = gain.text("verdict") or ""
            lines.append(f"{mean:+.3f} ± {sd:.3f} dB over {over} ({seeds} seeds: {verdict})")
    return lines


def _exported_files(run: Path) -> list[ExportedFile]:
    """Return the files in the record of the exports."""
    rows = []
    for name, entry in sorted(Facts.read(run / RECORD).entries("files").items()):
        if Path(name).name != name:
            continue
        rows.append(
            ExportedFile(
                name=name,
                format=entry.text("format") or "unknown",
                precision=entry.text("precision") or "unknown",
                bytes=entry.count("bytes"),
                state=_state(run / name, entry),
                verdict=entry.text("verdict"),
                reason=entry.text("reason"),
                largest_difference=entry.number("parity", "max_abs"),
                psnr_to_network=entry.number("parity", "psnr"),
                drop_db=entry.number("quality", "drop"),
                photos=entry.count("quality", "photos"),
                speed=entry.text("speed", "sentence"),
                processor=entry.text("machine", "cpu"),
            )
        )
    return rows


def _state(file: Path, entry: Facts) -> str | None:
    """Return why the results of a file are no longer valid; None if they are."""
    if not file.exists():
        return "the file is gone"
    recorded = entry.text("sha256")
    if recorded is not None and (not file.is_file() or file_sha256(file) != recorded):
        return "the file has changed since it was compared"
    source = entry.text("source_sha256")
    student = file.parent / STUDENT
    if source is not None and student.is_file() and file_sha256(student) != source:
        return "made from other weights than the student's"
    return None
