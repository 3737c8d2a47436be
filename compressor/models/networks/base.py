"""The interface of a network: its spec, descriptor, taps and parts, and its `Architecture` for the registry."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import combinations, product
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from compressor.base.errors import SrkdError, UsageError, nearest
from compressor.models.networks.axes import AxisPlan
from compressor.models.networks.chain import ConvChain
from compressor.models.networks.dialect import Dialect, State
from compressor.models.networks.linear_plan import LinearPlan as LinearPlan
from compressor.models.networks.linear_plan import Tap as Tap
from compressor.models.quantisation.description import Quantisation

S = TypeVar("S", bound="Spec")
M = TypeVar("M", bound="ImageModel")
N = TypeVar("N", bound="Network")


@dataclass(frozen=True)
class Spec:
    """The configuration of a network, everything but its weights. Subclasses add fields with plain JSON values."""

    arch: ClassVar[str]
    scale: int = 4

    def to_dict(self) -> dict[str, Any]:
        return {"arch": self.arch, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls: type[S], fields: Mapping[str, Any]) -> S:
        """Return a spec from JSON values; unknown names and wrong types are refused by name."""
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
        """Return this spec with some fields replaced; text from a command line is converted to the field's type."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        values = {
            name: _parse_text(value, defaults.get(name)) if isinstance(value, str) else value
            for name, value in options.items()
        }
        return type(self).from_dict({**self.to_dict(), **values})

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        """Fields that cannot be inferred from tensors, each with the values used for published files."""
        return {}

    @property
    def unused(self) -> frozenset[str]:
        """Fields without effect for this configuration."""
        return frozenset()

    @property
    def deployed(self: S) -> S:
        """The spec of the network that runs after training; another one if some layers exist only in training."""
        return self

    def narrowed(self: S, width: float) -> S:
        """Return the spec with a fraction of the channels (0 < width <= 1), by default of its field `width`."""
        return self._reduced("width", width)

    def shortened(self: S, depth: float) -> S:
        """Return the spec with a fraction of the innermost repeat (0 < depth <= 1), by default of its field `depth`."""
        return self._reduced("depth", depth)

    def _reduced(self: S, name: str, fraction: float) -> S:
        if name not in (field.name for field in fields(self)):
            hint = "; use width" if name == "depth" else ""
            raise SrkdError(f"{self.arch} has no {name} to reduce ({name}={fraction:g}){hint}")
        return dataclasses.replace(self, **{name: scale_count(name, fraction, getattr(self, name))})


def _parse_text(text: str, default: Any) -> Any:
    """Return `text` as the type of `default` (numbers of a tuple are separated by / or ,); other text is unchanged."""
    try:
        if isinstance(default, tuple):
            return tuple(type(default[0])(item) for item in re.split(r"[/,]", text))
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, (int, float)):
            return type(default)(text)
    except (ValueError, KeyError):
        return text
    return text


def _checked_value(arch: str, name: str, value: Any, default: Any) -> Any:
    """Return `value` as the type of the field's default, or refuse it. Tuples of integers may have any length."""
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


def scale_count(name: str, fraction: float, count: int) -> int:
    """Return ⌊fraction·count⌋, at least one; the small term makes 0.29·100 give 29. Fractions are within (0, 1]."""
    if not 0.0 < fraction <= 1.0:
        raise UsageError(f"{name}={fraction:g} is outside (0, 1]")
    return max(1, math.floor(fraction * count + 1e-9))


def require_positive(spec: Spec, *names: str, limit: int = 65536) -> None:
    """Refuse sizes out of range, before anything is allocated for them."""
    for name in names:
        value = getattr(spec, name)
        if not 1 <= value <= limit:
            raise UsageError(f"{spec.arch}: {name}={value} is outside 1..{limit}")


def require_image(spec: Any, *scales: int) -> None:
    """Refuse a spec whose scale is not one of `scales`, or whose images have neither one channel nor three."""
    if spec.scale not in scales:
        raise UsageError(f"{spec.arch}: scale={spec.scale} is not one of {', '.join(map(str, scales))}")
    if spec.channels not in (1, 3):
        raise UsageError(f"{spec.arch}: channels={spec.channels} is neither 1 nor 3")


@dataclass(frozen=True)
class Descriptor:
    """The facts that a caller needs to run a network, so that no caller asks which network it is."""

    scale: int
    channels: int = 3
    size_multiple: int = 1
    min_size: int = 1
    receptive_radius: int | None = None
    """LR pixels on each side that an output pixel depends on; None if unbounded (global pooling, windows)."""
    window: int = 1
    """Side of the windows, from the top left, within which attention acts; a pixel's position in its window counts."""
    mirror_repeats_edge: bool = True
    """Whether images that are mirrored to a size the network takes have their edge pixels twice (see `pad_to`)."""
    fixed_size: tuple[int, int] | None = None
    """Width and height, in LR pixels, of the only images that a file accepts; None: any size."""
    max_size: tuple[int, int] | None = None
    """The largest width and height that a file accepts; None: no bound."""


