"""Plans for a device that srkd does not run on: candidates as files with runners, whose timings are read back.

The folder holds ONNX files, plan.json and run.py (`runner.py`), which needs onnxruntime and numpy alone and writes
measured.json; a browser times them in the page of `srkd demo`. The same search then reads these timings in place of a
clock.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import atomic_path, read_text, require_writable_folder
from compressor.images.sample import sample_photo
from compressor.inference.open import open_model
from export.plan.measure import Environment, megabytes_of, write_untrained
from export.plan.search import CandidateShape, ShapeMeasurement, Targets

PLAN, RUN, PHOTO = "plan.json", "run.py", "photo.npy"
MOST_BYTES = 10**7
"""The largest plan, and the largest timings of a device, that are read."""
SCHEMA, MEASURED_SCHEMA = "srkd.plan-emit/1", "srkd.plan-measured/1"
RUNTIME = "onnxruntime"
PER_KIND = 10
"""Number of files of each kind of network: the device must run all of them, as no search runs there."""


@dataclass(frozen=True)
class Emitted:
    """The contents of an emitted folder: all that is needed to plan from the device's timings."""

    folder: Path
    id: str
    teacher: str
    """The hash of the teacher's file."""
    place: Environment
    targets: Targets
    candidates: Mapping[str, CandidateShape]
    """Candidates by their names in measured.json."""
    files: Mapping[str, Path]
    """The files of the candidates."""
    megabytes: Mapping[str, float]
    failed: Mapping[str, str]
    """Shapes that could not be written, and why."""


def spread_out(
    candidates: Sequence[CandidateShape], targets: Targets, per_kind: int = PER_KIND
) -> tuple[CandidateShape, ...]:
    """Some candidates of each kind, evenly from the least to the most MACs on a logarithmic scale."""
    chosen: list[CandidateShape] = []
    allowed = [candidate for candidate in candidates if candidate.macs <= targets.most_macs]
    for kind in dict.fromkeys(candidate.kind for candidate in allowed):
        own = sorted(
            (candidate for candidate in allowed if candidate.kind == kind), key=lambda candidate: candidate.macs
        )
        least, most = own[0].macs, own[-1].macs
        steps = [least * (most / least) ** (index / max(1, per_kind - 1)) for index in range(per_kind)]
        # Of shapes with the same MACs take the deeper: narrow and deep shapes are better students.
        nearest = (min(own, key=lambda candidate: (abs(candidate.macs / step - 1), -candidate.depth)) for step in steps)
        chosen += dict.fromkeys(nearest)
    return tuple(chosen)


def emit(
    candidates: Sequence[CandidateShape],
    targets: Targets,
    place: Environment,
    teacher: str,
    channels: int,
    folder: Path,
    context: Context = QUIET,
) -> Emitted:
    """Write candidates, plan.json, the runner and its photo to a new or empty folder."""
    if place.runtime != RUNTIME:
        raise UsageError(f"--emit writes files for {RUNTIME}, not for --runtime {place.runtime}: leave it out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--emit {folder} is not empty: name a new folder")
    require_writable_folder(folder, "--emit")
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    for candidate in context.each("write shapes", candidates):
        try:
            file = write_untrained(candidate, place, folder)
            # So that it is known to run: the demo need not try each one in a child process.
            open_model(file, place.open_options())
        except SrkdError as error:
            failed[candidate.name] = str(error)
            context.note(f"{candidate.name} is left out: {error}")
            continue
        entries.append({"name": candidate.name, "file": file.name, **asdict(candidate), "mb": megabytes_of(file)})
    if not entries:
        raise SrkdError(f"--emit {folder}: no shape could be written: {next(iter(failed.values()), 'there is none')}")
    body = {
        "schema": SCHEMA,
        "teacher": teacher,
        "lr_size": "{}x{}".format(*place.lr_size),
        "channels": channels,
        "precision": place.precision,
        "threads": place.threads,
        "targets": asdict(targets),
        "candidates": entries,
        "failed": failed,
    }
    name = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    # Copied, not imported: it runs without srkd.
    shutil.copyfile(Path(__file__).with_name("runner.py"), folder / RUN)
    with atomic_path(folder / PHOTO) as temporary, temporary.open("wb") as photo:
        np.save(photo, (255 * sample_photo(*place.lr_size, channels=channels)).round().byte().numpy())
    with atomic_path(folder / PLAN) as temporary:
        temporary.write_text(json.dumps({"id": name, **body}, indent=2), encoding="utf-8")
    return read_emitted(folder)


