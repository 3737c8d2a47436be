"""run.json of a run folder as one typed, versioned model: the request, all decisions made from it, then the result.

What is not decided yet has no key; what was decided to be none is null. The folder of a plan of runs holds the request
and the names of its runs while it is unfinished, and afterwards the decisions of the run whose student it holds.

`read_run_file` refuses wrong or missing values in one line. Importing this module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from compressor.base.choices import Goal, Init, Layout, Precision, Select
from compressor.base.errors import SrkdError
from compressor.base.files import file_sha256
from compressor.models.checkpoints.header import RUN_FOLDER_FACTS, RUN_FOLDER_WEIGHTS
from compressor.models.quantisation.description import Quantisation
from compressor.models.students.init_report import InitReport
from compressor.training.run_files import write_facts
from recipes.config.preset import Preset
from srkd.record.code import CodeFacts
from srkd.record.reading import Entry, parse, printable, read_object
from srkd.record.result import CompressReport, ScoresBeforeTraining, TargetReport
from srkd.terminal.console import json_value

SCHEMA = "srkd.compress/2"

SAME = ("preset", "student", "teacher", "data", "degradation", "teacher_cache", "label_margin", "phi")
"""Entries that must be equal on every process, and when a run is continued."""

DECIDED = ("recipe", "preset", "seed", "device", "execution_mode", "processes", "student", "start", "data")
"""Keys that every file has, except that of an unfinished plan of runs."""

Request = dict[str, Any]
"""The options of the run, as `srkd.options.option.to_json` writes them and `from_json` checks them."""


class GpuFacts(Entry):
    """The first accelerator that torch could use."""

    name: str
    count: int
    memory_mb: int
    capability: str
    cuda: str | None


class MachineFacts(Entry):
    """The machine that wrote the file (`compressor.base.machine.machine_facts`)."""

    cpu: str | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    usable_cores: int | None = None
    memory_mb: int | None = None
    torch_threads: int | None = None
    os: str | None = None
    python: str | None = None
    torch: str | None = None
    onnxruntime: str | None = None
    gpu: GpuFacts | None = None


class StudentPlan(Entry):
    """The plan that decided the student: where its times hold. Further keys are those of `srkd plan --json`."""

    model_config = ConfigDict(extra="allow")

    runtime: str
    precision: str
    lr_size: str
    device: str
    threads: int | None


class TrainingMode(Entry):
    """How training computes (`compressor.training.speed.ExecutionMode`)."""

    precision: Precision
    layout: Layout
    teacher_precision: Precision = "fp32"
    compiled: bool = False
    patches: int = 0
    step_ms: dict[str, float] = Field(default_factory=dict)
    reason: str = ""


class StudentSpec(Entry):
    """The spec of the student; further keys are the fields of its architecture."""

    model_config = ConfigDict(extra="allow")

    arch: str
    scale: int


class StudentStart(Entry):
    """The origin of the student's first weights."""

    init: Init
    select: Select
    init_from: InitReport | None


class TeacherFile(Entry):
    """The file of the teacher, and the options with which it was read."""

    path: Path
    sha256: str
    kind: str
    options: dict[str, Any]
    licence: str | None = None


class PhiFile(Entry):
    """The network whose features contrastive methods compare (`recipes.phi.PhiSource`)."""

    kind: Literal["vgg19", "teacher"]
    how: str
    path: Path | None = None
    sha256: str = ""


class StoredView(Entry):
    """The teacher's outputs for one view of the images."""

    entry: str
    images: str
    bytes: int


class TeacherOutputs(Entry):
    """The entries of the teacher cache that the run trains with, by view."""

    precision: Precision
    storage: str
    views: dict[str, StoredView]


class MarginOfLabels(Entry):
    """The margin that the teacher sees around patches (`compressor.data.label_margin.LabelMargin`)."""

    pixels: int
    side: int
    psnr_alone: float | None = None
    psnr: float | None = None


class TrainingImages(Entry):
    """The images of the run."""

    origin: str
    labels: Literal["HR", "teacher"]
    used: int
    digest: str
    skipped: dict[str, str]
    """Images that could not be used, and why."""
    validation: tuple[str, ...]


class DegradationSteps(Entry):
    """What the LR images suffer (`compressor.degradation.chain.Degradation`)."""

    name: str
    title: str
    steps: tuple[dict[str, dict[str, Any]], ...]


def _inside(name: str) -> str:
    """The name of a folder in the run folder; refuse one that leads elsewhere."""
    if not name or Path(name).name != name or name == ".." or "\0" in name:
        raise PydanticCustomError("folder", "the name of a folder in this one")
    return name


