"""Facts about an exported 8-bit file: its flavour, its calibration and its loss, stored in `srkd.quant`.

`srkd export` writes these facts, and all commands read them here. Foreign files may have any content under that key:
unknown values are ignored. This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from compressor.base.choices import Goal
from compressor.base.errors import UsageError
from compressor.models.quantisation.description import KEY, Quantisation, read_quantisation

LONGEST_WORD = 200
MOST_DB = 1000.0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class QuantisedFile:
    """A file whose layers compute in 8 bit; None is a fact that the file does not state."""

    precision: str = "int8"
    flavour: str
    """The target of the file: cpu, tensorrt, openvino ..."""
    calibration: str | None = None
    """The source of its value ranges."""
    method: str | None = None
    """The recipe that learnt the ranges in training; None: they were measured afterwards."""
    weight_bits: int | None = None
    in_float: str | None = None
    """Description of the parts left in float."""
    drop_db: float | None = None
    """Loss of Y-PSNR on photos, in dB."""
    goal: Goal = "original"
    """What the Y-PSNR was measured to."""
    psnr_to_source_db: float | None = None
    """PSNR in dB of its images to those of the source network."""
    photos: int | None = None
    """Number of photos on which these two figures were measured."""

    def line(self) -> str:
        """Return one line, such as `int8 for cpu, -0.032 dB of Y-PSNR on 2 photos, calibrated on 32 patches`."""
        return ", ".join(fact for fact in (f"{self.precision} for {self.flavour}", self.loss(), self.source()) if fact)

    def loss(self) -> str | None:
        if self.drop_db is None:
            return None
        on = "" if self.photos is None else f" on {self.photos} photo{'s' * (self.photos != 1)}"
        return f"{-self.drop_db:+.3f} dB of Y-PSNR{' to the teacher' * (self.goal == 'teacher')}{on}"

    def source(self) -> str | None:
        if self.calibration is None:
            return None
        return f"calibrated on {self.calibration}" if self.method is None else f"{self.calibration} by {self.method}"


def read_quantised_file(metadata: Mapping[str, str]) -> QuantisedFile | None:
    """Return the facts in an 8-bit file's `srkd.*` keys; None for any other file."""
    try:
        values = json.loads(metadata.get(KEY, ""))
    except (ValueError, RecursionError):
        return None
    flavour = _text(values.get("flavour")) if isinstance(values, dict) else None
    if flavour is None:
        return None
    return QuantisedFile(
        flavour=flavour,
        calibration=_text(values.get("calibration")),
        method=_text(values.get("method")),
        weight_bits=_of_kind(values.get("weight_bits"), int),
        in_float=_text(values.get("in_float")),
        drop_db=_number(values.get("drop_db")),
        goal="teacher" if values.get("goal") == "teacher" else "original",
        psnr_to_source_db=_number(values.get("psnr_to_source_db")),
        photos=_of_kind(values.get("photos"), int),
    )


def read_training(metadata: Mapping[str, str]) -> Quantisation | None:
    """Return the quantisation that a network was trained with, if its file computes in float."""
    try:
        return read_quantisation(metadata)
    except UsageError:
        return None  # an 8-bit file, or a foreign one


def _of_kind(value: object, kind: type[T]) -> T | None:
    return value if type(value) is kind else None


def _text(value: object) -> str | None:
    return value[:LONGEST_WORD] if isinstance(value, str) and value.isprintable() else None


def _number(value: object) -> float | None:
    """Return a number of limited size; Python's JSON parser also accepts infinity and NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < MOST_DB else None
