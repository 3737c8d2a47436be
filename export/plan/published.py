"""Published times of other networks on devices that one does not have: a rough guide.

A stack of 3x3 convolutions at the size of the LR image multiplies each weight once a pixel, so its MACs are its
parameters times the pixels. Between two published stacks the time of a third is taken on a straight line of log(ms)
over log(MACs). If the middle one of the stacks below is left out, that line misses its time by a factor of 1.7, so each
guess is a range of a factor of `SPREAD` to both sides. Nothing is guessed beyond the smallest and largest stack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

MARK = "rough guide, from published figures of other networks, not measured"
SPREAD = 2.0
"""Factor by which a guess may be wrong either way."""

NumberFormat = Literal["float", "w8a8"]


@dataclass(frozen=True)
class PublishedTime:
    """One published network: its counts, its ms an image in float and in eight bits, and its PSNR in dB."""

    network: str
    params: int | None
    """None: not part of the source."""
    float_ms: float
    w8a8_ms: float
    float_db: float | None = None
    w8a8_db: float | None = None
    is_stack: bool = False
    lr_side: int = 128

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of an image, for a stack only."""
        return self.params * self.lr_side**2 if self.is_stack and self.params is not None else None

    def ms(self, number_format: NumberFormat) -> float:
        return self.float_ms if number_format == "float" else self.w8a8_ms


@dataclass(frozen=True)
class PublishedDevice:
    """A device with published times."""

    name: str
    title: str
    chip: str
    source: str
    rows: tuple[PublishedTime, ...]

    def span(self) -> tuple[int, int]:
        """The least and the most MACs of a published stack."""
        macs = [row.macs for row in self.rows if row.macs is not None]
        return min(macs), max(macs)


@dataclass(frozen=True)
class RoughTime:
    """A guess in ms, and the range that it stands for."""

    ms: float
    low: float
    high: float


# Times and PSNR as the site shows them; parameters of QuickSRNetLarge from its info.yaml in quic/ai-hub-models.
_GALAXY_S25 = PublishedDevice(
    name="galaxy-s25-npu",
    title="Samsung Galaxy S25, NPU",
    chip="Snapdragon 8 Elite",
    source="Qualcomm AI Hub, https://aihub.qualcomm.com/models",
    rows=(
        PublishedTime("XLSR ×3", 28_000, 0.36, 0.20, 29.3, 29.3),
        PublishedTime("QuickSRNetSmall", 33_000, 0.36, 0.17, 29.3, 28.6, is_stack=True),
        PublishedTime("SESR-M5", None, 1.04, 0.38, 29.3, 29.3),
        PublishedTime("QuickSRNetLarge", 436_000, 1.04, 0.35, 29.7, 29.6, is_stack=True),
        PublishedTime("Compact 64x32 ×4", 1_210_000, 3.25, 0.92, 27.1, 27.2, is_stack=True),
        PublishedTime("RRDBNet, Real-ESRGAN x4plus", None, 37.9, 12.4),
    ),
)

PUBLISHED: Mapping[str, PublishedDevice] = MappingProxyType({device.name: device for device in (_GALAXY_S25,)})
"""Devices by the name that `srkd plan --device` takes."""


def guess(device: PublishedDevice, macs: int, number_format: NumberFormat) -> RoughTime | str:
    """The guess for a stack of 3x3 convolutions at the size of the LR image; in words why there is none."""
    least, most = device.span()
    if not least <= macs <= most:
        return f"outside of the figures, which are of {least / 1e9:.2g} to {most / 1e9:.2g} GMAC"
    points = [(row.macs, row.ms(number_format)) for row in device.rows if row.macs is not None]
    ms = between(points, macs)
    return RoughTime(ms, ms / SPREAD, ms * SPREAD)


def between(points: Sequence[tuple[int, float]], macs: int) -> float:
    """The time at some MACs, on the straight lines of log(ms) over log(MACs) between neighbouring points."""
    ordered = sorted(points)
    (left, low), (right, high) = next(pair for pair in pairwise(ordered) if macs <= pair[1][0])
    share = math.log(macs / left) / math.log(right / left)
    return float(low * (high / low) ** share)


def docs_table(device: PublishedDevice) -> str:
    """The figures of a device as the table of docs/use/plan.md."""
    lines = ["| network | parameters | float ms | w8a8 ms | float dB | w8a8 dB |", "|---|---|---|---|---|---|"]
    for row in device.rows:
        params = "-" if row.params is None else f"{row.params / 1000:,.0f}K"
        decibels = ("-" if db is None else f"{db:.1f}" for db in (row.float_db, row.w8a8_db))
        lines.append(f"| {' | '.join((row.network, params, f'{row.float_ms:g}', f'{row.w8a8_ms:g}', *decibels))} |")
    return "\n".join(lines)