class PlannedRuns(Entry):
    """The runs of a plan, or the two of `--then`, by the names of their folders in this one."""

    runs: tuple[Annotated[str, AfterValidator(_inside)], ...]
    with_baseline: bool = False
    seeds: int = 1


class RunFile(Entry):
    """The contents of run.json."""

    srkd_version: str | None = None
    machine: MachineFacts
    request: Request
    plan: StudentPlan | None = None
    recipe: str | None = None
    preset: Preset | None = None
    code: CodeFacts | None = None
    seed: int | None = None
    device: str | None = None
    execution_mode: TrainingMode | None = None
    processes: int | None = None
    goal: Goal | None = None
    student: StudentSpec | None = None
    quantisation: Quantisation | None = None
    start: StudentStart | None = None
    teacher: TeacherFile | None = None
    phi: PhiFile | None = None
    teacher_cache: TeacherOutputs | None = None
    label_margin: MarginOfLabels | None = None
    data: TrainingImages | None = None
    degradation: DegradationSteps | None = None
    untrained: ScoresBeforeTraining | None = None
    trials: PlannedRuns | None = None
    target: TargetReport | None = None
    result: CompressReport | None = None

    @property
    def is_finished(self) -> bool:
        return self.result is not None

    @property
    def run_names(self) -> tuple[str, ...]:
        """The names of the folders of a plan's runs; none for a single run."""
        return () if self.trials is None else self.trials.runs

    def to_json(self) -> dict[str, Any]:
        """The contents as JSON values, without the keys that are not decided yet."""
        values = self.model_dump(mode="json", include=set(self.model_fields_set))
        written = json_value({"schema": SCHEMA, **values})
        assert isinstance(written, dict)
        return written

    def changed(self, **entries: object) -> RunFile:
        """The contents with other entries, which are checked."""
        return RunFile(**{**self._entries(), **entries})  # type: ignore[arg-type]

    def updated(self, newer: RunFile) -> RunFile:
        """The contents with those that `newer` has in place of these."""
        return self.changed(**newer._entries())

    def _entries(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.model_fields_set}

    def difference(self, other: RunFile) -> str | None:
        """The first key of `SAME` whose values differ; None if the runs are the same."""
        own, others = (file.model_dump(mode="json", include=set(SAME)) for file in (self, other))
        return next((key for key in SAME if own[key] != others[key]), None)


def require_run_folder(run: Path) -> None:
    """Refuse a path that is not a folder."""
    if not run.is_dir():
        raise SrkdError(f"{run} is not a run folder: it {'is a file' if run.exists() else 'does not exist'}")


def read_run_file(run: Path) -> RunFile:
    """run.json of a folder; refuse anything else in one line."""
    return _parse(run, _read_values(run))


def read_for_display(run: Path) -> RunFile:
    """run.json of a folder for a page or a terminal: every text is a printable line of bounded length."""
    return _parse(run, printable(_read_values(run)))


def _read_values(run: Path) -> dict[str, Any]:
    require_run_folder(run)
    if not (run / RUN_FOLDER_FACTS).exists():
        raise SrkdError(f"{run} is not a run folder of srkd compress: it has no {RUN_FOLDER_FACTS}")
    return read_object(run / RUN_FOLDER_FACTS)


def _parse(run: Path, values: dict[str, Any]) -> RunFile:
    file, schema = run / RUN_FOLDER_FACTS, values.pop("schema", None)
    if schema != SCHEMA:
        raise SrkdError(f"{file} cannot be read: its schema is {str(schema)[:40]!r}, not {SCHEMA}")
    contents = parse(RunFile, values, file)
    is_plan = contents.trials is not None and not contents.is_finished
    missing = [key for key in DECIDED if getattr(contents, key) is None]
    if missing and not is_plan:
        raise SrkdError(f"{file}: {missing[0]} is missing")
    return contents


def find_run_file(run: Path) -> RunFile | None:
    """run.json of a folder; None if it has none."""
    return read_run_file(run) if (run / RUN_FOLDER_FACTS).exists() else None


def find_run_of(run: Path, student_sha256: str) -> RunFile | None:
    """run.json of a student's folder, for display; None if that is not a finished run of this very student."""
    student = run / RUN_FOLDER_WEIGHTS
    if not student.is_file() or student_sha256 == "" or file_sha256(student) != student_sha256:
        return None
    if not (run / RUN_FOLDER_FACTS).exists():
        return None
    contents = read_for_display(run)
    return contents if contents.is_finished else None


def write_run_file(run: Path, contents: RunFile) -> None:
    """Replace run.json of a folder."""
    write_facts(run, contents.to_json())
