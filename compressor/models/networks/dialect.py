"""Dialects: a code base's tensor names for a network, spec inference from shapes, and other contents of its files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.networks.layers import DIV2K_MEAN, DIV_FLICKR_MEAN

State = Mapping[str, torch.Tensor]
NotedState = tuple[State, tuple[str, ...]]
"""Tensors, and notes for the user."""
Wrapping = Literal["bare", "params", "model_state_dict > module.*"]
"""The wrapping of the state dict: BasicSR and SwinIR use `params` (basicsr/models/base_model.py), CSD the
`model_state_dict` of a DataParallel (PyTorch version/train.py); EDSR-PyTorch, RCAN, CARN and FAKD save the bare
dictionary."""


@dataclass(frozen=True)
class Assumption:
    """A value that the file does not hold, and the reason for choosing it."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True)
class Reading:
    """The spec fields inferred from a file, and those that had to be assumed."""

    fields: Mapping[str, Any]
    assumed: tuple[Assumption, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Dialect:
    """The dialect of a code base: `read(state, scale)` infers a spec; `names(spec, in_file)` maps srkd's tensor names
    one to one to the file's, after `fold` if it has one.
    """

    name: str
    recognises: Callable[[State], bool]
    read: Callable[[State, int | None], Reading]
    names: Callable[[Any, set[str]], dict[str, str]]
    surplus: Callable[[str], bool] = lambda name: False
    """Returns True for names of tensors that may be ignored (buffers that are rebuilt, other scales)."""
    code_bases: tuple[str, ...] = ()
    """The code bases that load files of this dialect."""
    wrapping: Wrapping = "bare"
    """The dictionary around the state dict in files of these code bases."""
    companions: Callable[[Any], NotedState] = lambda spec: ({}, ())
    """Function that returns the extra tensors that strict loading expects in files of a spec; none by default."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields for which the code base supports only one value."""
    fold: Callable[[State], NotedState] | None = None
    """Function that returns the tensors that `names` means, such as collapsed branches, and notes for the user."""
    unfold: Callable[[State], State] = lambda state: state
    """Function that returns tensors of which `fold` makes the same, bit for bit."""
    community_name: str | None = None
    """The network's name where people share models, if spandrel, which their programs use, reads such files."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names by which `srkd convert` writes this dialect: its code bases' and, if it has any, its own."""
        return tuple(dict.fromkeys((*self.code_bases, self.name))) if self.code_bases else ()


def has_tensors(*names: str) -> Callable[[State], bool]:
    """Return a function that tells whether a file holds tensors of all `names`."""
    return lambda state: all(name in state for name in names)


def has_names(pattern: str) -> Callable[[State], bool]:
    """Return a function that tells whether a file holds a tensor in whose name the pattern is found."""
    return lambda state: any(re.search(pattern, name) for name in state)


def rows(state: State, name: str) -> int:
    """Return the output rows of a convolution's weight; a missing or misshaped weight is refused by name."""
    return _shape(state, name)[0]


def columns(state: State, name: str) -> int:
    """Return the input columns of a convolution's weight."""
    return _shape(state, name)[1]


def _shape(state: State, name: str) -> torch.Size:
    tensor = state.get(name)
    if tensor is None:
        raise SrkdError(f"tensor {name} is missing")
    if tensor.dim() != 4 or tensor.numel() == 0:
        raise SrkdError(f"tensor {name} has shape {tuple(tensor.shape)}, not that of a convolution")
    return tensor.shape


def count(state: State, pattern: str, *, first: int = 0) -> int:
    """Return the number of distinct integers in the only group of `pattern`; they must be `first`, `first` + 1, …"""
    numbers = {int(match.group(1)) for name in state if (match := re.match(pattern, name))}
    if numbers != set(range(first, first + len(numbers))):
        missing = [str(i) for i in range(first, first + min(len(numbers), 10_000)) if i not in numbers]
        raise SrkdError(f"block numbers {', '.join(missing[:5])} are missing")
    return len(numbers)


def shuffle_scale(state: State, name: str, channels: int) -> int:
    """Return the scale of a last convolution before a pixel shuffle: it has channels·scale² rows."""
    outputs = rows(state, name)
    scale = math.isqrt(outputs // channels)
    if scale**2 * channels != outputs:
        raise SrkdError(f"{name} has {outputs} rows: {channels} channels fit no scale")
    return scale


class SeveralScales(UsageError):
    """A file has networks of several scales, and none is asked for."""


_NUMBER = re.compile(r"\{(?:(\d+)\*)?(\w+)(?:\+(\d+))?\}")


def filled(name: str, numbers: Mapping[str, int]) -> str:
    """Return a layer's name with its numbers, such as {k}, {k+1} or {2*k+1}, as far as these are given."""

    def fill(match: re.Match[str]) -> str:
        factor, number, offset = match.groups()
        return str(int(factor or 1) * numbers[number] + int(offset or 0)) if number in numbers else match[0]

    return _NUMBER.sub(fill, name)


def named(layers: Mapping[str, str], **counts: int) -> dict[str, str]:
    """Return the file's name of each of srkd's layers, from a table such as {"blocks.{k}.conv": "body.{2*k+1}"}.

    A number on the left runs from 0 to its count; on the right alone it is the count.
    """
    names: dict[str, str] = {}
    for here, there in layers.items():
        running = [match[2] for match in _NUMBER.finditer(here)]
        for values in product(*(range(counts[number]) for number in running)):
            numbers = counts | dict(zip(running, values, strict=True))
            names[filled(here, numbers)] = filled(there, numbers)
    return names


def count_layers(state: State, name: str, **numbers: int) -> int:
    """Return the count of a file's layers with this name in a table; its number that is not given starts at 0."""
    before, after = re.split(r"\{\w+\}", filled(name, numbers))
    return count(state, rf"{re.escape(before)}(\d+){re.escape(after)}\.weight")


def weight_and_bias(layers: Mapping[str, str]) -> dict[str, str]:
    return {f"{here}.{kind}": f"{there}.{kind}" for here, there in layers.items() for kind in ("weight", "bias")}


def read_mean_shift(state: State, suffix: str = "") -> Reading:
    """Return range and mean from `sub_mean`/`add_mean`: range = add_mean.bias / mean.

    Tensors that equal the constants exactly are replaced by these; any others are kept as in the file.
    """
    shapes = {"weight": (3, 3, 1, 1), "bias": (3,)}
    tensors: dict[tuple[str, str], torch.Tensor] = {}
    for side, kind in product(("sub_mean", "add_mean"), shapes):
        tensor = state.get(f"{side}{suffix}.{kind}")
        if tensor is None or tuple(tensor.shape) != shapes[kind]:
            raise SrkdError(f"tensor {side}{suffix}.{kind} is missing or not of shape {shapes[kind]}")
        tensors[side, kind] = tensor.double()
    add_bias = tensors["add_mean", "bias"]
    mean = min((DIV2K_MEAN, DIV_FLICKR_MEAN), key=lambda m: float((add_bias / torch.tensor(m).double()).std()))
    ratio = float((add_bias / torch.tensor(mean).double()).mean())
    img_range = min((255.0, 1.0), key=lambda r: abs(ratio - r))
    if ratio > 0 and abs(ratio / img_range - 1) > 0.2:
        img_range = ratio
    constants = {"weight": torch.eye(3).reshape(3, 3, 1, 1), "bias": img_range * torch.tensor(mean)}
    distances = []
    for (side, kind), tensor in tensors.items():
        sign, unit = (-1.0 if side == "sub_mean" else 1.0, img_range) if kind == "bias" else (1.0, 1.0)
        distances.append((tensor - sign * constants[kind].double()).abs().max() / unit)
    distance = float(torch.stack(distances).max())  # NaN if any is: such a tensor is kept, and refused as a weight
    if distance != 0:
        note = f"mean shift taken from the file: it differs from the constants by up to {distance:.2g} of the range"
        return Reading({"mean": mean, "img_range": img_range, "mean_shift": "file"}, notes=(note,))
    return Reading({"mean": mean, "img_range": img_range})
