"""A dialect: how one code base names a network's tensors, and what can be read off them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from compressor.base.errors import SrkdError
from compressor.models.networks.layers import DIV2K_MEAN, DIV_FLICKR_MEAN

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Assumption:
    """A value that the file does not hold, and how it was decided."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True)
class Reading:
    """What a dialect reads off a file: spec fields, and what had to be assumed."""

    fields: Mapping[str, Any]
    assumed: tuple[Assumption, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Dialect:
    """`read(state, scale)` infers a spec; `names(spec, in_file)` maps our tensor names to theirs, one to one."""

    name: str
    recognises: Callable[[State], bool]
    read: Callable[[State, int | None], Reading]
    names: Callable[[Any, set[str]], dict[str, str]]
    surplus: Callable[[str], bool] = lambda name: False
    """Tensors of the file that a loader may leave out (buffers that are rebuilt, other scales)."""


@dataclass(frozen=True)
class MeanReading:
    """What the mean-shift tensors of a file say."""

    fields: Mapping[str, Any]
    notes: tuple[str, ...]


def rows(state: State, name: str) -> int:
    """Output rows of a weight, or one line that names it."""
    return _shape(state, name)[0]


def columns(state: State, name: str) -> int:
    return _shape(state, name)[1]


def _shape(state: State, name: str) -> torch.Size:
    tensor = state.get(name)
    if tensor is None:
        raise SrkdError(f"tensor {name} is missing")
    if tensor.dim() != 4 or tensor.numel() == 0:
        raise SrkdError(f"tensor {name} has shape {tuple(tensor.shape)}, not that of a convolution")
    return tensor.shape


def count(state: State, pattern: str) -> int:
    """How many distinct numbers stand at the only group of `pattern`; they must be 0, 1, 2, …"""
    found = {int(match.group(1)) for name in state if (match := re.match(pattern, name))}
    if found != set(range(len(found))):
        raise SrkdError(f"block numbers {_missing(found)} are missing")
    return len(found)


def _missing(found: set[int]) -> str:
    gaps = [str(i) for i in range(min(len(found), 10_000)) if i not in found]
    return ", ".join(gaps[:5])


def both(*layers: tuple[str, str]) -> dict[str, str]:
    """weight and bias of each (our layer, their layer)."""
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in layers for kind in ("weight", "bias")}


def read_mean_shift(state: State, suffix: str = "") -> MeanReading:
    """Range and mean from `sub_mean`/`add_mean`: range = add_mean.bias / mean.

    Tensors that equal the constants to the bit become the constants; any others stay as the file has them.
    """
    tensors = {
        (side, kind): state.get(f"{side}{suffix}.{kind}")
        for side in ("sub_mean", "add_mean")
        for kind in ("weight", "bias")
    }
    shapes = {"weight": (3, 3, 1, 1), "bias": (3,)}
    for (side, kind), tensor in tensors.items():
        if tensor is None or tuple(tensor.shape) != shapes[kind]:
            raise SrkdError(f"tensor {side}{suffix}.{kind} is missing or not of shape {shapes[kind]}")
    add_bias = tensors["add_mean", "bias"].double()  # type: ignore[union-attr]
    mean = min((DIV2K_MEAN, DIV_FLICKR_MEAN), key=lambda m: float((add_bias / torch.tensor(m).double()).std()))
    ratio = float((add_bias / torch.tensor(mean).double()).mean())
    img_range = min((255.0, 1.0), key=lambda r: abs(ratio - r))
    if ratio > 0 and abs(ratio / img_range - 1) > 0.2:
        img_range = ratio
    constants = {
        ("sub_mean", "weight"): torch.eye(3).reshape(3, 3, 1, 1),
        ("add_mean", "weight"): torch.eye(3).reshape(3, 3, 1, 1),
        ("sub_mean", "bias"): -img_range * torch.tensor(mean),
        ("add_mean", "bias"): img_range * torch.tensor(mean),
    }
    moved = max(_distance(tensors[key], constants[key], img_range) for key in constants)  # type: ignore[arg-type]
    if moved != 0:
        note = f"mean shift taken from the file: it differs from the constants by up to {moved:.2g} of the range"
        return MeanReading({"mean": mean, "img_range": img_range, "mean_shift": "file"}, (note,))
    return MeanReading({"mean": mean, "img_range": img_range}, ())


def _distance(tensor: torch.Tensor, constant: torch.Tensor, img_range: float) -> float:
    unit = img_range if tensor.dim() == 1 else 1.0
    return float((tensor.double() - constant.double()).abs().max()) / unit
