"""Check of a teacher on an embedded photograph, before a student is trained on its outputs.

A wrong value range, residual scale, mean or colour order raises no error. The teacher may output noise; or, if its skip
connection hides the fault, a fair image that is no better than bicubic. So it is compared with the original: a teacher
that does not reach bicubic is run with other settings, and those that lift it above bicubic are reported.

A teacher of scale 1 is compared with its input in place of bicubic, on a pair of the user's. Without one its input is
the photograph itself, to which nothing is nearer: then only an output far from it is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import torch

from compressor.base.choices import Goal
from compressor.base.context import QUIET, Context
from compressor.base.errors import SrkdError
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import psnr, to_u8
from compressor.images.resize import centre_crop, downscale_u8, mirror_to, upscale_bicubic
from compressor.images.scores import EQUAL_DB, without_network
from compressor.images.sets import embedded_photos
from compressor.inference.super_resolve import rgb_to_ycbcr, ycbcr_to_rgb
from compressor.models.networks.base import ImageModel

PHOTO = "chelsea"
LR_SIDE = 64
EXPECTED_DB = 30.0
"""Typical PSNR in dB of a teacher to bicubic on this smooth photograph: CARN-M 36, DCTLSA 36, a GAN for films 31."""
FAR_DB = 25.0
"""Below this PSNR in dB to bicubic a teacher is suspect even without an explanation; those for looks have 28 to 31."""
ABOVE_DB = 0.25
"""Least gain in dB that makes a teacher better than bicubic: a skip connection alone equals bicubic, and torch's
bicubic, which is sharper, is 0.11 to 0.15 dB better on this photograph at scales 2 to 8."""
NEARER_DB = 3.0
"""Settings with which the teacher stays below bicubic are suggested if they gain at least this much."""
PLAUSIBLE_DB = 20.0
"""An output below this PSNR in dB is noise; the better of two kinds of noise is not suggested."""
FEWER_CHANGES_DB = 0.5
LEAST_GAIN_DB = 0.2
"""The least gain in dB of a suggestion: of two nearly equal settings, neither is wrong."""

TrialPair: TypeAlias = tuple[str, torch.Tensor, torch.Tensor]
"""The name of an LR image, the image and its original in bytes, (3,h,w) and (3,H,W), to try a teacher on."""


@dataclass(frozen=True)
class TeacherCheck:
    """A teacher's PSNR in dB over RGB on one photograph. `suggestion` holds options that make the teacher far more
    plausible, and `with_suggestion` is its PSNR to the original with them. At scale 1, bicubic is the input.
    """

    scale: int
    photo: str
    to_bicubic: float
    to_original: float
    bicubic_to_original: float
    suggestion: Mapping[str, Any]
    with_suggestion: float | None

    @property
    def beats_bicubic(self) -> bool:
        return self.to_original >= self.bicubic_to_original + ABOVE_DB

    @property
    def is_clean(self) -> bool:
        """Whether the input is the original, as at scale 1 on a photo without a degraded image."""
        return self.bicubic_to_original >= EQUAL_DB

    @property
    def is_for_looks(self) -> bool:
        """Whether it is an ordinary network that is no nearer to the original than bicubic."""
        is_ordinary = self.advice is None and self.to_bicubic >= FAR_DB and not self.is_clean
        return self.goal == "teacher" and is_ordinary

    @property
    def goal(self) -> Goal:
        """What a student of this teacher is judged by."""
        return "original" if self.to_original > self.bicubic_to_original else "teacher"

    @property
    def why_teacher(self) -> str:
        """Why a student is judged by the teacher's images, for the goal `teacher`."""
        if self.is_clean:
            return "no stored pairs decide, and at scale 1 the input is otherwise the original"
        return self._figures

    @property
    def _figures(self) -> str:
        return (
            f"the teacher has {self.to_original:.2f} dB to the original of the photo {self.photo!r}, "
            f"{without_network(self.scale)} {self.bicubic_to_original:.2f}"
        )

    @property
    def options(self) -> str:
        return format_options(self.suggestion)

    @property
    def advice(self) -> str | None:
        if not self.suggestion:
            return None
        return f"{self._figures}; with {self.options} it has {self.with_suggestion:.2f}"

    def lines(self) -> tuple[str, ...]:
        """Return notes: one line with the figures, and a warning if the teacher is no better than bicubic."""
        plain, start = without_network(self.scale), f"teacher check on the photo {self.photo!r}: "
        if self.is_clean:
            lines = [f"{start}{self.to_original:.2f} dB to it; at scale 1 a photo is its own input"]
            if self.to_original < FAR_DB:
                lines.append(
                    "warning: the teacher changes a clean photo much: are its value range, order of colours and mean "
                    "right (--arch-option), and was it trained?"
                )
            return tuple(lines)
        usual = "" if self.scale == 1 else f" (most teachers have {EXPECTED_DB:.0f})"
        lines = [
            f"{start}{self.to_original:.2f} dB to the original, {plain} {self.bicubic_to_original:.2f}; to {plain} "
            f"{self.to_bicubic:.1f}{usual}"
        ]
        if self.advice is not None:
            lines.append(f"warning: {self.advice}: the file does not say what is right, and nothing was changed")
        elif self.to_bicubic < FAR_DB and not self.beats_bicubic:
            lines.append(
                f"warning: the teacher is far from {plain}, and no other value range, order of colours, residual scale "
                "or mean explains it: was it trained for other images, or not at all?"
            )
        elif not self.beats_bicubic and self.to_original > self.bicubic_to_original:
            lines.append(
                f"warning: the teacher is hardly better than {plain} against the original, as a skip connection is "
                "and a student will learn no more"
            )
        elif not self.beats_bicubic:
            lines.append(
                f"the teacher is no better than {plain} against the original, as networks trained for looks are: its "
                "students are judged by its images"
            )
        return tuple(lines)


