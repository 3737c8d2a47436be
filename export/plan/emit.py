"""Plans for a device that srkd does not run on: candidates as ONNX files with a runner, whose timings are read back.

The folder holds the files, plan.json and run.py (`runner.py`), which needs onnxruntime and numpy alone and writes
measured.json; a browser times the same files in the page of `srkd demo`. The search then reads these timings in place
of a clock.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError, UsageError
from compressor.base.files import read_text, require_writable_folder, write_text
from compressor.inference.open import open_model
from export.plan.measure import Environment, megabytes_of, write_untrained
from export.plan.search import CandidateShape, ShapeMeasurement, Targets

PLAN, RUN = "plan.json", "run.py"
MOST_BYTES = 10**7
"""The largest plan, and the largest timings of a device, that are read."""
RUNTIME = "onnxruntime"

Positive = Annotated[float, Field(gt=0)]
FileT = TypeVar("FileT", bound=BaseModel)


class EmittedShape(BaseModel):
    """A candidate and its file in the folder."""

    model_config = ConfigDict(frozen=True)
    shape: CandidateShape
    file: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    megabytes: Positive


class Emitted(BaseModel):
    """plan.json: all that is needed to plan from the device's timings."""

    model_config = ConfigDict(frozen=True)
    format: Literal["srkd.plan-emit/2"] = Field(default="srkd.plan-emit/2", alias="schema")
    id: str = ""
    teacher: str
    """The hash of the teacher's file."""
    environment: Environment
    channels: int
    targets: Targets
    shapes: dict[str, EmittedShape]
    """By the names that measured.json has for them."""
    failed: dict[str, str]
    """Shapes that could not be written, and why."""


class ShapeTime(BaseModel):
    """The median of an image on the device in ms with its interval, or why there is none."""

    ms: Positive | None = None
    low: Positive | None = None
    high: Positive | None = None
    failed: str = "it has no time"


class DeviceTimings(BaseModel):
    """measured.json."""

    format: Literal["srkd.plan-measured/1"] = Field(alias="schema")
    plan: str
    machine: str = "another device"
    provider: str = "cpu"
    """What computed there."""
    threads: int | None = None
    """None or 0: as many as that program chose."""
    rows: dict[str, ShapeTime] = Field(min_length=1)

    def measurement(self, shape: EmittedShape) -> ShapeMeasurement:
        row = self.rows.get(shape.shape.name)
        if row is None or row.ms is None:
            raise SrkdError("not among the timings" if row is None else row.failed)
        return ShapeMeasurement(row.ms, row.low or row.ms, row.high or row.ms, shape.megabytes)


def emit(
    candidates: Sequence[CandidateShape],
    targets: Targets,
    environment: Environment,
    teacher: str,
    channels: int,
    folder: Path,
    context: Context = QUIET,
) -> Emitted:
    """Write candidates, plan.json and the runner to a new or empty folder."""
    if environment.runtime != RUNTIME:
        raise UsageError(f"--emit writes files for {RUNTIME}, not for --runtime {environment.runtime}: leave it out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--emit {folder} is not empty: name a new folder")
    require_writable_folder(folder, "--emit")
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, EmittedShape] = {}
    failed: dict[str, str] = {}
    for candidate in context.each("write shapes", candidates):
        try:
            file = write_untrained(candidate, environment, folder)
            # So that it is known to run: the demo need not try each one in a child process.
            open_model(file, environment.open_options())
        except SrkdError as error:
            failed[candidate.name] = str(error)
            context.note(f"{candidate.name} is left out: {error}")
            continue
        written[candidate.name] = EmittedShape(shape=candidate, file=file.name, megabytes=megabytes_of(file))
    if not written:
        raise SrkdError(f"--emit {folder}: no shape could be written: {next(iter(failed.values()), 'there is none')}")
    plan = Emitted(
        teacher=teacher, environment=environment, channels=channels, targets=targets, shapes=written, failed=failed
    )
    plan = plan.model_copy(update={"id": hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:16]})
    shutil.copyfile(Path(__file__).with_name("runner.py"), folder / RUN)
    write_text(folder / PLAN, plan.model_dump_json(indent=2, by_alias=True))
    return plan


def read_emitted(folder: Path) -> Emitted:
    return _read(folder / PLAN, Emitted)


def read_measured(file: Path, folder: Path | None, teacher: str) -> tuple[Emitted, DeviceTimings]:
    """Read timings of the files in `folder` (None: the folder of the timings); refuse those of another emit."""
    timings, folder = _read(file, DeviceTimings), folder or file.parent
    plan = read_emitted(folder)
    if timings.plan != plan.id:
        raise UsageError(
            f"--measured {file} is of another emit ({timings.plan}) than {folder / PLAN} ({plan.id}): name the folder "
            "it was measured in with --emit, or measure again"
        )
    if teacher != plan.teacher:
        raise UsageError(f"--measured {file}: {folder} was written for another teacher: give that one")
    if others := timings.rows.keys() - plan.shapes.keys() - plan.failed.keys():
        raise UsageError(f"--measured {file}: {min(others)} is not among the files of {folder / PLAN}")
    return plan, timings


def _read(file: Path, model: type[FileT]) -> FileT:
    try:
        return model.model_validate_json(read_text(file, MOST_BYTES))
    except FileNotFoundError as error:
        raise UsageError(f"{file} does not exist: give what srkd plan --emit and its {RUN} wrote") from error
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}"
        raise UsageError(f"{file} was not written by srkd plan --emit or its {RUN}: {what}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error})") from error
