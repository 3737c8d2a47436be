"""The strength of a perceptual student: which blend of a faithful and a textured one is the student of a run.

    student = (1 - a)·F + a·T,   a = the largest of STRENGTHS up to which, on patches that no step saw,
    flat ≤ 1.2·max(1, flat of F);    overshoot on clean inputs ≤ the larger of F's and 0.7·bicubic's
    or, of a student of degraded inputs, of 1.25·F's and 0.55·bicubic's, and on degraded ones ≤ 1.45·F's;
    0 if F is not 2 dB nearer to the teacher than bicubic: it does not know where the texture lies

overshoot: by how many grey levels Y leaves the teacher's 5×5 neighbourhood (compressor/images/looks.py);
flat: deviation within the flattest 5 % of the teacher's blocks of 8×8, over the teacher's. [choice]
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from compressor.images.looks import overshoot, sharpness
from compressor.images.metrics import PEAK, as_in_a_file, luma, psnr
from compressor.images.resize import upscale_bicubic
from compressor.images.scores import StrengthRow
from compressor.models.networks.base import Network
from compressor.models.students.blend import Blended, Patches, between
from recipes.terms.texture import block_deviations

STRENGTHS = tuple(step / 8 for step in range(9))
MOST_OVERSHOOT, MOST_FLAT = 1.45, 1.2
MOST_CLEAN, MOST_CLEAN_BESIDE = (1.0, 0.7), (1.25, 0.55)
"""How many times F's or bicubic's overshoot a student may have on clean inputs: after a run on clean, degraded ones."""
LEAST_OVER_BICUBIC = 2.0
FLATTEST = 0.05
FLOOR = 0.5 / PEAK
"""The smallest deviation that counts: half a level, as images are rounded."""


@torch.no_grad()
def blended(faithful: Network, textured: Network, patches: Patches, clean: Patches) -> Blended:
    """Return the two students with the largest strength up to which every blend keeps to the bounds.

    `clean` are patches of clean inputs: `patches` themselves if the run's are clean. Both students are as they run
    after training, so that files of them blend as they do.
    """
    faithful, textured = faithful.deployed(), textured.deployed()
    rows = [_row(strength, between(faithful, textured, strength), patches, clean) for strength in STRENGTHS]
    of_faithful, of_bicubic = MOST_CLEAN if clean is patches else MOST_CLEAN_BESIDE
    most_clean = max(of_faithful * rows[0].clean_overshoot, of_bicubic * _mean(overshoot, _bicubic(clean)))
    is_followed = rows[0].psnr_y_teacher >= _mean(psnr, _bicubic(patches)) + LEAST_OVER_BICUBIC
    most_overshoot = most_clean if clean is patches else MOST_OVERSHOOT * rows[0].overshoot
    most_flat, strength = MOST_FLAT * max(1.0, rows[0].flat), 0.0
    for row in rows if is_followed else ():
        if row.overshoot > most_overshoot or row.clean_overshoot > most_clean or row.flat > most_flat:
            break
        strength = row.strength
    return Blended(faithful, textured, strength, tuple(rows))


def _row(strength: float, network: Network, patches: Patches, clean: Patches) -> StrengthRow:
    pairs = [(network(lr).float(), target) for lr, target in patches]
    own, teacher = (
        torch.cat([block_deviations(image).flatten() for image in side]) for side in zip(*pairs, strict=True)
    )
    flattest = teacher <= teacher.quantile(FLATTEST)
    flat = float(own[flattest].mean().clamp_min(FLOOR) / teacher[flattest].mean().clamp_min(FLOOR))
    db, sharp, over = (_mean(measure, pairs) for measure in (psnr, sharpness, overshoot))
    on_clean = over if clean is patches else _mean(overshoot, [(network(lr).float(), target) for lr, target in clean])
    return StrengthRow(strength, db, sharp, over, on_clean, flat)


def _bicubic(patches: Patches) -> Patches:
    return [(upscale_bicubic(lr, target.shape[-1] // lr.shape[-1]), target) for lr, target in patches]


def _mean(measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], pairs: Patches) -> float:
    """Return the mean over all patches of a measure of Y on 0..255, of images as a file would hold them."""
    return float(torch.cat([measure(luma(as_in_a_file(sr)), luma(target)) for sr, target in pairs]).nanmean())
