"""What the EDSR and RCAN files of one code base have in common: mean shift, upsampler, published defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.networks.dialect import Assumption, Reading, State, read_mean_shift, rows
from compressor.networks.layers import DIV2K_MEAN, scale_from_upsampler, upsampler_factors

BASICSR_BOUNDARY = (
    Assumption("img_range", 255.0, "not in the file; BasicSR's default"),
    Assumption("mean", DIV2K_MEAN, "not in the file; BasicSR's default, the mean of DIV2K"),
)


def boundary(
    state: State, fields: Mapping[str, Any], assumed: tuple[Assumption, ...], *, mean_in_file: bool
) -> Reading:
    """A reading with range and mean: from the file's mean-shift tensors, or the lineage's defaults, said aloud."""
    if not mean_in_file:
        return Reading(fields, (*assumed, *BASICSR_BOUNDARY))
    shift = read_mean_shift(state)
    return Reading({**fields, **shift.fields}, assumed, shift.notes)


def upsampler_scale(state: State, prefix: str, width: int) -> int:
    """Scale from the convolutions `prefix.<number>`, in the order of their numbers."""
    numbers = sorted(int(name[len(prefix) + 1 : -7]) for name in state if _is_conv(name, prefix))
    return scale_from_upsampler([rows(state, f"{prefix}.{number}.weight") for number in numbers], width)


def _is_conv(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.") and name.endswith(".weight") and name[len(prefix) + 1 : -7].isdigit()


def upsampler_layers(scale: int, prefix: str, step: int) -> list[tuple[str, str]]:
    """(ours, theirs) of the upsampler's convolutions; theirs are numbered in steps, as shuffles stand between."""
    return [(f"upsampler.convs.{k}", f"{prefix}.{k * step}") for k in range(len(upsampler_factors(scale)))]


def mean_shift_layers(mean_shift: str) -> list[tuple[str, str]]:
    return [("sub_mean", "sub_mean"), ("add_mean", "add_mean")] if mean_shift == "file" else []


def is_mean_shift(name: str) -> bool:
    return name.startswith(("sub_mean.", "add_mean."))
