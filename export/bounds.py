"""How far an exported file may be from its network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """On photos `max_abs`, or `min_psnr` in dB where that is given; elsewhere `max_abs_elsewhere`, or the same as on
    photos."""

    max_abs: float
    min_psnr: float | None = None
    max_abs_elsewhere: float | None = None

    def largest(self, *, photo: bool) -> float:
        return self.max_abs if photo or self.max_abs_elsewhere is None else self.max_abs_elsewhere


FP32 = Bounds(max_abs=1e-4)
HALF = Bounds(max_abs=0.1, min_psnr=60.0)
"""fp16; elsewhere than on photos a tenth of the range is allowed."""
BF16 = Bounds(max_abs=0.1, min_psnr=40.0)
"""Eight bits of mantissa: a network whose last layer adds the image in bf16 cannot be nearer than about 55 dB."""
