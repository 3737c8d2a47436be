"""HKDSR: the teacher's intermediate images teach the student's, by high bands and by a learned mix with the label.

    I_g   = tail(body_end(f_g) + f_head), the network's own parts behind tap g; the last of the outputs is S or T itself
    stage 1, a copy of the teacher   L = Σ_i L1(I_i, y)
    stage 2, the student             L = L1(S, y) + β_w·Σ_i ω_i·FSM(I_i^S, I_i^T) + β_a·Σ_i L1(I_i^S, Z_i)

FSM compares high Haar bands, Z_i is the mix that gate i makes of y and I_i^T (terms/hkdsr.py); gates learn with the
student. Only the paper's abstract was available; code followed: wslgqq277g/HKDSR, three generations of it.

- FSM: the abstract has similarity matrices with y, the newest code (sr_l1_model.py) the L1 of bands. Bands by default;
  `fsm="matrix"` is the older SimLoss on random windows of 24×24 of each band (that code: whole bands), with that code's
  weights of it. Its weights of ACF, 0.5 and 1 (×2: 0.02 and 0.4), are not taken: β_a is 0.2 with either.
- ω: the newest code adds up a running sum, which makes (4,3,2,1) of four outputs, with β_w = 0.025. Decided here: ω = 1
  with β_w = 0.0625, the same total; `compat="hkdsr"` is the code's.
- Stage 1 of the code tunes at groups 0,2,4,6,8 what stage 2 uses at 0,4,9. Here the taps used later are tuned, for a
  third of the student's steps at a constant 1e-5. Without it a teacher's intermediate images mean nothing.
- The last tap listed is the last block, so that its image and the final one are the same and count twice, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.base.randomness import next_torch_seed
from compressor.models.networks.base import Network
from compressor.models.networks.registry import build
from compressor.models.taps import resolve_tap
from compressor.training.footprint import peak_bytes
from compressor.training.method import Calibrated, PlainMethod
from compressor.training.stage import EarlierStage
from compressor.training.step import Forward, Step
from recipes.composition import Kind
from recipes.features import FeaturePair, Shape, require_network, resolve_taps
from recipes.terms.hkdsr import band_l1, fusion_gate, windowed_matrix_l1

TUNING_RATE = 1e-5
OLDER_WEIGHTS = {2: (0.0005, 0.0025)}
"""The weights of SimLoss at an intermediate image and at the last, by scale; at other scales (0.8, 3.2)."""

Taps = Annotated[tuple[str, ...], Field(min_length=1, description="blocks whose features become images")]


@dataclass(frozen=True)
class Tuning(PlainMethod):
    """Stage 1: every output learns the label. The student of this stage is the teacher's copy."""

    taps: tuple[str, ...]
    name: str = "hkdsr-tuning"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        return {"outputs": 1.0}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        images = all_outputs(step.student(images=self.taps), self.taps)
        return {"outputs": torch.stack([F.l1_loss(image, step.hr) for image in images]).sum()}


