"""CSD: a student that is a slice of its teacher's weights, both trained at once; and CSD-lite, with a frozen teacher.

    CSD        L = L1(S, y) + λ_T·L1(T, y) + λ_C·Σ_j v_j·D_j
    CSD-lite   L = L1(S, y) + λ_C·Σ_j v_j·D_j, for two models that share no weights
    D_j = mean|φ_j(sg T) - φ_j(S)| / (mean Σ_k |φ_j(N_k) - φ_j(S)| + 1e-7)

The ratio and its details: recipes/terms/contrast.py; φ: recipes/terms/perceptual.py. Wang et al., Towards Compact
Single Image Super-Resolution via Contrastive Self-distillation (IJCAI 2021); code followed: Booooooooooo/CSD, PyTorch
version, trainer/slim_contrast_trainer.py. λ_T = 1, K = 10. λ_C = 200 for images in [0,255] is 0.784314 here; VGG-19 is
fed 255·image all the same.

- Means run over the whole batch, of all processes, before the division. K negatives are drawn from it; a smaller batch
  is used completely. D_j is a ratio to a sum over negatives, so with fewer of them it is larger: `lam=None` makes λ_C
  smaller by as much, 0.784314·K/10 for K negatives in use. A λ_C that is given stays as it is.
- T and S share memory: S runs on leading slices of T's parameters, and all gradients go to T.
- Whether the positive φ(T) is detached is a flag in the code, which its README sets: detached unless `detach: false`.
- The code switches λ_T off from an epoch that the README sets to the end of the run: here it is never switched off.
- `widths` trains further students in the same teacher (ours): their pixel losses are the term `widths_pixel`, and the
  contrast is summed over all. Other methods of a recipe only use the student that the run exports.
- `compat: csd` uses the first K images as negatives, and for CARN the leading columns of each fusion as a whole, which
  at half the width are weights of the first map only; ours uses the leading columns of every map.
- φ = teacher is a copy of the blocks of the teacher as loaded, not as it is being trained.

CSD-lite is ours: λ_T·L1(T, y) is dropped, as T is not trained. Any teacher with outputs can be used; its φ = teacher is
then that of the embedded teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.data.batches import View
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
    teacher_views: tuple[View, ...] = ("whole",)

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
    teacher_views: tuple[View, ...] = ()

    @property
    def segments(self) -> Segments:
        return "contiguous" if self.compat == "csd" else "each"

    @property
    def weights(self) -> Mapping[str, float]:
        further = {"widths_pixel": 1.0} if self.widths else {}
        return {**super().weights, **further, "teacher": self.lam_teacher}

    def fit(self, teacher: Network | None, student: Network) -> Csd:
        super().fit(teacher, student)
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
