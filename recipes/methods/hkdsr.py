"""HKDSR: the teacher's intermediate images teach the student's, by high bands and by a learned mix with the label.

    I_g   = tail(body_end(f_g) + f_head), the network's own parts after tap g; the last output is S or T itself
    stage 1, a copy of the teacher   L = Σ_i L1(I_i, y)
    stage 2, the student             L = L1(S, y) + β_w·Σ_i ω_i·FSM(I_i^S, I_i^T) + β_a·Σ_i L1(I_i^S, Z_i)
    FSM, bands     Σ over Haar's three high bands (haar.py) of L1(band(S), band(T))
    FSM, matrix    Σ over them of mean |M(S) - M(T)|,   M(I) = DWT(I)ᵀ · DWT(y), N×N over RGB, on windows of 24×24
    Z = q₀·y + q₁·T,   q = softmax(sigmoid(V₂·ReLU(V₁·GAP(concat(y, T))))),   V₁: 6 → 96, V₂: 96 → 2

Code followed: wslgqq277g/HKDSR, basicsr/losses/basic_loss.py (WaveLoss, SimLoss, AdaptLoss_nochannel), sr_l1_model.py.
Its three generations, and what was decided between them: docs/methods/hkdsr.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.base.randomness import crop_each, next_torch_seed, random_positions, torch_seed
from compressor.models.networks.base import Network
from compressor.training.calibration import Calibrated
from compressor.training.method import EarlierStage, FeaturePair, Kind, Method
from compressor.training.step import Forward, Step
from recipes.terms.distances import full_precision, sample_l1, widen
from recipes.terms.features import require_network, resolve_taps
from recipes.terms.haar import high_bands

WINDOW = 24
TUNING_RATE = 1e-5
OLDER_WEIGHTS = {2: (0.0005, 0.0025)}
"""Weights of SimLoss at an intermediate image and at the last, by scale; (0.8, 3.2) at other scales."""

Taps = Annotated[tuple[str, ...], Field(min_length=1, description="blocks whose features become images")]


@dataclass(frozen=True)
class Tuning(Method):
    """Stage 1: every output is trained on the label. The student of this stage is the copy of the teacher."""

    taps: tuple[str, ...]
    name: str = "hkdsr-tuning"
    kind: Kind = "bands"

    @property
    def weights(self) -> Mapping[str, float | Calibrated]:
        return {"outputs": 1.0}

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        images = all_outputs(step.student(images=self.taps), self.taps)
        return {"outputs": torch.stack([F.l1_loss(image, step.hr) for image in images]).sum()}


@dataclass(frozen=True)
class Hkdsr(Method):
    teacher_taps: Taps = ("rel(1/3)", "rel(2/3)", "rel(1)")
    student_taps: Taps = ("rel(1/3)", "rel(2/3)", "rel(1)")
    fsm: Annotated[
        Literal["bands", "matrix"], Field(description="high bands themselves, or matrices of them with the label's")
    ] = "bands"
    band_weight: Annotated[
        float | None,
        Field(ge=0, description="β_w, weight of the high bands; none: 0.0625; matrices: 1; compat hkdsr: 0.025"),
    ] = None
    fusion_weight: Annotated[float, Field(ge=0, description="β_a, weight of the learned mix with the label")] = 0.2
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
            raise UsageError("compat=hkdsr follows the newest code, which compares bands: leave out fsm=matrix")

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
        """Refuse networks that cannot compute an image from an intermediate feature, and taps that are not blocks."""
        if teacher is not None:
            self._require_blocks("teacher", teacher, self.teacher_taps)
        self._require_blocks("student", student, self.student_taps)
        return self

    def _require_blocks(self, side: str, network: Network, taps: Sequence[str]) -> None:
        if network.taps["body_end"] == network.taps["pre_up"]:
            raise UsageError(
                f"hkdsr makes images of intermediate features through a convolution and a skip behind the body, "
                f"and {network.spec.arch} has no such single tail input: use edsr, rcan, swinir or rrdbnet"
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
        return [FeaturePair("bands", *taps) for taps in zip(student_taps, teacher_taps, strict=True)]

    def modules(self, teacher: Network | None, student: Network) -> nn.ModuleDict:
        gates = nn.ModuleList()
        for _ in range(len(self.student_taps) + 1):
            with torch_seed(next_torch_seed()):
                gates.append(FusionGate(student.descriptor.channels))
        return nn.ModuleDict({"gates": gates})

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        images = all_outputs(step.student(images=self.student_taps), self.student_taps)
        targets = all_outputs(step.teacher(images=self.teacher_taps), self.teacher_taps)
        gates = cast(nn.ModuleList, step.modules[self.name]["gates"])
        shares = self.shares(len(images), step.scale)
        draw = (step.hr, step.seed, step.number, step.samples)
        # Compute all bands before all fused labels: the order of the terms is the order of adding their gradients.
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
        """Return the weights ω of `count` outputs, the final one last."""
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


def band_l1(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the sum of L1 over the three high bands for each sample, (B,)."""
    pairs = zip(high_bands(student), high_bands(teacher), strict=True)
    return torch.stack([sample_l1(*pair) for pair in pairs]).sum(0)


def matrix_l1(student: torch.Tensor, teacher: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return mean |M(S) - M(T)| of a band for each sample, (B,). M is linear in the image, so one product is enough."""
    with full_precision(student):
        difference = (widen(student) - widen(teacher)).flatten(2)
        product = difference.transpose(1, 2) @ widen(label).flatten(2)
        return product.abs().flatten(1).mean(1)


def windowed_matrix_l1(
    student: torch.Tensor,
    teacher: torch.Tensor,
    label: torch.Tensor,
    *,
    seed: int,
    step: int,
    samples: Sequence[int],
    window: int = WINDOW,
) -> torch.Tensor:
    """Return the sum of the matrix form over the three high bands, on a random window of each, (B,).

    The window is the same for S, T and y, and differs between samples and bands; small bands are used completely.
    """
    transformed = [high_bands(images) for images in (student, teacher, label)]
    height, width = transformed[0][0].shape[-2:]
    size = min(window, height), min(window, width)
    corners = random_positions("hkdsr-windows", seed, step, samples, (height - size[0], width - size[1]), draws=3)
    distances = [matrix_l1(*(crop_each(bands[k], corners[k], *size) for bands in transformed)) for k in range(3)]
    return torch.stack(distances).sum(0)


class FusionGate(nn.Module):
    """A gate with V₁ and V₂, for one output of the network."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(2 * channels, 32 * channels, 1)
        self.choose = nn.Conv2d(32 * channels, 2, 1)

    def shares(self, hr: torch.Tensor, teacher_sr: torch.Tensor) -> torch.Tensor:
        """Return q, (B,2,1,1): the shares of the ground truth and of the teacher."""
        with full_precision(hr):
            pooled = torch.cat((widen(hr), widen(teacher_sr)), 1).mean((2, 3), keepdim=True)
            return torch.softmax(torch.sigmoid(self.choose(torch.relu(self.squeeze(pooled)))), 1)

    def forward(self, hr: torch.Tensor, teacher_sr: torch.Tensor) -> torch.Tensor:
        """Return Z; its gradient only reaches the gate, as ground truth and teacher have none."""
        shares = self.shares(hr, teacher_sr)
        return shares[:, :1] * hr + shares[:, 1:] * teacher_sr