REACH = 3
"""LR pixels on each side that a reduction adds to what a pixel depends on: two of the wider kernel's, and its phase."""


def reduced_sizes(sizes: Descriptor, scale: int, what: str = "the network") -> Descriptor:
    """Return the facts of a model whose images are reduced to a smaller scale; refuse a larger one."""
    if scale > sizes.scale:
        raise UsageError(
            f"scale {scale}: {what} enlarges x{sizes.scale}, and its images can be reduced, not enlarged to x{scale}: "
            f"take a network of x{scale} or more"
        )
    radius = None if sizes.receptive_radius is None else sizes.receptive_radius + REACH
    return dataclasses.replace(sizes, scale=scale, receptive_radius=radius)


class ImageModel(nn.Module, ABC):
    """A super-resolution model: float RGB in [0,1], NCHW, in and out."""

    @property
    @abstractmethod
    def descriptor(self) -> Descriptor:
        """The facts that a caller must know to run the model."""

    @property
    def own_sizes(self) -> Descriptor:
        """The descriptor without padding: the sizes that the model itself accepts."""
        return self.descriptor

    @property
    def network(self) -> Network | None:
        """The network with its spec, features and weights; None for a foreign model, which only gives outputs."""
        return None

    @property
    def donor(self) -> Network | None:
        """The network from which students are cut or solved for: `network`, or its form for the scale of the images."""
        return self.network

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The name of the architecture; "unknown" if a foreign file does not state it."""

    @property
    @abstractmethod
    def backend(self) -> str:
        """The library that runs the model: "srkd", "TorchScript", "ONNX", "torch.export" or "spandrel"."""

    @property
    @abstractmethod
    def params(self) -> int | None:
        """The number of parameters; None if a foreign file does not state it."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device that the model runs on."""

    @abstractmethod
    def move_to(self: M, device: torch.device) -> M:
        """Move the model to a device, in place; a foreign model that cannot move stays, and its images are copied."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return the current settings that a file does not hold, such as the value range, as options."""

    @abstractmethod
    def alternatives(self) -> list[list[Mapping[str, Any]]]:
        """Return lists of alternative settings, the likeliest first."""

    @abstractmethod
    def with_settings(self: M, settings: Mapping[str, Any]) -> M:
        """Return a copy with the same weights and other settings: one of `alternatives`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of everything that training can change: if it is unchanged, nothing was trained."""

    def as_output(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image of the network's tail as the model gives it."""
        return image

    def require_network(self, purpose: str) -> Network:
        """Return the network; if there is none, raise a one-line error that names the `purpose`."""
        if self.network is None:
            raise SrkdError(
                f"the {self.backend} model gives outputs only, not {purpose}: give a checkpoint of a "
                "network that srkd knows, or use a recipe that needs outputs only"
            )
        return self.network


class Network(ImageModel):
    """A network of srkd: float RGB in [0,1], NCHW, in and out; a code base's own value range is applied inside.

    Parts: `stem(lr)` returns the shallow feature, `body(feature)` runs the repeated blocks, and `finish(feature,
    shallow, lr)` ends with the network's own tail, so that an intermediate feature can be finished, too. Most networks
    name their layers head, blocks, body_end, upsampler and tail; others have parts and taps of their own.
    """

    repeated: ClassVar[str] = "blocks"
    """The module whose children are the repeated blocks."""

    spec: Spec
    quantisation: Quantisation | None = None
    """The quantisation of the network; None: a float network."""

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        """Return the shallow feature: the output of the first layers, before the repeated blocks."""
        shallow: torch.Tensor = self.get_submodule("head")(lr)
        return shallow

    def body(self, feature: torch.Tensor) -> torch.Tensor:
        """Return the deep feature: the output of the repeated blocks."""
        deep: torch.Tensor = self.get_submodule(self.repeated)(feature)
        return deep

    @abstractmethod
    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return the image that the network's own tail computes from a deep feature."""

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        """Return the output of the last layer with which the network gives `image`, if others can be followed."""
        raise SrkdError(f"a {self.spec.arch} cannot be solved for from a network of another kind")

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        shallow = self.stem(lr)
        return self.finish(self.body(shallow), shallow, lr)

    def for_size(self, height: int, width: int) -> Network:
        """Return the same function for a batch of one image of that size, for converters without dynamic sizes.

        This is the network itself if its operations are simple enough.
        """
        return self

    def deployed(self) -> Network:
        """Return the same function as the network that runs after training, of the spec's `deployed`.

        Whatever exports or times a network asks for it; only training and its files keep what exists only there.
        """
        return self

    def chain(self) -> ConvChain | None:
        """Return the network as a chain of 3×3 convolutions; None if it is more than that."""
        return None

    def unclipped(self) -> Network:
        """Return the same network without a clip at its end, for programs that clip themselves."""
        return self

    def in_rgb(self) -> Network:
        """Return the network for RGB that does to each channel what this one, for grey, does to grey."""
        raise SrkdError(f"this {self.spec.arch} for grey has no form for RGB: float plain and compact have")

    def in_luma(self) -> Network:
        """Return a network of one channel that does to a picture's luma what this one does to a grey picture.

        Luma is Y of BT.601 in studio range divided by 255, as films and one-channel networks of srkd have it.
        """
        raise SrkdError(
            f"this {self.spec.arch} has no form for luma alone: float plain and compact with three channels do"
        )

    def at_scale(self, scale: int) -> Network | None:
        """Return a network of a smaller scale whose pixels are means of squares of this one's; None: there is none."""
        return None

    def filled(self, network: N, state: Mapping[str, torch.Tensor]) -> N:
        """Return another network with these tensors, on this one's device, in its number format and mode."""
        like = next(self.parameters())
        network.load_state_dict(state)
        return network.to(like.device, like.dtype).train(self.training)

    def fill(self, deployed: Network) -> None:
        """Set the weights so that `deployed()` is that network."""
        self.load_state_dict(deployed.state_dict(), strict=True)

    @property
    def taps(self) -> dict[str, Tap]:
        """The tap of each canonical address (head, body[k], body_end, pre_up)."""
        blocks = [f"{self.repeated}.{name}" for name, _ in self.get_submodule(self.repeated).named_children()]
        taps = {f"body[{k}]": Tap(block) for k, block in enumerate(blocks)}
        return {"head": Tap("head"), **taps, "body_end": Tap("body_end"), "pre_up": Tap("upsampler", "input")}

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
            [dict(changes) for subset in combinations(choices, count) for changes in product(*subset)]
            for count in range(1, len(choices) + 1)
        ]

    def with_settings(self: N, settings: Mapping[str, Any]) -> N:
        if self.quantisation is not None:
            raise SrkdError("the settings of a quantised network are those that it was trained with")
        return self.filled(type(self)(dataclasses.replace(self.spec, **settings)), self.state_dict()).eval()

    def fingerprint(self) -> str:
        """Return a hash of the spec and every named tensor."""
        digest = hashlib.sha256(repr(dataclasses.asdict(self.spec)).encode())
        if self.quantisation is not None:
            digest.update(self.quantisation.to_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor_bytes(tensor))
        return digest.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Return the tensor's bytes in row-major order, little-endian."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class PublishedSettings:
    """What a paper or its code sets for a network, by the names that `--set` takes, such as `dukd.cells`.

    They hold for specs with the values in `where`. Only the method that owns a name knows what it means.
    """

    settings: Mapping[str, Any]
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A family of networks: everything that the rest of srkd needs to know about it."""

    spec: type[Spec]
    build: Callable[[Any], Network]
    axes: Callable[[Any], AxisPlan]
    small: Spec
    """A fast network of the family, for tests and measured tables: at a tenth of its width it still has two or more
    channels per group, and its body has three blocks if it has blocks."""
    variants: tuple[Spec, ...] = ()
    """Small networks of the family's other forms, for tests."""
    dialects: tuple[Dialect, ...] = ()
    relatives: Mapping[str, Callable[[State], bool]] = field(default_factory=dict)
    """Other networks whose files look like this one's, by name, with what recognises them: they are refused by name."""
    quantised: tuple[str, ...] = ()
    """Patterns of the layers that quantisation papers quantise, those of the residual blocks: `blocks.*.conv1`."""
    linear: Callable[[Any], LinearPlan] | None = None
    """The function that declares the linear layers of a spec; None: students cannot be solved for."""
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of the spec by name of a size, small first: `plain-s` is the size s of plain."""
    for_any_teacher: Callable[[int, int], Spec] | None = None
    """Returns the largest spec, by scale and channels, that plans offer for teachers of other kinds, or None."""
    published: tuple[PublishedSettings, ...] = ()
    """Settings that papers of methods, or their code, have for this network."""

    def __post_init__(self) -> None:
        unknown = {key for entry in self.published for key in entry.where} - {field.name for field in fields(self.spec)}
        if unknown:
            raise SrkdError(
                f"published settings of {self.name} hold where {sorted(unknown)[0]} has a value: no such size"
            )

    @property
    def name(self) -> str:
        return self.spec.arch

    def size(self, name: str) -> Mapping[str, Any]:
        if name not in self.sizes:
            raise UsageError(f"{self.name} has no size {name!r}; it has {', '.join(self.sizes) or 'none by name'}")
        return self.sizes[name]

    def published_settings(self, spec: Spec) -> dict[str, Any]:
        """Return the published settings for a spec; a later entry counts where two have one name."""
        return {
            name: value
            for entry in self.published
            if all(getattr(spec, key) == wanted for key, wanted in entry.where.items())
            for name, value in entry.settings.items()
        }