@dataclass(frozen=True)
class Hkdsr(PlainMethod):
    teacher_taps: Taps = ("rel(1/3)", "rel(2/3)", "rel(1)")
    student_taps: Taps = ("rel(1/3)", "rel(2/3)", "rel(1)")
    fsm: Annotated[Literal["bands", "matrix"], Field(description="form of the term on high bands")] = "bands"
    band_weight: Annotated[
        float | None, Field(ge=0, description="β_w; none: 0.0625, with matrix 1, as HKDSR's code 0.025")
    ] = None
    fusion_weight: Annotated[float, Field(ge=0, description="β_a")] = 0.2
    tuning: Annotated[
        float, Field(ge=0, le=1, description="steps of stage 1 as a share of the student's; 0: the teacher is tuned")
    ] = 1 / 3
    compat: Annotated[Literal["", "hkdsr"], Field(description="hkdsr: ω as HKDSR's code has it")] = ""
    name: str = "hkdsr"
    kind: Kind = "bands"

    def __post_init__(self) -> None:
        if len(self.teacher_taps) != len(self.student_taps):
            counts = f"{len(self.teacher_taps)} of the teacher and {len(self.student_taps)} of the student"
            raise UsageError(f"taps are compared in pairs, and there are {counts}: give as many of each")
        if self.compat and self.fsm == "matrix":
            raise UsageError("compat=hkdsr is the newest code's, which compares bands: leave out fsm=matrix")

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        default = 1.0 if self.fsm == "matrix" else 0.025 if self.compat else 0.0625
        bands = default if self.band_weight is None else self.band_weight
        return {"pixel": 1.0, "bands": bands, "fusion": self.fusion_weight}

    def earlier_stages(self) -> Sequence[EarlierStage]:
        if self.tuning == 0:
            return ()
        tuning = Tuning(self.teacher_taps)
        return (EarlierStage("tune the teacher", tuning, self.tuning, TUNING_RATE, tunes_teacher=True),)

    def fit(self, teacher: Network | None, student: Network) -> Hkdsr:
        """Refuse networks that cannot make an image of an intermediate feature, and taps that are not blocks."""
        if teacher is not None:
            self._require_blocks("teacher", teacher, self.teacher_taps)
        self._require_blocks("student", student, self.student_taps)
        return self

    def _require_blocks(self, side: str, network: Network, taps: Sequence[str]) -> None:
        if network.taps["body_end"] == network.taps["pre_up"]:
            raise UsageError(
                f"hkdsr makes images of intermediate features through a convolution and a skip behind the body, "
                f"and {network.spec.arch} has no such single tail input: use edsr, rcan or swinir"
            )
        for tap, name in zip(taps, resolve_taps(self.name, side, network, taps), strict=True):
            if not name.startswith("body["):
                raise UsageError(
                    f"hkdsr makes images of the outputs of blocks, and {tap} is none: use body[k] or rel(p)"
                )

    def feature_pairs(self, teacher: Network | None, student: Network) -> list[FeaturePair]:
        """Return the blocks whose images are compared; the final image needs no feature."""
        student_taps = resolve_taps(self.name, "student", student, self.student_taps)
        teacher_taps = resolve_taps(self.name, "teacher", require_network(teacher), self.teacher_taps)
        with torch.device("meta"):
            shell = build(student.spec)
        last = resolve_tap(student, "rel(1)")
        return [
            FeaturePair("bands", tap, teacher_tap, partial(self._bytes_of, shell, tap == last))
            for tap, teacher_tap in zip(student_taps, teacher_taps, strict=True)
        ]

    def _bytes_of(self, network: Network, last: bool, student: Shape, teacher: Shape, processes: int) -> int:
        """Return the memory to build and compare an image, with its backward pass; the last image exists already."""
        batch, _, height, width = student
        channels, scale = network.descriptor.channels, network.descriptor.scale

        def compare(image: torch.Tensor) -> torch.Tensor:
            target, hr = torch.empty_like(image), torch.empty_like(image)
            fused = fusion_gate(channels, seed=0)(hr, target)
            return self.fsm_loss(image, target, hr, 0, 0, range(batch)) + F.l1_loss(image, fused)

        def build_and_compare(feature: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
            return compare(network.finish(feature, shallow, torch.empty(batch, channels, height, width)))

        if last:
            return peak_bytes(compare, (batch, channels, scale * height, scale * width))
        return peak_bytes(build_and_compare, student, student)

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        channels, count = student.descriptor.channels, len(self.student_taps) + 1
        return nn.ModuleDict(
            {"gates": nn.ModuleList(fusion_gate(channels, seed=next_torch_seed()) for _ in range(count))}
        )

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        images = all_outputs(step.student(images=self.student_taps), self.student_taps)
        targets = all_outputs(step.teacher(images=self.teacher_taps), self.teacher_taps)
        gates = cast(nn.ModuleList, cast(nn.ModuleDict, step.modules[self.name])["gates"])
        shares = self.shares(len(images), step.scale)
        draw = (step.hr, step.seed, step.number, step.samples)
        # All bands before all fused labels: the order of the terms is the order in which their gradients are added.
        bands = [
            share * self.fsm_loss(image, target, *draw)
            for share, image, target in zip(shares, images, targets, strict=True)
        ]
        fused = [
            F.l1_loss(image, gate(step.hr, target)) for image, target, gate in zip(images, targets, gates, strict=True)
        ]
        return {
            "pixel": F.l1_loss(images[-1], step.hr),
            "bands": torch.stack(bands).sum(),
            "fusion": torch.stack(fused).sum(),
        }

    def shares(self, count: int, scale: int) -> tuple[float, ...]:
        """Return ω of so many outputs, the final one last."""
        if self.fsm == "matrix":
            intermediate, last = OLDER_WEIGHTS.get(scale, (0.8, 3.2))
            return (*[intermediate] * (count - 1), last)
        return tuple(float(count - i) for i in range(count)) if self.compat else (1.0,) * count

    def fsm_loss(
        self, image: torch.Tensor, target: torch.Tensor, hr: torch.Tensor, seed: int, step: int, samples: Sequence[int]
    ) -> torch.Tensor:
        """Return FSM of one pair of outputs; windows are drawn by seed, step and sample."""
        if self.fsm == "bands":
            return band_l1(image, target).mean()
        return windowed_matrix_l1(image, target, hr, seed=seed, step=step, samples=samples).mean()


def all_outputs(forward: Forward, taps: Sequence[str]) -> list[torch.Tensor]:
    """Return the images of the taps, in order, and the final one."""
    return [*(forward.images[tap] for tap in taps), forward.sr]
