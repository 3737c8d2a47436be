"""The interface of a network: its spec, descriptor, taps and parts, and its `Architecture` for the registry."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.models.networks.axes import AxisPlan
from compressor.models.networks.dialect import Dialect
from compressor.models.networks.linear_plan import LinearPlan as LinearPlan
from compressor.models.networks.linear_plan import Tap as Tap
from compressor.models.quantisation import Quantisation

S = TypeVar("S", bound="Spec")
M = TypeVar("M", bound="ImageModel")
N = TypeVar("N", bound="Network")


@dataclass(frozen=True)
class Spec:
    """Everything needed to build a network but its weights. Subclasses add fields, all with plain JSON values."""

    arch: ClassVar[str]
    scale: int = 4

    def to_dict(self) -> dict[str, Any]:
        return {"arch": self.arch, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls: type[S], fields: Mapping[str, Any]) -> S:
        """Build from JSON values; unknown names and wrong types are refused by name."""
        fields_by_name = {f.name: f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, value in fields.items():
            if name == "arch" and value == cls.arch:
                continue
            if name not in fields_by_name:
                raise UsageError(f"{cls.arch} has no option {name!r}; {nearest(name, fields_by_name)}")
            values[name] = _checked_value(cls.arch, name, value, fields_by_name[name].default)
        return cls(**values)

    def with_options(self: S, options: Mapping[str, object]) -> S:
        """Return this spec with some fields replaced; text, as a command line has it, becomes the field's own type."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        values = {
            name: _parse_text(value, defaults.get(name)) if isinstance(value, str) else value
            for name, value in options.items()
        }
        return type(self).from_dict({**self.to_dict(), **values})

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        """The fields that no tensor of a file shows, each with the values that published files were trained with."""
        return {}

    @property
    def unused(self) -> frozenset[str]:
        """The fields without effect in this form of the network."""
        return frozenset()

    def narrowed(self: S, width: float) -> S:
        """Return the spec at a fraction of the channels (0 < width <= 1)."""
        raise SrkdError(f"{self.arch} has no width to reduce (width={width:g})")

    def shortened(self: S, depth: float) -> S:
        """Return the spec at a fraction of the innermost repeat (0 < depth <= 1)."""
        raise SrkdError(f"{self.arch} has no depth to reduce (depth={depth:g}); use width")


def _parse_text(text: str, default: Any) -> Any:
    """Read `text` as the type of `default` (numbers of a tuple stand between / or ,); other text stays as it is."""
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


