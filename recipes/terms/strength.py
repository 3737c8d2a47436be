"""The strength of a perceptual student: which blend of a faithful and a textured one is the student of a run.

    student = (1 - a)·F + a·T,   a = the largest of STRENGTHS up to which, on patches that no step saw,
    flat ≤ 1.2·max(1, flat of F);    overshoot on clean inputs ≤ the larger of F's and c·bicubic's, where c is 0.7,
    and 0.55 for a student of degraded inputs, whose overshoot on these is ≤ 1.45·F's

overshoot: by how many grey levels Y leaves the teacher's 5×5 neighbourhood (compressor/images/looks.py);
flat: deviation within the flattest 5 % of the teacher's blocks of 8×8, over the teacher's. [choice]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from compressor.images.looks import overshoot, sharpness
from compressor.images.metrics import PEAK, as_in_a_file, luma, psnr
from compressor.images.resize import upscale_bicubic
from compressor.images.scores import StrengthRow
from compressor.models.networks.base import Network
from compressor.models.students.blend import Blended, Patches, between
from recipes.terms.texture import BLOCK_SIDE, deviations

STRENGTHS = tuple(step / 8 for step in range(9))
MOST_OVERSHOOT, MOST_CLEAN, MOST_CLEAN_BESIDE, MOST_FLAT = 1.45, 0.7, 0.55, 1.2
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
    share = MOST_CLEAN if clean is patches else MOST_CLEAN_BESIDE
    most_clean = max(rows[0].clean_overshoot, share * _overshoot(upscaled_bicubic, clean))
    most_overshoot = most_clean if clean is patches else MOST_OVERSHOOT * rows[0].overshoot
    most_flat, strength = MOST_FLAT * max(1.0, rows[0].flat), 0.0
    for row in rows:
        if row.overshoot > most_overshoot or row.clean_overshoot > most_clean or row.flat > most_flat:
            break
        strength = row.strength
    return Blended(faithful, textured, strength, tuple(rows))


def _row(strength: float, network: Network, patches: Patches, clean: Patches) -> StrengthRow:
    pairs = [(network(lr).float(), target) for lr, target in patches]
    levels = [_in_levels(sr, target) for sr, target in pairs]
    own, teacher = (
        torch.cat([deviations(image, BLOCK_SIDE).flatten() for image in side]) for side in zip(*pairs, strict=True)
    )
    flattest = teacher <= teacher.quantile(FLATTEST)
    flat = float(own[flattest].mean().clamp_min(FLOOR) / teacher[flattest].mean().clamp_min(FLOOR))
    db, sharp, over = (_mean([measure(*pair) for pair in levels]) for measure in (psnr, sharpness, overshoot))
    on_clean = over if clean is patches else _overshoot(lambda lr, _: network(lr).float(), clean)
    return StrengthRow(strength, db, sharp, over, on_clean, flat)


def upscaled_bicubic(lr: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return upscale_bicubic(lr, target.shape[-1] // lr.shape[-1])


def _overshoot(enlarge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], patches: Patches) -> float:
    return _mean([overshoot(*_in_levels(enlarge(lr, target), target)) for lr, target in patches])


def _in_levels(sr: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Y of both images on 0..255, the first as a file would hold it."""
    return luma(as_in_a_file(sr)), luma(target)


def _mean(figures: Sequence[torch.Tensor]) -> float:
    return float(torch.cat(list(figures)).nanmean())
