"""Whether one network is better than another, from differences that are paired over seeds and images.

A difference in dB of seed s on image i is modelled as gain + a_s + b_i + e_si with random seeds and images, because a
gain has to hold for other seeds and other images. From the mean squares of the table of S·I differences (two ways, no
repeats),

    SE² = (MS_seeds + MS_images - MS_rest) / (S·I)

with the degrees of freedom of Satterthwaite (Biometrics Bulletin 2, 1946), and not less than from seeds or images
alone. With one figure for each seed this is the paired t-test. Two one-sided tests (Schuirmann, 1987) show that there
is no difference: only they can, since a large p-value alone shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GainVerdict = Literal["better", "worse", "no difference", "not settled"]

ALPHA = 0.05
"""The chance of a wrong verdict in a table, all of its rows together."""
FEWEST_SEEDS = 3
"""Two seeds say nothing of the spread between seeds."""
PANELS = 2000


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, its standard error and the degrees of freedom; one seed has only the mean."""

    mean: float
    error: float | None = None
    freedom: float | None = None

    @classmethod
    def of(cls, differences: Sequence[Sequence[float]]) -> PairedDifference:
        """The mean and its error, from the differences of each seed on the same images in the same order."""
        seeds, images = len(differences), len(differences[0])
        count = seeds * images
        mean = math.fsum(map(math.fsum, differences)) / count
        if seeds < 2:
            return cls(mean)
        by_seed = [math.fsum(row) / images - mean for row in differences]
        by_image = [math.fsum(column) / seeds - mean for column in zip(*differences, strict=True)]
        rest = math.fsum(
            (difference - mean - seed - image) ** 2
            for row, seed in zip(differences, by_seed, strict=True)
            for difference, image in zip(row, by_image, strict=True)
        )
        squares = [(images * math.fsum(each**2 for each in by_seed) / (seeds - 1), float(seeds - 1))]
        if images > 1:
            squares.append((seeds * math.fsum(each**2 for each in by_image) / (images - 1), float(images - 1)))
            of_rest, freedom = rest / ((seeds - 1) * (images - 1)), float((seeds - 1) * (images - 1))
            total = sum(square for square, _ in squares) - of_rest
            if total > 0:
                parts = math.fsum(square**2 / each for square, each in (*squares, (of_rest, freedom)))
                squares.append((total, total**2 / parts))
        square, freedom = max(squares)
        return cls(mean, math.sqrt(square / count), freedom)

    def p_value(self, other: float = 0.0) -> float:
        """The chance of a mean as far from `other` on either side, if `other` were the true difference."""
        distance = abs(self.mean - other)
        if self.error is None or self.freedom is None or distance == 0:
            return 1.0
        return 0.0 if self.error == 0 else two_sided(distance / self.error, self.freedom)

    def p_equal(self, bound: float) -> float:
        """The larger p-value of the two one-sided tests of a true difference outside of ±bound."""
        if self.error is None or abs(self.mean) >= bound:
            return 1.0
        return max(self.p_value(bound), self.p_value(-bound)) / 2

    def verdict(self, seeds: int, bound: float, rows: int) -> GainVerdict:
        """What `seeds` show at `ALPHA` in a table of so many rows (Bonferroni); no difference: within ±`bound`."""
        if seeds < FEWEST_SEEDS or math.isnan(self.mean):
            return "not settled"
        if self.p_equal(bound) * rows < ALPHA:
            return "no difference"
        return "not settled" if self.p_value() * rows >= ALPHA else "better" if self.mean > 0 else "worse"


def two_sided(t: float, freedom: float) -> float:
    """P(|T| > t) of Student's distribution: with T = √ν·tan θ its density is cos^(ν-1) θ, summed by Simpson's rule."""
    start = math.atan(t / math.sqrt(freedom))
    width = (math.pi / 2 - start) / PANELS
    total = math.fsum(
        (1 if n in (0, PANELS) else 4 if n % 2 else 2) * math.cos(start + n * width) ** (freedom - 1)
        for n in range(PANELS + 1)
    )
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return min(1.0, 2 * scale * total * width / 3)
