"""The spec of SwinIR: its sizes, and which are possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from compressor.base.errors import UsageError
from compressor.models.networks.axes import inherited_index
from compressor.models.networks.base import Spec, require_positive, scale_count
from compressor.models.networks.layers import upsampler_factors

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "none")
CONNECTIONS = ("1conv", "3conv")
PADDINGS = ("network", "testscript")


@dataclass(frozen=True)
class SwinIRSpec(Spec):
    """The spec of SwinIR: `depths` and `heads` per residual group, `features` before the upsampler.

    `shifted` is False for files trained on images no larger than a window; `padding="testscript"` pads like the
    official test script, always to the next multiple of the window, with the edge repeated.
    """

    arch: ClassVar[str] = "swinir"
    width: int = 60
    depths: tuple[int, ...] = (6, 6, 6, 6)
    heads: tuple[int, ...] = (6, 6, 6, 6)
    window: int = 8
    mlp_ratio: float = 2.0
    upsampler: str = "pixelshuffle"
    connection: str = "1conv"
    features: int = 64
    channels: int = 3
    img_range: float = 1.0
    shifted: bool = True
    padding: str = "network"

    def __post_init__(self) -> None:
        require_positive(self, "width", "window", "features")
        for name, values in (("upsampler", UPSAMPLERS), ("connection", CONNECTIONS), ("padding", PADDINGS)):
            if getattr(self, name) not in values:
                raise UsageError(f"swinir: {name}={getattr(self, name)!r} is not one of {', '.join(values)}")
        if len(self.depths) != len(self.heads) or not self.depths or min(self.depths) < 1 or len(self.depths) > 256:
            raise UsageError(f"swinir: depths={self.depths} and heads={self.heads} must be positive and equally many")
        if min(self.heads) < 1 or any(self.width % heads for heads in self.heads):
            raise UsageError(f"swinir: width={self.width} is not a multiple of every one of heads={self.heads}")
        if self.channels not in (1, 3):
            raise UsageError(f"swinir: channels={self.channels} is neither 1 nor 3")
        if not (self.img_range > 0 and 0 < self.mlp_ratio <= 64 and self.hidden >= 1 and max(self.depths) <= 256):
            raise UsageError(f"swinir: img_range={self.img_range:g}, mlp_ratio={self.mlp_ratio:g} are out of range")
        if self.upsampler == "pixelshuffle":
            upsampler_factors(self.scale)
        elif self.scale not in {"none": (1,), "nearest+conv": (4,)}.get(self.upsampler, (1, 2, 3, 4, 8)):
            raise UsageError(f"swinir: upsampler={self.upsampler!r} does not give scale={self.scale}")

    @property
    def hidden(self) -> int:
        return int(self.width * self.mlp_ratio)

    @property
    def undetectable(self) -> Mapping[str, tuple[Any, ...]]:
        return {"img_range": (1.0, 255.0), "padding": ()}

    @property
    def has_features(self) -> bool:
        return self.upsampler in ("pixelshuffle", "nearest+conv")

    @property
    def unused(self) -> frozenset[str]:
        return frozenset() if self.has_features else frozenset({"features"})

    def narrowed(self, width: float) -> SwinIRSpec:
        """Return the spec with fewer heads, at least one; each keeps its channels."""
        if len(set(self.heads)) != 1:
            raise UsageError(f"swinir: heads={self.heads} differ between groups: only depth can be reduced")
        heads = scale_count("width", width, self.heads[0])
        channels = self.width // self.heads[0] * heads
        return replace(self, width=channels, heads=(heads,) * len(self.heads))

    def shortened(self, depth: float) -> SwinIRSpec:
        total = len(self.depths)
        count = scale_count("depth", depth, total)
        groups = [inherited_index(index, count, total) for index in range(count)]
        return replace(self, depths=tuple(self.depths[k] for k in groups), heads=tuple(self.heads[k] for k in groups))