def check_teacher(teacher: ImageModel, pairs: Sequence[TrialPair] = (), context: Context = QUIET) -> TeacherCheck:
    """Return the check of a teacher on the photograph; if it is no better than bicubic, other settings are tried. At
    scale 1 it is made on the pair that is degraded most, if there is one.
    """
    scale = teacher.descriptor.scale
    size = teacher.descriptor.fixed_size or (LR_SIDE, LR_SIDE)
    name, hr, lr = PHOTO, *_photo(scale, size)
    if scale == 1 and pairs:
        crops = [(name, _middle(hr[None], size) / 255, _middle(lr[None], size) / 255) for name, lr, hr in pairs]
        name, hr, lr = min(crops, key=lambda crop: _psnr(crop[1], crop[2]))
    bicubic = upscale_bicubic(lr, scale)
    sr = _outputs(teacher, lr)
    check = TeacherCheck(scale, name, _psnr(sr, bicubic), _psnr(sr, hr), _psnr(bicubic, hr), {}, None)
    if check.beats_bicubic or check.is_clean:
        return check
    suggestion, with_suggestion = _best_alternative(teacher, lr, hr, check, context)
    return replace(check, suggestion=suggestion, with_suggestion=with_suggestion)


@cache
def _photo(scale: int, lr_size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the photograph's centre in [0,1], mirrored if it is too small, and its LR image of (width, height)."""
    hr = _middle(read_rgb_u8(embedded_photos("val")[PHOTO]), (lr_size[0] * scale, lr_size[1] * scale))
    return hr[None].float() / 255, downscale_u8(hr, scale)[None].float() / 255


def _middle(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The middle of an image in (width, height), mirrored where the image is smaller."""
    width, height = size
    return centre_crop(mirror_to(image, height, width), height, width)


@torch.no_grad()
def _outputs(teacher: ImageModel, lr: torch.Tensor) -> torch.Tensor:
    """Return the RGB output; a one-channel teacher receives Y, as everywhere."""
    if teacher.descriptor.channels == 1:
        ycbcr = rgb_to_ycbcr(lr)
        colour = upscale_bicubic(ycbcr[:, 1:], teacher.descriptor.scale)
        sr = ycbcr_to_rgb(torch.cat([teacher(ycbcr[:, :1]), colour], 1))
    else:
        sr = teacher(lr)
    if not bool(sr.isfinite().all()):
        raise SrkdError("the teacher gives NaN or infinity on an ordinary photograph: it cannot teach")
    return sr


def _psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the PSNR in dB over RGB of two images rounded to 8 bit."""
    return min(EQUAL_DB, float(psnr(to_u8(first), to_u8(second)).mean()))


def _best_alternative(
    teacher: ImageModel, lr: torch.Tensor, hr: torch.Tensor, check: TeacherCheck, context: Context
) -> tuple[Mapping[str, Any], float | None]:
    """Return the likeliest settings that lift the teacher above bicubic, or gain 3 dB, and the PSNR with them. At scale
    1 they must lift it above the input: settings that hide what the network adds come close to it.
    """
    best: tuple[Mapping[str, Any], float | None] = {}, None
    above = check.bicubic_to_original + ABOVE_DB
    nearer = above if check.scale == 1 else min(above, check.to_original + NEARER_DB)
    needed = max(PLAUSIBLE_DB, check.to_original + LEAST_GAIN_DB, nearer)
    for round_of_settings in teacher.alternatives():
        for settings in context.each("teacher check, other settings", round_of_settings):
            try:
                value = _psnr(_outputs(teacher.with_settings(settings), lr), hr)
            except SrkdError:
                continue
            if value > max(needed, best[1] or 0.0):
                best = settings, value
        if best[1] is not None:
            needed = best[1] + FEWER_CHANGES_DB
            if best[1] >= above:
                break
    return best


def format_options(settings: Mapping[str, Any]) -> str:
    parts = {name: value if isinstance(value, tuple) else (value,) for name, value in settings.items()}
    texts = {name: [f"{part:g}" if isinstance(part, float) else str(part) for part in parts[name]] for name in parts}
    return " ".join(f"--arch-option {name}={'/'.join(text)}" for name, text in texts.items())
