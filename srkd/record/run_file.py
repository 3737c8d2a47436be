"""run.json of a run folder as one typed, versioned model: the `RunSpec`, then what became of it.

The folder of a plan of runs has the spec of its first run and those of all its runs; when it is finished, its head is
that of the run whose student it holds. `read_run_file` refuses wrong or missing values in one line. Importing this
module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS, RUN_FOLDER_WEIGHTS
from compressor.training.run_files import write_facts
from srkd.record.code import CodeFacts
from srkd.record.reading import Entry, parse, printable, read_object
from srkd.record.result import CompressReport, ScoresBeforeTraining, TargetReport
from srkd.record.run_spec import RunSpec
from srkd.terminal.console import json_value

SCHEMA = "srkd.compress/3"


def _inside(name: str) -> str:
    """The name of a folder in the run folder; refuse one that leads elsewhere."""
    if not name or Path(name).name != name or name == ".." or "\0" in name:
        raise PydanticCustomError("folder", "the name of a folder in this one")
    return name


class PlannedRun(Entry):
    """A run of a plan, by the name of its folder in the plan's."""

    name: Annotated[str, AfterValidator(_inside)]
    title: str
    """Its name for a person, such as "logits, seed 10"."""
    variant: str
    """The point or the baseline whose run it is with one seed."""
    spec: RunSpec | None
    """None for a second recipe, which is decided when the student that it quantises is there."""


class PlannedRuns(Entry):
    """The runs of a plan, or the two of `--then`, and the baselines of each point, by their labels."""

    runs: tuple[PlannedRun, ...]
    baselines: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class RunFile(RunSpec):
    """The contents of run.json."""

    srkd_version: str | None = None
    machine: dict[str, Any]
    """The machine that wrote the file (`compressor.base.machine.machine_facts`)."""
    code: CodeFacts | None = None
    untrained: ScoresBeforeTraining | None = None
    trials: PlannedRuns | None = None
    target: TargetReport | None = None
    result: CompressReport | None = None

    @property
    def is_finished(self) -> bool:
        return self.result is not None

    @property
    def spec(self) -> RunSpec:
        return RunSpec(**self.entries())

    @property
    def run_names(self) -> tuple[str, ...]:
        """The names of the folders of a plan's runs; none for a single run."""
        return () if self.trials is None else tuple(run.name for run in self.trials.runs)

    def to_json(self) -> dict[str, Any]:
        """The contents as JSON values; what is not known yet has no key."""
        known = {name for name in RunFile.model_fields if name in self.model_fields_set or name in RunSpec.model_fields}
        written = json_value({"schema": SCHEMA, **self.model_dump(mode="json", include=known)})
        assert isinstance(written, dict)
        return written

    def updated(self, **entries: object) -> RunFile:
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return RunFile(**{**own, **entries})


def require_run_folder(run: Path) -> None:
    if not run.is_dir():
        raise SrkdError(f"{run} is not a run folder: it {'is a file' if run.exists() else 'does not exist'}")


def read_run_file(run: Path) -> RunFile:
    """run.json of a folder; refuse anything else in one line."""
    return _read(_file_in(run))


def read_spec_file(path: Path) -> RunFile:
    """A run.json under any name, or that of a folder."""
    return read_run_file(path) if path.is_dir() else _read(path)


def read_for_display(run: Path) -> RunFile:
    """run.json of a folder for a page or a terminal: every text is a printable line of bounded length."""
    return _read(_file_in(run), for_display=True)


def _file_in(run: Path) -> Path:
    """The run.json of a folder, which must have one."""
    require_run_folder(run)
    if not (run / RUN_FOLDER_FACTS).exists():
        raise SrkdError(f"{run} is not a run folder of srkd compress: it has no {RUN_FOLDER_FACTS}")
    return run / RUN_FOLDER_FACTS


def _read(file: Path, *, for_display: bool = False) -> RunFile:
    values = printable(read_object(file)) if for_display else read_object(file)
    schema = values.pop("schema", None)
    if schema != SCHEMA:
        raise SrkdError(f"{file} cannot be read: its schema is {str(schema)[:40]!r}, not {SCHEMA}")
    return parse(RunFile, values, file)


def find_run_file(run: Path) -> RunFile | None:
    return read_run_file(run) if (run / RUN_FOLDER_FACTS).exists() else None


def find_run_of(run: Path, student_sha256: str) -> RunFile | None:
    """run.json of a student's folder, for display; None if that is not a finished run of this very student."""
    student = run / RUN_FOLDER_WEIGHTS
    if not (run / RUN_FOLDER_FACTS).exists() or not student.is_file() or file_sha256(student) != student_sha256:
        return None
    contents = read_for_display(run)
    return contents if contents.is_finished else None


def write_run_file(run: Path, contents: RunFile) -> None:
    write_facts(run, contents.to_json())
