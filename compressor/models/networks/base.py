"""What every network says about itself: spec, descriptor, taps and parts.

What a network's file offers to the rest of the ground.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.models.networks.axes import AxisPlan
from compressor.models.networks.dialect import Dialect

S = TypeVar("S", bound="Spec")


@dataclass(frozen=True)
class Spec:
    """Everything needed to build a network but its weights. Subclasses add fields, all with plain JSON values."""

    arch: ClassVar[str]
    scale: int = 4

    def to_dict(self) -> dict[str, Any]:
        return {"arch": self.arch, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls: type[S], fields: Mapping[str, Any]) -> S:
        """Build from JSON values; unknown names and wrong types are told by name."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, value in fields.items():
            if name == "arch" and value == cls.arch:
                continue
            if name not in known:
                raise UsageError(f"{cls.arch} has no option {name!r}; {nearest(name, known)}")
            values[name] = _as_type_of(cls.arch, name, value, known[name].default)
        return cls(**values)

    def with_options(self: S, options: Mapping[str, object]) -> S:
        """This spec with some fields replaced; text, as a command line has it, becomes the field's own type."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        values = {
            name: _from_text(value, defaults.get(name)) if isinstance(value, str) else value
            for name, value in options.items()
        }
        return type(self).from_dict({**self.to_dict(), **values})

    def narrowed(self: S, width: float) -> S:
        """The spec at a fraction of the channels (0 < width <= 1)."""
        raise SrkdError(f"{self.arch} has no width to reduce (width={width:g})")

    def shortened(self: S, depth: float) -> S:
        """The spec at a fraction of the innermost repeat (0 < depth <= 1)."""
        raise SrkdError(f"{self.arch} has no depth to reduce (depth={depth:g}); use width")


def _from_text(text: str, default: Any) -> Any:
    """`text` as the type of `default` (numbers of a tuple stand between / or ,), or the text where it is not one."""
    try:
        if isinstance(default, tuple):
            return tuple(type(default[0])(part) for part in re.split(r"[/,]", text))
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, (int, float)):
            return type(default)(text)
    except (ValueError, KeyError):
        return text
    return text


def _as_type_of(arch: str, name: str, value: Any, default: Any) -> Any:
    """`value` as the type of the field's default, or one line. Tuples of whole numbers may have any length."""
    wanted = type(default)
    if wanted is tuple and isinstance(value, (list, tuple)):
        if type(default[0]) is int and len(value) > 0 and all(type(v) is int for v in value):
            return tuple(value)
        if len(value) == len(default) and all(map(_is_number, value)):
            return tuple(float(v) for v in value)
    elif wanted is float:
        if _is_number(value):
            return float(value)
    elif type(value) is wanted:
        return value
    raise UsageError(f"{arch}: {name}={str(value)[:60]!r} is not {wanted.__name__} like {default!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def fraction(name: str, value: float) -> float:
    """`value` if it lies in (0, 1], else one line."""
    if not 0.0 < value <= 1.0:
        raise UsageError(f"{name}={value:g} is outside (0, 1]")
    return value


def kept_units(name: str, share: float, units: int) -> int:
    """⌊share·units⌋, at least one; the small term keeps 0.29·100 at 29."""
    return max(1, math.floor(fraction(name, share) * units + 1e-9))


def positive(spec: Spec, *names: str, limit: int = 65536) -> None:
    """Refuse sizes that no network has, before anything is allocated for them."""
    for name in names:
        value = getattr(spec, name)
        if not 1 <= value <= limit:
            raise UsageError(f"{spec.arch}: {name}={value} is outside 1..{limit}")


@dataclass(frozen=True)
class Descriptor:
    """What a caller must know to feed a network: no caller asks which network it is."""

    scale: int
    channels: int = 3
    size_multiple: int = 1
    min_size: int = 1
    receptive_radius: int | None = None
    """LR pixels on each side that an output pixel depends on; None when unbounded (global pooling, windows)."""
    fp16_safe: bool | None = None
    """Whether half precision was seen to hold; None when nobody has looked."""
    fixed_size: tuple[int, int] | None = None
    """Width and height, in LR pixels, of the only images that an exported file takes; None: any size."""
    max_size: tuple[int, int] | None = None
    """The largest that it takes; None: no bound."""


@dataclass(frozen=True)
class Tap:
    """Where a feature is read: the output or the first input of a submodule."""

    module: str
    side: Literal["output", "input"] = "output"


class Network(nn.Module, ABC):
    """Float RGB in [0,1], NCHW, in and out; whatever scaling a lineage wants lives inside.

    Parts: `stem(lr)` gives the shallow feature, `body(feature)` runs the repeated blocks, and
    `finish(feature, shallow, lr)` ends with the network's own tail, so that an intermediate feature can be finished
    too.
    """

    spec: Spec

    @abstractmethod
    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        """The shallow feature."""

    @abstractmethod
    def body(self, feature: torch.Tensor) -> torch.Tensor:
        """The repeated blocks."""

    @abstractmethod
    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """The image that the network's own tail makes of a deep feature."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.stem(lr)
        return self.finish(self.body(shallow), shallow, lr)

    def for_size(self, height: int, width: int) -> Network:
        """The same function for a batch of one image of that size, for converters that know no free sizes; this
        network itself where its operations are simple enough anyway."""
        return self

    @property
    @abstractmethod
    def descriptor(self) -> Descriptor:
        """What a caller must know."""

    @property
    @abstractmethod
    def taps(self) -> dict[str, Tap]:
        """Canonical address (head, body[k], body_end, pre_up) → where to read it."""


@dataclass(frozen=True)
class Architecture:
    """Spec, network, axis plan and dialects of one family."""

    spec: type[Spec]
    build: Callable[[Any], Network]
    axes: Callable[[Any], AxisPlan]
    dialects: tuple[Dialect, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.spec.arch
