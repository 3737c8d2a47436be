"""DUKD: the teacher labels new inputs made from the training pair, and the student is consistent under augmentation.

    L = c·L1(S(x), y) + L1(S(x), sg T(x)) + Σ_u L1(D⁻¹ S(D u), sg T(u)),   u ∈ {zoom-in of y, zoom-out of x}

    zoom-in    a crop of y as large as x          zoom-out    imresize(x, 1/s): float, neither rounded nor clipped
    D          recipes/terms/symmetries.py, each operation drawn per sample

Zhang et al., DUKD, equations 1-3 and 3.2-3.3; code: yun224/DUKD, models/dukd_model.py and options/. The three variants,
and where paper and code differ: docs/methods/dukd.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.base.randomness import crop_each, random_positions, uniforms
from compressor.models.networks.base import Descriptor, Network
from compressor.training.method import Kind, Method
from compressor.training.step import Step
from recipes.config.published import networks_with, published_options
from recipes.terms.symmetries import Operations, apply, draw_operations, invert

PROBABILITY = 0.3
Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class DUKD(Method):
    variant: Annotated[
        Literal["paper+", "paper", "code"],
        Field(
            description="weights and updates of the paper, those of its code, or (paper+) one update with the code's "
            "weights"
        ),
    ] = "paper+"
    logits: Annotated[bool, Field(description="learn the teacher's image of the batch")] = True
    zoom_in: Annotated[bool, Field(description="learn the teacher's image of HR crops")] = True
    zoom_out: Annotated[
        Switch, Field(description="learn the teacher's image of shrunk LR patches; auto: off with attention windows")
    ] = "auto"
    augment: Annotated[bool, Field(description="flip, transpose and invert the colours of the student's input")] = True
    colours: Annotated[bool, Field(description="invert colours too, where the input is augmented")] = True
    probability: Annotated[
        float | None, Field(ge=0, le=1, description="probability of each operation of `augment`; none: the variant's")
    ] = None
    pixel_weight: Annotated[
        float | None, Field(ge=0, description="c, weight of the pixel loss; none: the variant's")
    ] = None
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
        """Return the method with zoom-out off for attention windows, or with the code's settings for this student."""
        if self.variant != "code":
            windowed = any(network.descriptor.window > 1 for network in (teacher, student) if network is not None)
            return replace(self, zoom_out="off" if windowed else "on") if self.zoom_out == "auto" else self
        own = {
            "pixel_weight": self.pixel_weight,
            "probability": self.probability,
            "zoom_out": None if self.zoom_out == "auto" else self.zoom_out,
            "cells": self.cells,
        }
        values = published_options(self.name, student.spec)
        values |= {name: value for name, value in own.items() if value is not None}
        if missing := [name for name in own if name not in values]:
            raise UsageError(
                f"dukd: the settings of variant code are published for {', '.join(networks_with(self.name))}, and not "
                f"for {student.spec.arch} x{student.spec.scale}: give {', '.join(missing)}, or take variant=paper+"
            )
        return replace(self, **values)

    def fit_sizes(self, teacher: Descriptor, lr_patch: int, scale: int) -> tuple[DUKD, str | None]:
        """Return the method with zoom-out off, or refuse it, if the shrunk patch does not fit the teacher."""
        smaller, least = -(-lr_patch // scale), teacher.min_size
        if not self.zooms_out or (smaller >= least and teacher.fixed_size in (None, (smaller, smaller))):
            return self, None
        sizes = f"images from {least} pixels on" if teacher.fixed_size is None else "images of one size"
        reason = (
            f"dukd: zoom_out gives the teacher {smaller}x{smaller} (schedule.lr_patch={lr_patch}), it takes {sizes}"
        )
        if self.zoom_out == "auto":
            return replace(self, zoom_out="off"), f"{reason}: zoom_out is off"
        remedy = f", or --lr-patch {least * scale}" if teacher.fixed_size is None else ""
        raise UsageError(f"{reason}: --set zoom_out=off{remedy}")

    @property
    def zooms_out(self) -> bool:
        return self.zoom_out != "off"

    @property
    def updates(self) -> int:
        return 2 if self.variant == "code" else 1

    @property
    def takes_outputs(self) -> bool:
        return self.logits

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
        """Return the terms of the current update: of the original pair, of the new inputs, or both."""
        terms = {}
        new = self._new_inputs(step) if step.part == self.updates - 1 else {}
        if step.part == 0:
            # HR crops have the size of the LR patches: one pass for both costs less.
            crops = [new["zoom_in"]] if "zoom_in" in new else []
            step.run_together(
                student=[step.lr, *(crop.augmented for crop in crops)],
                teacher=[step.lr, *(crop.images for crop in crops)] if self.logits else (),
            )
            sr = step.student().sr
            terms["pixel"] = F.l1_loss(sr, step.hr)
            if self.logits:
                terms["logits"] = F.l1_loss(sr, step.teacher().sr.detach())
        terms |= {name: self._consistency(step, new_input) for name, new_input in new.items()}
        if self.variant == "code" and "zoom_out" in new:
            sr = step.student(step.zoom_out()).sr
            if sr.shape != step.lr.shape:
                raise UsageError(
                    f"dukd: variant code compares the student's image of the shrunk LR patch with the patch: "
                    f"schedule.lr_patch={step.lr.shape[-1]} is not a multiple of the scale {step.scale}"
                )
            terms["zoom_out_pixel"] = F.l1_loss(sr, step.lr)
        return terms

    def _new_inputs(self, step: Step) -> dict[str, NewInput]:
        inputs, is_code = {}, self.variant == "code"
        if self.zoom_in:
            size, draw = (step.lr.shape[-2], step.lr.shape[-1]), {"seed": step.seed, "step": step.number}
            if is_code:
                larger = zoom_in_cells(step.hr, size, self.cells or 1, **draw)
            else:
                larger = zoom_in(step.hr, size, **draw, samples=step.samples)
            inputs["zoom_in"] = self._new_input(step, larger, "dukd-zoom-in", self.augment)
        if self.zooms_out:
            inputs["zoom_out"] = self._new_input(step, step.zoom_out(), "dukd-zoom-out", self.augment and not is_code)
        return inputs

    def _new_input(self, step: Step, images: torch.Tensor, stream: str, augment: bool) -> NewInput:
        probability = PROBABILITY if self.probability is None else self.probability
        if not (augment and probability):
            return NewInput(images, images)
        copies = len(images) // len(step.lr)
        seed, number, samples = step.seed, step.number, step.samples
        operations = draw_operations(
            probability, stream=stream, seed=seed, step=number, samples=samples, copies=copies, like=images
        )
        if not self.colours:
            operations = replace(operations, inverted=torch.zeros_like(operations.inverted))
        return NewInput(images, apply(images, operations), operations)

    def _consistency(self, step: Step, new_input: NewInput) -> torch.Tensor:
        """Return the L1 between the student's output, restored after augmentation, and the teacher's."""
        target, sr = step.teacher(new_input.images).sr.detach(), step.student(new_input.augmented).sr
        restored = sr if new_input.operations is None else invert(sr, new_input.operations, bug=self.bug)
        return F.l1_loss(restored, target)


@dataclass(frozen=True)
class NewInput:
    """Images for the teacher, and the same for the student, augmented by `operations` if that is set."""

    images: torch.Tensor
    augmented: torch.Tensor
    operations: Operations | None = None


def zoom_in(hr: torch.Tensor, size: tuple[int, int], *, seed: int, step: int, samples: Sequence[int]) -> torch.Tensor:
    """Return each HR patch cropped to (height, width) at a random position."""
    height, width = size
    (corners,) = random_positions("dukd-crops", seed, step, samples, (hr.shape[-2] - height, hr.shape[-1] - width))
    return crop_each(hr, corners, height, width)


def zoom_in_cells(hr: torch.Tensor, size: tuple[int, int], count: int, *, seed: int, step: int) -> torch.Tensor:
    """Return `count` cells of the grid of LR-sized tiles, the same for the whole batch: (count·B,…), cell by cell."""
    height, width = size
    columns = hr.shape[-1] // width
    cells = hr.shape[-2] // height * columns
    if not 1 <= count <= cells:
        raise UsageError(
            f"an HR patch has {cells} cells of the LR patch's size, fewer than the {count} asked for: use fewer cells"
        )
    # One draw for the whole batch, that of sample 0, which every process can repeat.
    order = uniforms("dukd-cells", seed, step, [0], cells)[0].argsort(kind="stable")
    corners = [(int(cell) // columns * height, int(cell) % columns * width) for cell in order[:count]]
    return torch.cat([hr[..., top : top + height, left : left + width] for top, left in corners])