def read_emitted(folder: Path) -> Emitted:
    plan = _read(folder / PLAN, SCHEMA)
    try:
        width, height = map(int, plan["lr_size"].split("x"))
        names = [field.name for field in fields(CandidateShape)]
        return Emitted(
            folder,
            str(plan["id"]),
            str(plan["teacher"]),
            Environment(RUNTIME, plan["precision"], (width, height), threads=plan["threads"]),
            Targets(**plan["targets"]),
            {row["name"]: CandidateShape(**{name: row[name] for name in names}) for row in plan["candidates"]},
            {row["name"]: folder / Path(row["file"]).name for row in plan["candidates"]},
            {row["name"]: float(row["mb"]) for row in plan["candidates"]},
            dict(plan["failed"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SrkdError(f"{folder / PLAN} is not a plan that srkd plan --emit wrote ({error})") from error


@dataclass(frozen=True)
class DeviceTimings:
    """The timings of a device; its `measure` serves the search."""

    emitted: Emitted
    rows: Mapping[str, Mapping[str, Any]]
    machine: str
    provider: str
    """What computed there."""
    threads: int | None
    """The threads there; None: as many as that program chose."""

    def measure(self, candidate: CandidateShape) -> ShapeMeasurement:
        """The device's measurement of a candidate, the same at each call."""
        row = self.rows.get(candidate.name)
        if row is None:
            raise SrkdError("not among the timings")
        if "failed" in row:
            raise SrkdError(str(row["failed"]))
        ms = float(row["ms"])
        low, high = float(row.get("low", ms)), float(row.get("high", ms))
        return ShapeMeasurement(ms, low, high, self.emitted.megabytes[candidate.name])


def read_measured(file: Path, folder: Path | None, teacher: str) -> DeviceTimings:
    """Read timings of the files in `folder` (None: the folder of the timings); refuse those of another emit."""
    measured = _read(file, MEASURED_SCHEMA)
    emitted = read_emitted(folder or file.parent)
    if measured.get("plan") != emitted.id:
        raise UsageError(
            f"--measured {file} is of another emit ({measured.get('plan')}) than {emitted.folder / PLAN} "
            f"({emitted.id}): name the folder it was measured in with --emit, or measure again"
        )
    if teacher != emitted.teacher:
        raise UsageError(f"--measured {file}: {emitted.folder} was written for another teacher: give that one")
    rows = measured.get("rows")
    if not isinstance(rows, Mapping) or not rows:
        raise UsageError(
            f"--measured {file} holds no timings: run {RUN} on the device, or srkd demo {emitted.folder} for a browser"
        )
    for name, row in rows.items():
        figures = [row.get("ms"), row.get("low"), row.get("high")] if isinstance(row, Mapping) else [None]
        if name not in emitted.candidates and name not in emitted.failed:
            raise UsageError(f"--measured {file}: {name} is not among the files of {emitted.folder / PLAN}")
        good = all(value is None or (type(value) in (int, float) and value > 0) for value in figures)
        if not good or (figures[0] is None and not (isinstance(row, Mapping) and "failed" in row)):
            raise UsageError(f"--measured {file}: {name} has no time: give it as {{'ms': 31.5}}")
    threads = measured.get("threads", emitted.place.threads)
    return DeviceTimings(
        emitted,
        rows,
        str(measured.get("machine", "another device")),
        str(measured.get("provider", emitted.place.device)),
        threads if type(threads) is int and threads > 0 else None,
    )


def _read(file: Path, schema: str) -> dict[str, Any]:
    try:
        values = json.loads(read_text(file, MOST_BYTES))
    except FileNotFoundError as error:
        of_plan = ": give the folder that srkd plan --emit wrote with --emit DIR" if file.name == PLAN else ""
        raise UsageError(f"{file} does not exist{of_plan}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(values, dict) or values.get("schema") != schema:
        raise UsageError(f"{file} is not of the schema {schema}")
    return values
