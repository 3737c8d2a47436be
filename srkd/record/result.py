"""The result of a run, or of a plan of runs: what `compress` returns, and the entry `result` of run.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from compressor.base.choices import Goal
from compressor.images.scores import ALL_IMAGES, Scores, StrengthRow, below_bicubic
from compressor.models.networks.image_cost import Cost
from srkd.record.reading import Decibels
from srkd.record.trials import TrialsReport


@dataclass(frozen=True, kw_only=True)
class Quality(Scores):
    """The scores of a network on the validation images that decide, and its cost at 256×256 LR pixels."""

    cost: Cost | None
    sets: dict[str, Scores] = field(default_factory=dict)
    """The scores on each validation set, if there are several."""

    @classmethod
    def of(cls, by_set: Mapping[str, Scores], cost: Cost | None) -> Quality:
        """The quality by the scores on all sets, of which the first decides."""
        first = next(iter(by_set.values()))
        return cls(cost=cost, sets=dict(by_set) if len(by_set) > 1 else {}, **asdict(first))


@dataclass(frozen=True)
class ScoresBeforeTraining:
    """Y-PSNR in dB before the first step, by the run's goal: of the student, and of a slice of the teacher, if any."""

    student: Decibels
    slice: Decibels | None = None


@dataclass(frozen=True)
class TargetReport:
    """The measurement of the finished student's file in the runtime of its target. `reason` says why it failed."""

    met: bool | None
    target: str
    where: str
    file: Path | None
    ms: float | None = None
    ms_interval: tuple[float, float] | None = None
    fps: float | None = None
    megabytes: float | None = None
    macs: int | None = None
    reason: str | None = None

    def line(self) -> str:
        if self.ms is None or self.ms_interval is None:
            return f"target {self.target} at {self.where}: not known, {self.reason}"
        verdict = "met" if self.met else "missed"
        low, high = self.ms_interval
        return (
            f"target {self.target} at {self.where}: {verdict} with {self.ms:.1f} ms [{low:.1f}, {high:.1f}], "
            f"{self.fps:.1f} FPS, {self.megabytes:.2f} MB"
        )


@dataclass(frozen=True)
class CompressReport:
    """The result of a run, or of a plan of runs."""

    run: Path
    student_path: Path
    recipe: str
    steps: int
    seconds: float
    protocol: str
    images_used: int
    images_skipped: dict[str, str]
    student: Quality
    teacher: Quality | None
    bicubic: Quality
    """Of bicubic enlargements, at scale 1 of the inputs."""
    scale: int
    goal: Goal = "original"
    """What the student is judged by."""
    phi: str | None = None
    """The network whose features a contrastive method compared (φ)."""
    teacher_joint: Quality | None = None
    """The teacher that was trained with the student inside it."""
    untrained: ScoresBeforeTraining | None = None
    """Quality before the first step, if the student was solved for or is a slice of a turned teacher."""
    flags: tuple[str, ...] = ()
    """Remarks of the run that a reader of its result should know."""
    trials: TrialsReport | None = None
    """Results of a plan of runs with baselines or seeds; `student` is then the recipe's best by validation."""
    quantisation: str | None = None
    """Quantisation of the student in a line; None for a float one."""
    float_student: Quality | None = None
    """Quality of the distilled student before quantisation."""
    strength: float | None = None
    """Strength of the student between its faithful and its textured end; None without them."""
    strengths: tuple[StrengthRow, ...] = ()
    """What other strengths make of patches that no step saw."""
    target: TargetReport | None = None
    """Measurement of the student's file against the target that decided its shape."""

    @property
    def below_bicubic(self) -> str | None:
        """A warning if the student is below bicubic on a validation set, by what it is judged by."""
        own, plain = (quality.sets or {ALL_IMAGES: quality} for quality in (self.student, self.bicubic))
        by_set = {name: (scores, plain[name]) for name, scores in own.items()}
        return below_bicubic("the student", by_set, self.goal, self.scale)
