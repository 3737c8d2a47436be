"""Check a teacher on an embedded photograph, before anything is trained towards its outputs.

A wrong value range, residual scale or mean raises no error: the teacher gives noise. On a smooth photograph a good
teacher and the bicubic upscale agree to 30 dB or more (CARN-M 36, DCTLSA 36, a GAN for animation 31 on this one);
textured images prove nothing, where even good networks are at 22 dB.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from compressor.base.errors import SrkdError
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import to_u8
from compressor.images.resize import downscale_u8, reflected_indices, upscale_bicubic
from compressor.images.sets import embedded_photos
from compressor.inference.super_resolve import rgb_to_ycbcr, ycbcr_to_rgb
from compressor.models.networks.base import ImageModel

PHOTO = "chelsea"
LR_SIDE = 64
EXPECTED_DB = 30.0
FAR_DB = 25.0
"""Below this a teacher is suspect even where nothing explains it; networks for perceptual quality have 28 to 31."""
NEARER_DB = 3.0
"""An alternative must be nearer by this much to be suggested."""
PLAUSIBLE_DB = 20.0
"""An output below this is noise under any setting, and the better of two kinds of noise is not a suggestion."""
FEWER_CHANGES_DB = 0.5


@dataclass(frozen=True)
class TeacherCheck:
    """PSNR in dB over RGB on one photograph; `suggestion` holds options that make the teacher far more plausible."""

    photo: str
    to_bicubic: float
    to_original: float
    bicubic_to_original: float
    suggestion: Mapping[str, Any]
    with_suggestion: float | None

    @property
    def suspicious(self) -> bool:
        return self.to_bicubic < EXPECTED_DB

    @property
    def options(self) -> str:
        """The suggestion as options of the command line."""
        return " ".join(f"--arch-option {name}={_format_value(value)}" for name, value in self.suggestion.items())

    def lines(self) -> tuple[str, ...]:
        """Return notes: one line for the figures, one for a suspicion, one for a teacher worse than bicubic."""
        lines = [
            f"teacher check on the photo {self.photo!r}: {self.to_bicubic:.1f} dB to bicubic (a good teacher has "
            f"{EXPECTED_DB:.0f} or more); to the original {self.to_original:.2f} dB, bicubic "
            f"{self.bicubic_to_original:.2f}"
        ]
        if self.suggestion:
            lines.append(
                f"warning: {self.with_suggestion:.1f} dB to bicubic with {self.options}: the file does not say what is "
                "right, and nothing was changed; add it if the teacher was trained so"
            )
        elif self.to_bicubic < FAR_DB:
            lines.append(
                "warning: the teacher is far from bicubic and no other value range, residual scale or mean explains "
                "it: was it trained for other images, or not at all?"
            )
        if self.to_original < self.bicubic_to_original:
            lines.append(
                "warning: the teacher is worse than bicubic against the original, as networks trained for perceptual "
                "quality are"
            )
        return tuple(lines)


def check_teacher(teacher: ImageModel) -> TeacherCheck:
    """Run a teacher on the photograph; where it is far from bicubic, try other settings."""
    scale = teacher.descriptor.scale
    hr, lr = _photo(scale, teacher.descriptor.fixed_size or (LR_SIDE, LR_SIDE))
    bicubic = upscale_bicubic(lr, scale)
    sr = _outputs(teacher, lr)
    to_bicubic = _psnr(sr, bicubic)
    suggestion: Mapping[str, Any] = {}
    with_suggestion: float | None = None
    if to_bicubic < EXPECTED_DB:
        suggestion, with_suggestion = _nearest_alternative(teacher, lr, bicubic, to_bicubic)
    return TeacherCheck(
        photo=PHOTO,
        to_bicubic=to_bicubic,
        to_original=_psnr(sr, hr),
        bicubic_to_original=_psnr(bicubic, hr),
        suggestion=suggestion,
        with_suggestion=with_suggestion,
    )


@cache
def _photo(scale: int, lr_size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the photograph's middle in [0,1], reflected where it is too small, and its LR image of (width, height)."""
    hr = read_rgb_u8(embedded_photos("val")[PHOTO])
    for axis, side in ((-1, lr_size[0] * scale), (-2, lr_size[1] * scale)):
        first = max(0, (hr.shape[axis] - side) // 2)
        hr = hr.index_select(axis, reflected_indices(torch.arange(first, first + side), hr.shape[axis]))
    return hr[None].float() / 255, downscale_u8(hr, scale)[None].float() / 255


@torch.no_grad()
def _outputs(teacher: ImageModel, lr: torch.Tensor) -> torch.Tensor:
    """Return the RGB output; a one-channel teacher gets Y, as it does everywhere."""
    if teacher.descriptor.channels == 1:
        ycbcr = rgb_to_ycbcr(lr)
        colour = upscale_bicubic(ycbcr[:, 1:], teacher.descriptor.scale)
        sr = ycbcr_to_rgb(torch.cat([teacher(ycbcr[:, :1]), colour], 1))
    else:
        sr = teacher(lr)
    if not bool(sr.isfinite().all()):
        raise SrkdError("the teacher gives NaN or infinity on an ordinary photograph: it cannot teach")
    return sr


def _psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the PSNR over RGB, both rounded to 8 bit; two equal images count as 99 dB."""
    error = (to_u8(one).float() - to_u8(other).float()).square().mean()
    return float(10 * torch.log10(255**2 / error)) if error > 0 else 99.0


def _nearest_alternative(
    teacher: ImageModel, lr: torch.Tensor, bicubic: torch.Tensor, current: float
) -> tuple[Mapping[str, Any], float | None]:
    """Return the fewest changed settings that come near, and their PSNR; none where none is 3 dB nearer."""
    best: tuple[Mapping[str, Any], float | None] = {}, None
    needed = max(current + NEARER_DB, PLAUSIBLE_DB)
    for changes, changed in _alternatives(teacher):
        try:
            value = _psnr(_outputs(changed, lr), bicubic)
        except SrkdError:
            continue
        if value > needed:
            best, needed = (changes, value), value + FEWER_CHANGES_DB
    return best


def _alternatives(teacher: ImageModel) -> Iterator[tuple[Mapping[str, Any], ImageModel]]:
    """Yield the same weights under other settings, those with the fewest changes first."""
    choices = [[(name, value) for value in values] for name, values in teacher.alternatives.items()]
    for count in range(1, len(choices) + 1):
        for combination in itertools.combinations(choices, count):
            for changes in itertools.product(*combination):
                yield dict(changes), teacher.with_settings(dict(changes))


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(f"{part:g}" for part in value)
    return f"{value:g}"
