"""The scores of a network's images on a set: how near they are to the originals, and to the teacher's images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.base.choices import Goal

EQUAL_DB = 120.0
"""The PSNR in dB that equal images have in a mean, in place of infinity."""

GOAL_WORDS: dict[Goal, str] = {"original": "to the original", "teacher": "to the teacher"}
"""How a figure says what it was measured against."""

LANCZOS = "lanczos"
"""The name of the second row without a network, where images are compared with a teacher's."""


def both_goals(goal: Goal) -> tuple[Goal, Goal]:
    """The goal, then the other one: the order in which figures are shown."""
    return ("original", "teacher") if goal == "original" else ("teacher", "original")


def goal_of(header: Mapping[str, str]) -> Goal:
    """What the student of a file with this header learned, and is judged by; any other file: the originals."""
    return "teacher" if header.get("srkd.goal") == "teacher" else "original"


def set_mean(figures: Sequence[float]) -> float:
    """The mean of the figures that there are (others are NaN); beside others, equal images count as `EQUAL_DB`."""
    known = [figure for figure in figures if not math.isnan(figure)]
    if any(map(math.isfinite, known)):
        known = [EQUAL_DB if figure == math.inf else figure for figure in known]
    return sum(known) / len(known) if known else math.nan


def without_network(scale: int | None) -> str:
    """The name of the row that networks are compared with: bicubic enlargements, at scale 1 the inputs as they are."""
    return "input" if scale == 1 else "bicubic"


@dataclass(frozen=True)
class Scores:
    """Means over a set of Y-PSNR in dB and of SSIM. None: there is nothing to compare with."""

    psnr_y: float | None = None
    """To the original images."""
    ssim_y: float | None = None
    psnr_y_teacher: float | None = None
    """To the teacher's images."""
    ssim_y_teacher: float | None = None

    def by(self, goal: Goal) -> float | None:
        """The Y-PSNR in dB by which a student is judged."""
        return self.psnr_y if goal == "original" else self.psnr_y_teacher


ALL_IMAGES = "the validation images"


def below_bicubic(
    name: str, by_set: Mapping[str, tuple[Scores, Scores]], goal: Goal = "original", scale: int | None = None
) -> str | None:
    """A warning if a network's images of a set are farther from its goal than those without a network.

    `by_set` has the scores of both; a set whose images without a network are the originals is not judged.
    """
    figures = []
    for title, (scores, plain) in by_set.items():
        own, others = scores.by(goal), plain.by(goal)
        if own is not None and others is not None and own < others < EQUAL_DB:
            figures.append(f"{own:.2f} dB against {others:.2f} dB {GOAL_WORDS[goal]} on {title}")
    if not figures:
        return None
    better = "the untouched input" if scale == 1 else "enlarging without a network"
    return (
        f"{name} is BELOW {without_network(scale).upper()}, {', '.join(figures)}: {better} is better. Train for more "
        "steps (--steps), at a rate that suits them (docs/use/recipes.md), on some hundred photos"
        + (", with a teacher that srkd inspect --check finds good" if goal == "original" else "")
    )


@dataclass(frozen=True)
class StrengthRow:
    """What a strength makes of patches that no step saw, beside the teacher's images of them."""

    strength: float
    psnr_y_teacher: float
    sharpness: float
    overshoot: float
    clean_overshoot: float
    flat: float
    """Deviation within the teacher's flattest blocks, over the teacher's."""
