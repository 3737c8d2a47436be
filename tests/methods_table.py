"""Every method of the catalogue, a row a form of it: tests/test_methods.py holds each row to what must hold for all.

A method that is added gets a row, or several where options make it another method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from compressor.networks.base import Spec
from compressor.networks.edsr import EDSRSpec

Learner = Literal["student", "modules", "joint"]
STUDENT, TEACHER = EDSRSpec(scale=2, width=4, depth=2), EDSRSpec(scale=2, width=8, depth=2)


@dataclass(frozen=True)
class Row:
    """One form of a method, and what is said of it."""

    name: str
    """Of the row; of the method too, where `method` does not say another."""
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    student: Spec = STUDENT
    teacher: Spec | None = TEACHER
    taps: tuple[str, ...] = ()
    """The student's features that its terms read of the batch."""
    learners: tuple[Learner, ...] = ("student",)
    """Whose parameters get gradients, all of them: the student's, those of modules, of the joint copy."""
    spared: tuple[str, ...] = ()
    """How the names of parameters begin that get no gradient all the same."""
    settled: Mapping[str, Any] = field(default_factory=dict)
    """Options beside `options` that give every weight a number (no calibration), for the tests that sum the terms."""
    rate: float = 2e-3
    """Of the thirty steps that must lower the loss."""
    degrees: Mapping[str, int] = field(default_factory=dict)
    """Of terms in the image range where it is not 1 (methods.md, 0.3): 0 for ratios and cosines, 2 for products."""
    range_options: Mapping[str, Any] = field(default_factory=dict)
    """Options beside `settled` under which images in [0,255] make sense."""
    not_in_255: str = ""
    """Why images in [0,255] make no sense, where no options help."""
    tolerance: float = 1e-4
    """Relative, of losses in one process and in two."""

    @property
    def of(self) -> str:
        return self.method or self.name


ROWS: tuple[Row, ...] = (
    Row("scratch", teacher=None),
    Row("inherit"),
    Row("logits"),
    Row("logits-b", "logits", {"form": "B"}),
)
