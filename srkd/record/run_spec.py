"""`RunSpec`: the options of a run and every decision that was made from them, enough to start, continue or repeat it.

It is the head of run.json. `srkd.runs.decide` makes one; nothing in it is decided again. Importing this module does not
import torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, PlainSerializer, PlainValidator

from compressor.base.choices import Goal, Init, Precision, Select
from compressor.base.decided import ExecutionMode, InitReport, LabelMargin
from compressor.models.quantisation.description import Quantisation
from recipes.config.preset import Preset
from srkd.options.compress import CompressOptions
from srkd.options.option import from_json
from srkd.record.reading import Entry


def _read_options(values: object) -> CompressOptions:
    return values if isinstance(values, CompressOptions) else from_json(CompressOptions, values, "its options")


GivenOptions = Annotated[CompressOptions, PlainValidator(_read_options), PlainSerializer(CompressOptions.to_json)]
"""The options that a user gave, one flat object in JSON. `--out` is not among them: the folder says where it is."""


class StudentPlan(Entry):
    """The plan that decided the student: where its times hold. Further keys are those of `srkd plan --json`."""

    model_config = ConfigDict(extra="allow")

    runtime: str
    precision: str
    lr_size: str
    device: str
    threads: int | None


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
    is_cut: bool = False
    """Whether its shape is a width and a depth of the teacher, whose mean shift it then has in any case."""


class TeacherFile(Entry):
    """The file of the teacher, and the options with which it was read."""

    path: Path
    sha256: str
    kind: str
    options: dict[str, Any]
    licence: str | None = None


class Distillation(Entry):
    """The run that distilled the student which this run quantises: its recipe and its teacher."""

    recipe: str
    teacher: TeacherFile | None


class PhiFile(Entry):
    """The network whose features contrastive methods compare (`recipes.terms.phi.PhiSource`)."""

    kind: Literal["vgg19", "teacher"]
    how: str
    path: Path | None = None
    sha256: str = ""


class TeacherOutputs(Entry):
    """The entry of the teacher cache that the run trains with."""

    precision: Precision
    storage: str
    entry: str
    images: str
    bytes: int


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
    clean: float = 0.0


class RunSpec(Entry):
    """The options of a run and every decision made from them."""

    options: GivenOptions
    recipe: str
    """The recipe's name, as files and tables have it."""
    preset: Preset
    """The recipe with all of its settings, as the student trains by it."""
    seed: int
    device: str
    threads: int
    processes: int
    execution_mode: ExecutionMode
    goal: Goal
    student: StudentSpec
    quantisation: Quantisation | None
    start: StudentStart
    teacher: TeacherFile | None
    distilled: Distillation | None = None
    phi: PhiFile | None
    teacher_cache: TeacherOutputs | None
    label_margin: LabelMargin | None
    """None if no teacher runs on patches, or as it did before there was a margin."""
    data: TrainingImages
    degradation: DegradationSteps | None
    plan: StudentPlan | None = None
    """The plan that chose the student for a target."""

    @property
    def labels(self) -> Goal:
        """What the student learns to give: the originals or the teacher's images."""
        return "original" if self.data.labels == "HR" else "teacher"

    def changed(self, **entries: object) -> RunSpec:
        return RunSpec(**{**self.entries(), **entries})

    def with_seed(self, seed: int) -> RunSpec:
        training = replace(self.options.training, seed=seed)
        return self.changed(seed=seed, options=replace(self.options, training=training))

    def entries(self) -> dict[str, Any]:
        """The spec's own entries by name, also of an object that has more."""
        return {name: getattr(self, name) for name in RunSpec.model_fields}
