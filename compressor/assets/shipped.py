"""Students that come with srkd, by name: fast versions of models that people use. Importing it imports no torch.

students/NAME holds both ends of a run of `perceptual` in 16 bits, faithful.safetensors and textured.safetensors, its
model card, README.md, and its facts, facts.json; students/LICENSES.md the licences of their teachers.
`python -m benchmarks students` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from compressor.assets import FOLDER

STUDENTS = FOLDER / "students"
FACTS = "facts.json"


@dataclass(frozen=True)
class ShippedStudent:
    """The facts of a student that comes with srkd."""

    name: str
    teacher: str
    """The published name of the model whose images it learned."""
    student: str
    """Its whole shape, as --student takes it, such as compact:width=32,depth=8,scale=2."""
    scale: int
    params: int
    teacher_macs: int
    """Multiply-adds of the teacher for an LR pixel, and those of the student."""
    macs: int
    strength: float
    """The strength that is its own, of those between its ends."""
    licence: str
    images: str
    """What it was trained on."""
    command: str
    """The command that makes its run again."""
    hours: float
    """How long that took, on one thread of `machine`."""
    machine: str
    psnr_y_teacher: float | None = None
    """Y-PSNR in dB to the teacher's images of degraded Set14, and that of Lanczos."""
    lanczos_psnr_y_teacher: float | None = None
    sharpness: float | None = None
    """Its sharpness there, relative to the teacher's."""
    header: Mapping[str, str] = field(default_factory=dict)
    """The keys of its file that its ends do not have: its scores, and by which protocol."""


def shipped_names() -> tuple[str, ...]:
    return tuple(sorted(facts.parent.name for facts in STUDENTS.glob(f"*/{FACTS}")))


def shipped_student(name: str) -> ShippedStudent:
    return TypeAdapter(ShippedStudent).validate_json((STUDENTS / name / FACTS).read_bytes())
