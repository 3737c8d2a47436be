"""DUKD: the teacher labels new inputs made from the training pair, and the student is consistent under augmentation.

    L = c·L1(S(x), y) + L1(S(x), sg T(x)) + Σ_u L1(D⁻¹ S(D u), sg T(u)),   u ∈ {zoom-in of y, zoom-out of x}

Zhang et al., DUKD, equations 1-3 and 3.2-3.3; code: yun224/DUKD, models/dukd_model.py and options/. How u and D are
made: recipes/terms/upcycling.py. Where paper and code differ:

- Paper: weights 1, one update. Code: c = 5 (EDSR, SwinIR), 1 or 2 (RCAN), and two updates, the second on the new inputs
  with the first one's gradient still added; zoom-in of n cells of a grid; no D on zoom-out, and a pixel term there,
  c·L1(S(zo), x), of which the paper knows nothing.
- Code: D is undone in the wrong order (12.6 % of the samples at p = 0.3); never here, but by `bug`. Its teacher is in
  train mode and keeps its graph; ours is frozen.
- Neither uses zoom-out with SwinIR (12x12 inputs); the code's files for RCAN x2 and x4 switch zoom-out and D off.

`paper+` is the paper's one update with the code's c = 5 and p = 0.3; `paper` has weights 1; `code` is the code with its
settings for each network and scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.data.batches import View
from compressor.models.networks.base import Network
from compressor.training.method import PlainMethod
from compressor.training.step import Step
from recipes.composition import Kind
from recipes.terms.upcycling import PROBABILITY, apply, draw_operations, invert, zoom_in, zoom_in_cells

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Published:
    """The settings in a released option file: c, the probability of D, zoom-out, and the cells of zoom-in."""

    pixel_weight: float
    probability: float
    zoom_out: Switch
    cells: int = 1


CODE: Mapping[tuple[str, int], Published] = {
    ("edsr", 2): Published(5.0, 0.3, "on", cells=2),
    **{("edsr", scale): Published(5.0, 0.3, "on") for scale in (3, 4)},
    ("rcan", 3): Published(2.0, 0.3, "on"),
    **{("rcan", scale): Published(1.0, 0.0, "off") for scale in (2, 4)},
    **{("swinir", scale): Published(5.0, 0.3, "off") for scale in (2, 3, 4)},
}
"""The published settings by student and scale."""


@dataclass(frozen=True)
class DUKD(PlainMethod):
    variant: Annotated[
        Literal["paper+", "paper", "code"],
        Field(description="whose weights and updates"),
    ] = "paper+"
    logits: Annotated[bool, Field(description="learn the teacher's image of the batch")] = True
    zoom_in: Annotated[bool, Field(description="learn the teacher's image of HR crops")] = True
    zoom_out: Annotated[
        Switch, Field(description="learn that of shrunk LR patches; auto: off with attention windows")
    ] = "auto"
    augment: Annotated[bool, Field(description="flip, transpose and invert the colours of the student's input")] = True
    colours: Annotated[bool, Field(description="invert colours too, where the input is augmented")] = True
    probability: Annotated[float | None, Field(ge=0, le=1, description="of each operation; none: the variant's")] = None
    pixel_weight: Annotated[float | None, Field(ge=0, description="c; none: the variant's")] = None
    cells: Annotated[int | None, Field(ge=1, description="crops of a patch in variant code; none: published")] = None
    bug: Annotated[bool, Field(description="undo the augmentation in the official order, which is wrong")] = False
    name: str = "dukd"
    kind: Kind = "data"

    def __post_init__(self) -> None:
        if not self.zoom_in and self.zoom_out == "off":
            raise UsageError("dukd: zoom_in=false and zoom_out=off leave no new inputs: switch one on, or use logits")
        if self.cells is not None and self.variant != "code":
            raise UsageError(
                f"dukd: cells={self.cells} belongs to variant code, and this is {self.variant}: leave it out"
            )

    def fit(self, teacher: Network | None, student: Network) -> DUKD:
        """Switch zoom-out off with attention windows, or take the code's settings for this student."""
        if self.variant != "code":
            windowed = any(network.descriptor.windowed for network in (teacher, student) if network is not None)
            return replace(self, zoom_out="off" if windowed else "on") if self.zoom_out == "auto" else self
        published = CODE.get((student.spec.arch, student.spec.scale))
        if published is None:
            if self.zoom_out == "auto" or None in (self.pixel_weight, self.probability, self.cells):
                raise UsageError(
                    f"dukd: the settings of variant code are for edsr, rcan and swinir at x2, x3 and x4, the student "
                    f"is {student.spec.arch} x{student.spec.scale}: give pixel_weight, probability, zoom_out and "
                    "cells, or take variant=paper+"
                )
            return self
        return replace(
            self,
            pixel_weight=published.pixel_weight if self.pixel_weight is None else self.pixel_weight,
            probability=published.probability if self.probability is None else self.probability,
            zoom_out=published.zoom_out if self.zoom_out == "auto" else self.zoom_out,
            cells=published.cells if self.cells is None else self.cells,
        )

    @property
    def zooms_out(self) -> bool:
        return self.zoom_out != "off"

    @property
    def updates(self) -> int:
        return 2 if self.variant == "code" else 1

    @property
    def teacher_views(self) -> tuple[View, ...]:
        views: dict[View, bool] = {"whole": self.logits, "zoom-out": self.zooms_out}
        return tuple(view for view, used in views.items() if used)

    @property
    def weights(self) -> Mapping[str, float]:
        pixel = self.pixel_weight if self.pixel_weight is not None else 1.0 if self.variant == "paper" else 5.0
        weights = {
            "pixel": pixel,
            "logits": 1.0 if self.logits else None,
            "zoom_in": 1.0 if self.zoom_in else None,
            "zoom_out": 1.0 if self.zooms_out else None,
            "zoom_out_pixel": pixel if self.zooms_out and self.variant == "code" else None,
        }
        return {name: weight for name, weight in weights.items() if weight is not None}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        """Return the terms of the current update: of the pair, of the new inputs, or both."""
        pair = self._pair_terms(step) if step.part == 0 else {}
        return {**pair, **self._new_input_terms(step)} if step.part == self.updates - 1 else pair

    def _pair_terms(self, step: Step) -> dict[str, torch.Tensor]:
        sr = step.student().sr
        terms = {"pixel": F.l1_loss(sr, step.hr)}
        return {**terms, "logits": F.l1_loss(sr, step.teacher().sr.detach())} if self.logits else terms

    def _new_input_terms(self, step: Step) -> dict[str, torch.Tensor]:
        terms = {}
        if self.zoom_in:
            terms["zoom_in"] = self._consistency(step, self._zoom_in(step), "zoom-in", self.augment)
        if self.zooms_out:
            smaller = step.zoom_out()
            terms["zoom_out"] = self._consistency(step, smaller, "zoom-out", self.augment and self.variant != "code")
            if self.variant == "code":
                sr = step.student(smaller).sr
                if sr.shape != step.lr.shape:
                    raise UsageError(
                        f"dukd: variant code compares the student's image of the shrunk LR patch with the patch: "
                        f"schedule.lr_patch={step.lr.shape[-1]} is not a multiple of the scale {step.scale}"
                    )
                terms["zoom_out_pixel"] = F.l1_loss(sr, step.lr)
        return terms

    def _zoom_in(self, step: Step) -> torch.Tensor:
        size, seed, number = (step.lr.shape[-2], step.lr.shape[-1]), step.seed, step.number
        if self.variant == "code":
            return zoom_in_cells(step.hr, size, self.cells or 1, seed=seed, step=number)
        return zoom_in(step.hr, size, seed=seed, step=number, samples=step.samples)

    def _consistency(self, step: Step, images: torch.Tensor, stream: str, augment: bool) -> torch.Tensor:
        """Return the L1 of the student's image, of augmented input and then restored, to the teacher's."""
        target = step.teacher(images).sr.detach()
        probability = PROBABILITY if self.probability is None else self.probability
        if not (augment and probability):
            return F.l1_loss(step.student(images).sr, target)
        copies = len(images) // len(step.lr)
        operations = draw_operations(
            probability, stream=stream, seed=step.seed, step=step.number, samples=step.samples, copies=copies
        )
        if not self.colours:
            operations = replace(operations, inverted=torch.zeros_like(operations.inverted))
        restored = invert(step.student(apply(images, operations)).sr, operations, bug=self.bug)
        return F.l1_loss(restored, target)
