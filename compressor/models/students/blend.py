"""Networks between two that were trained from one start: (1 - a)·F + a·T of their weights.

Between a student that keeps to its teacher's pixels (F) and one that also has its texture (T), both trained on from one
student for a few hundred steps, everything moves smoothly with the strength a, and a little beyond T, too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch

from compressor.base.errors import UsageError
from compressor.base.metadata import srkd_keys
from compressor.images.scores import StrengthRow
from compressor.models.checkpoints.header import FAITHFUL, TEXTURED, weights_file
from compressor.models.checkpoints.load import Loaded, load_checkpoint
from compressor.models.checkpoints.save import STRENGTH, save_network
from compressor.models.fitting.patches import embedded_patches
from compressor.models.networks.base import Network
from compressor.models.students.students import student_text

LEAST, MOST = -0.5, 1.5
"""Strengths that are allowed."""
Patches: TypeAlias = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""LR patches, and the teacher's images of them as files would hold them."""
FEW = 8
"""Patches of the embedded photos on which the middle is compared with the ends."""


@dataclass(frozen=True)
class Blended:
    """The two ends of a run, and the strength that is its student."""

    faithful: Network
    textured: Network
    strength: float
    rows: tuple[StrengthRow, ...]

    @property
    def student(self) -> Network:
        return between(self.faithful, self.textured, self.strength)


@torch.no_grad()
def blend(faithful: Network, textured: Network, strength: float) -> Network:
    """Return the network of a strength: 0 is the first, 1 the second, 0.5 the middle of their weights.

    Networks that do not share a start are refused: images of their middle are farther from theirs than these are from
    each other.
    """
    if faithful.spec != textured.spec or faithful.quantisation != textured.quantisation:
        raise UsageError(
            f"a blend is of two networks of one spec, and these are {student_text(faithful.spec)} and "
            f"{student_text(textured.spec)}"
        )
    if not LEAST <= strength <= MOST:
        raise UsageError(
            f"strength {strength:g} is outside {LEAST:g}..{MOST:g}: 0 is the faithful student, 1 the textured"
        )
    patches = embedded_patches(faithful.descriptor.scale, faithful.descriptor.channels)
    lr = patches[:: max(1, len(patches) // FEW)].to(faithful.device)
    first, middle, last = (between(faithful, textured, at)(lr) for at in (0.0, 0.5, 1.0))
    apart = (first - last).square().mean()
    if max((middle - first).square().mean(), (middle - last).square().mean()) > apart:
        raise UsageError(
            "the two networks were not trained from one start: the middle of their weights is farther from both than "
            "they are from each other"
        )
    return between(faithful, textured, strength)


def ends_of(model: Path) -> tuple[Path, Path]:
    """Return the files of both ends of a run folder, or of a student in it."""
    folder = weights_file(model).parent
    ends = folder / FAITHFUL, folder / TEXTURED
    if not all(end.is_file() for end in ends):
        raise UsageError(
            f"{model} has one strength: {FAITHFUL} and {TEXTURED}, which a run of perceptual keeps, are not beside it"
        )
    return ends


def load_blend(ends: tuple[Path, Path], strength: float, *, arch_options: Mapping[str, object] | None = None) -> Loaded:
    """Return the network of a strength between two files, with the facts of the first; scores are not the blend's."""
    faithful, textured = (load_checkpoint(end, arch_options=arch_options) for end in ends)
    header = {name: text for name, text in faithful.header.items() if name != "srkd.scores"}
    network = blend(faithful.network, textured.network, strength)
    return replace(faithful, network=network, header={**header, STRENGTH: f"{strength:g}"})


def write_blend(blended: Loaded, out: Path, more: Mapping[str, str] | None = None) -> None:
    save_network(blended.network, out, metadata={**srkd_keys(blended.header), **(more or {})})


@torch.no_grad()
def between(faithful: Network, textured: Network, strength: float) -> Network:
    """Return the network of a strength, of two that share a start."""
    blended = copy.deepcopy(faithful).requires_grad_(False).eval()
    state, other = blended.state_dict(), textured.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.lerp_(other[name].to(tensor.device), strength)
    return blended
