"""CSD: a student that is a slice of its teacher's weights, both trained at once; and CSD-lite, with a frozen teacher.

    CSD        L = L1(S, y) + λ_T·L1(T, y) + λ_C·Σ_j v_j·D_j
    CSD-lite   L = L1(S, y) + λ_C·Σ_j v_j·D_j, for two models that share no weights
    D_j = mean|φ_j(sg T) - φ_j(S)| / (mean Σ_k |φ_j(N_k) - φ_j(S)| + 1e-7)

Wang et al., Towards Compact Single Image Super-Resolution via Contrastive Self-distillation (IJCAI 2021); code:
Booooooooooo/CSD, trainer/slim_contrast_trainer.py. λ_T = 1, K = 10; λ_C = 200 for images in [0,255] is 0.784314 here.
Where we differ: docs/methods/csd.md. CSD-lite is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.networks.axes import Segments
from compressor.models.networks.base import Network, Spec
from compressor.models.students.students import require_slice
from compressor.training.method import Kind
from compressor.training.step import Step
from recipes.terms.contrast import NEGATIVES, ContrastsThroughPhi

Width = Annotated[float, Field(gt=0, lt=1)]
CSD_WEIGHT = 0.784314
"""λ_C of the paper, with 10 negatives."""


@dataclass(frozen=True)
class CsdLite(ContrastsThroughPhi):
    lam: Annotated[
        float | None,
        Field(ge=0, description="weight of the contrast; none: 0.784314 (200/255) · negatives in use / 10"),
    ] = None
    name: str = "csd-lite"
    kind: Kind = "contrast"
    takes_outputs: bool = True

    @property
    def weights(self) -> Mapping[str, float]:
        return {"pixel": 1.0, "contrast": CSD_WEIGHT if self.lam is None else self.lam}

    def fit_batch(self, batch: int) -> tuple[CsdLite, str | None]:
        used = min(self.negatives, batch)
        if self.lam is not None or used == NEGATIVES:
            return self, None
        lam = CSD_WEIGHT * used / NEGATIVES
        counted = f"{used} negative{'s' if used > 1 else ''} where the paper has {NEGATIVES}"
        return replace(self, lam=lam), f"contrast: {counted}: weight {lam:.3g} in place of {CSD_WEIGHT:.3g}"

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr = step.student().sr
        return {"pixel": F.l1_loss(sr, step.hr), "contrast": self.contrast(step, [sr], step.teacher().sr)}


@dataclass(frozen=True)
class Csd(CsdLite):
    lam_teacher: Annotated[float, Field(ge=0, description="weight of the teacher's pixel loss")] = 1.0
    detach: Annotated[bool, Field(description="no gradient of the contrast reaches the teacher's image")] = True
    widths: Annotated[
        tuple[Width, ...], Field(description="further students trained in the same teacher, beside --width")
    ] = ()
    name: str = "csd"
    kind: Kind = "joint"
    takes_outputs: bool = False

    @property
    def segments(self) -> Segments:
        return "contiguous" if self.compat == "csd" else "each"

    @property
    def weights(self) -> Mapping[str, float]:
        further = {"widths_pixel": 1.0} if self.widths else {}
        return {**super().weights, **further, "teacher": self.lam_teacher}

    def fit(self, teacher: Network | None, student: Network) -> Csd:
        if teacher is None:
            raise UsageError(f"{self.name} trains its student inside the teacher, which must be one of srkd's networks")
        if student.spec.arch != teacher.spec.arch:
            raise UsageError(
                f"{self.name} trains its student inside the teacher: one of {student.spec.arch} is not inside one of "
                f"{teacher.spec.arch}; leave out --student, or take csd-lite or logits"
            )
        for spec in (student.spec, *self.branches(teacher.spec)):
            try:
                require_slice(teacher.spec, spec)
            except UsageError as error:
                raise UsageError(f"{self.name} trains a slice of the teacher's weights: {error}") from error
        return self

    def branches(self, teacher: Spec) -> Sequence[Spec]:
        return [teacher.narrowed(width) for width in self.widths]

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        students = [step.student(branch=branch).sr for branch in range(step.branches)]
        teacher = step.teacher().sr
        pixel, *further = [F.l1_loss(sr, step.hr) for sr in students]
        # `widths` may include the student's own width, which is not trained twice.
        return {
            "pixel": pixel,
            **({"widths_pixel": torch.stack(further).sum()} if further else {}),
            "teacher": F.l1_loss(teacher, step.hr),
            "contrast": self.contrast(step, students, teacher.detach() if self.detach else teacher),
        }
