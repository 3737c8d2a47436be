"""A table of every method of the catalogue, with a row for each form. test_methods.py tests all rows alike.

A method whose terms read images alone has a row by its entry in the catalogue; others need one here, or several if
options make it another method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from compressor.models.networks.base import Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.swinir import SwinIRSpec
from recipes.catalogue import BUILTIN

Learner = Literal["student", "modules", "joint"]
AFTER_SKIP, BEFORE_SKIP = ("head", "body[0]", "pre_up"), ("head", "body[0]", "body_end")
"""The taps rel(1/3), rel(2/3) and the last, in a body of two blocks."""
TRANSFORMER = SwinIRSpec(scale=2, width=8, depths=(1, 1, 1), heads=(2, 2, 2), window=4)
LFD: Mapping[str, Any] = {"taps": AFTER_SKIP, "learners": ("student", "modules"), "degrees": {"matching": 0}}
FACD: Mapping[str, Any] = {"taps": BEFORE_SKIP, "learners": ("student", "modules"), "degrees": {"patch_contrast": 0}}
STUDENT, TEACHER = EDSRSpec(scale=2, width=4, depth=2), EDSRSpec(scale=2, width=8, depth=2)
DEEPER = EDSRSpec(scale=2, width=4, depth=3)
"""A spec with taps at one and two thirds of the body."""


@dataclass(frozen=True)
class Row:
    """One form of a method, and its properties."""

    name: str
    """The name of the row, and of the method unless `method` names another."""
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    student: Spec = STUDENT
    teacher: Spec | None = TEACHER
    taps: tuple[str, ...] = ()
    """The features of the student that its terms read."""
    learners: tuple[Learner, ...] = ("student",)
    """The parts whose parameters all get gradients: the student, the modules, the joint copy."""
    spared: tuple[str, ...] = ()
    """Prefixes of parameters that get no gradient nevertheless."""
    followers: tuple[str, ...] = ()
    """The modules that hold an earlier student: saved, but not trained."""
    settled: Mapping[str, Any] = field(default_factory=dict)
    """Options beside `options` that give every weight a number (no calibration), for the tests that sum the terms."""
    rate: float = 2e-3
    """The learning rate of the steps that must lower the loss."""
    steps: int = 15
    degrees: Mapping[str, int] = field(default_factory=dict)
    """The degrees of terms in the image range that are not 1: 0 for ratios and cosines, 2 for products."""
    tolerance: float = 1e-4
    """The relative tolerance of losses in one process and in two."""

    @property
    def of(self) -> str:
        return self.method or self.name


FORMS: tuple[Row, ...] = (
    Row("logits"),
    Row("logits-gated", "logits", {"gate": "hard"}),
    Row("ds", student=DEEPER, teacher=None, taps=("head", "rel(1/3)", "rel(2/3)"), learners=("student", "modules")),
    *(
        Row(
            f"clsd-{pos}",
            "clsd",
            {"phi": "teacher", "negatives": 3, "pos": pos},
            student=DEEPER,
            taps=("head", "rel(1/3)", "rel(2/3)"),
            learners=("student", "modules"),
            settled={"lam": 0.1},
            degrees={"heads_contrast": 0},
        )
        for pos in ("gt", "final")
    ),
    *(
        Row(
            f"hkdsr{'' if fsm == 'bands' else '-matrix'}",
            "hkdsr",
            {"fsm": fsm},
            student=DEEPER,
            teacher=EDSRSpec(scale=2, width=8, depth=4),
            learners=("student", "modules"),
            degrees={"bands": 1 if fsm == "bands" else 2},
        )
        for fsm in ("bands", "matrix")
    ),
    Row("fakd", taps=AFTER_SKIP, degrees={"affinity": 0}),
    Row("fakd-swinir", "fakd", teacher=TRANSFORMER, taps=AFTER_SKIP, degrees={"affinity": 0}),
    Row("lfd", settled={"lam": 0.01}, **LFD),
    Row("lfd-gated", "lfd", {"gate": "soft", "kappa": 1.0}, settled={"lam": 0.01}, **LFD),
    Row("facd", settled={"lam": 0.05}, **FACD),
    Row("facd-infonce", "facd", {"form": "infonce"}, settled={"lam": 0.05}, **FACD),
    Row("facd-soft", "facd", {"gate": "soft"}, settled={"lam": 0.05}, **FACD),
    Row("csd", options={"phi": "teacher", "negatives": 3}, learners=("joint",), steps=30, degrees={"contrast": 0}),
    Row(
        "csd-widths",
        "csd",
        {"phi": "teacher", "widths": (0.25,), "detach": False},
        learners=("joint",),
        degrees={"contrast": 0},
    ),
    Row("csd-lite", options={"phi": "teacher", "negatives": 3}, degrees={"contrast": 0}),
    Row(
        "dckd",
        options={"phi": "teacher", "noisy": 2, "intervals": (14,)},
        followers=("dckd.history",),
        degrees={"contrast": 0},
    ),
    Row("dckd-bicubic", "dckd", {"phi": "teacher", "history": False}, steps=30, degrees={"contrast": 0}),
    Row("dukd"),
    Row("dukd-code", "dukd", {"variant": "code"}),
    Row("pams", taps=("pre_up",), degrees={"attention": 0}),
    Row("pams-code", "pams", {"compat": "pams", "bits": 4}, taps=("pre_up",), degrees={"attention": 0}),
    Row("perceptual", options={"last_share": 0.0}),
    Row("pact", options={"alpha": None}),
)

ROWS: tuple[Row, ...] = (
    *(
        Row(name, teacher=None if entry.needs == "nothing" else TEACHER)
        for name, entry in BUILTIN.items()
        if name not in {row.of for row in FORMS}
    ),
    *FORMS,
)