def _checked_value(arch: str, name: str, value: Any, default: Any) -> Any:
    """Return `value` as the type of the field's default, or refuse. Tuples of whole numbers may have any length."""
    expected = type(default)
    if expected is tuple and isinstance(value, (list, tuple)):
        if type(default[0]) is int and len(value) > 0 and all(type(v) is int for v in value):
            return tuple(value)
        if len(value) == len(default) and all(map(_is_number, value)):
            return tuple(float(v) for v in value)
    elif expected is float:
        if _is_number(value):
            return float(value)
    elif type(value) is expected:
        return value
    raise UsageError(f"{arch}: {name}={str(value)[:60]!r} is not {expected.__name__} like {default!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def require_fraction(name: str, value: float) -> float:
    """Return `value` if it lies in (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise UsageError(f"{name}={value:g} is outside (0, 1]")
    return value


def scale_count(name: str, fraction: float, count: int) -> int:
    """Return ⌊fraction·count⌋, at least one; the small term keeps 0.29·100 at 29."""
    return max(1, math.floor(require_fraction(name, fraction) * count + 1e-9))


def require_positive(spec: Spec, *names: str, limit: int = 65536) -> None:
    """Refuse sizes that no network has, before anything is allocated for them."""
    for name in names:
        value = getattr(spec, name)
        if not 1 <= value <= limit:
            raise UsageError(f"{spec.arch}: {name}={value} is outside 1..{limit}")


@dataclass(frozen=True)
class Descriptor:
    """The facts that a caller needs to feed a network: no caller asks which network it is."""

    scale: int
    channels: int = 3
    size_multiple: int = 1
    min_size: int = 1
    receptive_radius: int | None = None
    """LR pixels on each side that an output pixel depends on; None when unbounded (global pooling, windows)."""
    windowed: bool = False
    """An output pixel depends on the place of its pixel within a window: attention in windows of a fixed grid."""
    fp16_safe: bool | None = None
    """Half precision was measured to hold; None where nobody has measured."""
    fixed_size: tuple[int, int] | None = None
    """Width and height, in LR pixels, of the only images that a file takes; None: any size."""
    max_size: tuple[int, int] | None = None
    """The largest that it takes; None: no bound."""


class ImageModel(nn.Module, ABC):
    """A model of images: float RGB in [0,1], NCHW, in and out."""

    @property
    @abstractmethod
    def descriptor(self) -> Descriptor:
        """The facts that a caller must know."""

    @property
    def own_sizes(self) -> Descriptor:
        """The descriptor without padding: the sizes that the model itself takes."""
        return self.descriptor

    @property
    @abstractmethod
    def network(self) -> Network | None:
        """The network with its spec, features and weights; None for a foreign model, which gives outputs only."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The name of its architecture; "unknown" where a foreign file does not tell."""

    @property
    @abstractmethod
    def backend(self) -> str:
        """The code that runs it: "srkd", "TorchScript", "ONNX", "torch.export" or "spandrel"."""

    @property
    @abstractmethod
    def params(self) -> int | None:
        """The number of parameters; None where a foreign file does not tell."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device that it runs on."""

    @abstractmethod
    def move_to(self: M, device: torch.device) -> M:
        """Move to a device, in place; a foreign model that cannot go there stays, and its images travel."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return the present settings that a file does not hold, such as its value range, as options."""

    @abstractmethod
    def alternatives(self) -> list[list[Mapping[str, Any]]]:
        """Return rounds of changes to the settings; the likeliest first."""

    @abstractmethod
    def with_settings(self: M, settings: Mapping[str, Any]) -> M:
        """Return a copy with the same weights under other settings: one of `alternatives`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of everything that training changes: equal before and after means that nothing was trained."""

    def require_network(self, purpose: str) -> Network:
        """Return the network, or refuse in one line that names the `purpose` it was needed for."""
        if self.network is None:
            raise SrkdError(
                f"the {self.backend} model gives outputs only, not {purpose}: give a checkpoint of a "
                "network that srkd knows, or use a recipe that needs outputs only"
            )
        return self.network


class Network(ImageModel):
    """Float RGB in [0,1], NCHW, in and out; whatever scaling a code base wants happens inside.

    Parts: `stem(lr)` gives the shallow feature, `body(feature)` runs the repeated blocks, and
    `finish(feature, shallow, lr)` ends with the network's own tail, so that an intermediate feature can be finished
    too.
    """

    spec: Spec
    quantisation: Quantisation | None = None
    """What of it is quantised; None: a float network."""

    @abstractmethod
    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        """Return the shallow feature."""

    @abstractmethod
    def body(self, feature: torch.Tensor) -> torch.Tensor:
        """Run the repeated blocks."""

    @abstractmethod
    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return the image that the network's own tail makes of a deep feature."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.stem(lr)
        return self.finish(self.body(shallow), shallow, lr)

    def for_size(self, height: int, width: int) -> Network:
        """Return the same function for a batch of one image of that size, for converters that know no free sizes.

        This is the network itself where its operations are simple enough anyway.
        """
        return self

    @property
    @abstractmethod
    def taps(self) -> dict[str, Tap]:
        """The submodule to read for each canonical address (head, body[k], body_end, pre_up)."""

    @property
    def network(self) -> Network:
        return self

    @property
    def architecture(self) -> str:
        return self.spec.arch

    @property
    def backend(self) -> str:
        return "srkd"

    @property
    def params(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def move_to(self: M, device: torch.device) -> M:
        self.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def settings(self) -> Mapping[str, Any]:
        return {name: getattr(self.spec, name) for name, values in self.spec.undetectable.items() if values}

    def alternatives(self) -> list[list[Mapping[str, Any]]]:
        choices = [
            [(name, value) for value in values if value != getattr(self.spec, name)]
            for name, values in self.spec.undetectable.items()
        ]
        return [
            [dict(changes) for chosen in combinations(choices, count) for changes in product(*chosen)]
            for count in range(1, len(choices) + 1)
        ]

    def with_settings(self: N, settings: Mapping[str, Any]) -> N:
        if self.quantisation is not None:
            raise SrkdError("the settings of a quantised network are those that it was trained with")
        changed = type(self)(dataclasses.replace(self.spec, **settings)).to(self.device)
        changed.load_state_dict(self.state_dict(), strict=True)
        return changed.eval()

    def fingerprint(self) -> str:
        """Return a hash over the spec and every named tensor."""
        digest = hashlib.sha256(repr(dataclasses.asdict(self.spec)).encode())
        if self.quantisation is not None:
            digest.update(self.quantisation.to_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Return the tensor's values, row by row, little-endian."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class Architecture:
    """A family of networks: everything that the rest of srkd reads about it."""

    spec: type[Spec]
    build: Callable[[Any], Network]
    axes: Callable[[Any], AxisPlan]
    small: Spec
    """A network of the family that runs in moments, for tests and measured tables: it has two or more channels a group
    at a tenth of its width, and a body of three blocks where it has one."""
    variants: tuple[Spec, ...] = ()
    """Small networks of its other forms, for tests."""
    dialects: tuple[Dialect, ...] = ()
    quantised: tuple[str, ...] = ()
    """Patterns of the layers that papers on quantisation quantise, those of its residual blocks: `blocks.*.conv1`."""
    linear: Callable[[Any], LinearPlan] | None = None
    """What the linear layers of a spec write, read and reproduce; None: students cannot be solved for."""
    for_any_teacher: Callable[[int, int], Spec] | None = None
    """The largest shape, of a scale and channels, that plans offer for teachers of other kinds; None: none."""

    @property
    def name(self) -> str:
        return self.spec.arch
