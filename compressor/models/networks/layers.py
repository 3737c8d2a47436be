"""Layers that several networks share: the mean shift, a residual block and the upsampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError, UsageError
from compressor.models.quantisation.quantisers import Place, Shortcut

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""RGB mean of DIV2K, used by EDSR, RCAN and CARN."""
DIV_FLICKR_MEAN = (0.4690, 0.4490, 0.4036)
"""RGB mean of DIV2K + Flickr2K, an option of RCAN's test code."""


class MeanShift(nn.Module):
    """A layer that enters or leaves the range in which a network works: x → (x - mean)·range, or y → y/range + mean.

    With `from_file` the official 1×1 convolution is kept as buffers, in the file's own range: in RCAN's code the mean
    shift was trainable by accident, so a published file may hold changed values.
    """

    mean: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, mean: Sequence[float], img_range: float, *, leave: bool, from_file: bool) -> None:
        super().__init__()
        self.img_range, self.leave, self.from_file = img_range, leave, from_file
        sign = 1.0 if leave else -1.0
        if from_file:
            self.register_buffer("weight", torch.eye(3).reshape(3, 3, 1, 1))
            self.register_buffer("bias", sign * img_range * torch.tensor(mean))
        else:
            self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.from_file:
            if self.leave:
                return F.conv2d(x, self.weight, self.bias) / self.img_range
            return F.conv2d(x * self.img_range, self.weight, self.bias)
        if self.leave:
            return x / self.img_range + self.mean.to(x.dtype)
        return (x - self.mean.to(x.dtype)) * self.img_range

    def become_convolution(self) -> None:
        """Take the form of a file's 1×1 convolution, for runtimes that hold no constants beside weights."""
        if not self.from_file:
            sign = 1.0 if self.leave else -1.0
            channels = self.mean.numel()
            self.register_buffer("weight", torch.eye(channels).reshape(channels, channels, 1, 1), persistent=False)
            self.register_buffer("bias", sign * self.img_range * self.mean.flatten(), persistent=False)
            self.from_file = True

    def undo(self, y: torch.Tensor) -> torch.Tensor:
        """Return the x of which the layer makes y."""
        if not self.from_file:
            mean = self.mean.to(y.dtype)
            return (y - mean) * self.img_range if self.leave else y / self.img_range + mean
        scaled = y * self.img_range if self.leave else y
        x = F.conv2d(scaled - self.bias[:, None, None], self.weight[:, :, 0, 0].inverse()[:, :, None, None])
        return x if self.leave else x / self.img_range


class Upsampler(nn.Module):
    """An upsampler: convolution and pixel shuffle, once for ×2 and ×3, twice for ×4, three times for ×8.

    EDSR and RCAN have no activation here; CARN has a ReLU before each shuffle (carn/model/ops.py).
    """

    def __init__(self, scale: int, width: int, *, groups: int = 1, relu: bool = False) -> None:
        super().__init__()
        self.factors = upsampler_factors(scale)
        self.relu = relu
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width * factor**2, 3, padding=1, groups=groups) for factor in self.factors
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, factor in zip(self.convs, self.factors, strict=True):
            x = conv(x)
            x = shuffle(F.relu(x) if self.relu else x, factor)
        return x


def shuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Return F.pixel_shuffle(x, factor), with a gradient that CPUs compute in a third of the time in bf16."""
    if not x.requires_grad or x.device.type != "cpu" or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return F.pixel_shuffle(x, factor)
    return cast(torch.Tensor, _Shuffle.apply(x, factor))  # type: ignore[no-untyped-call]


class _Shuffle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: int) -> torch.Tensor:
        ctx.factor = factor
        return F.pixel_shuffle(x, factor)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Copy an image for each place in a tile: torch's unshuffle goes value by value."""
        factor, (batch, channels, height, width) = ctx.factor, upstream.shape
        tiles = upstream.permute(0, 2, 3, 1).reshape(batch, height // factor, factor, width // factor, factor, channels)
        places = [tiles[:, :, row, :, column] for row in range(factor) for column in range(factor)]
        return torch.stack(places, -1).flatten(3).permute(0, 3, 1, 2), None


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResidualBlock(nn.Module):
    """A residual block: x + res_scale · attention(conv(ReLU(conv(x)))), with or without an attention."""

    def __init__(self, width: int, res_scale: float = 1.0, attention: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3(width, width), conv3(width, width)
        self.attention = None if attention is None else attention()
        self.shortcut, self.hidden, self.branch = Shortcut(), Place(signed=False), Place()
        self.res_scale = res_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch_input, skip = self.shortcut(x)
        branch: torch.Tensor = self.conv2(self.hidden(F.relu(self.conv1(branch_input))))
        if self.attention is not None:
            branch = self.attention(branch)
        joined: torch.Tensor = skip + self.branch(branch if self.res_scale == 1.0 else branch * self.res_scale)
        return joined


def upsampler_factors(scale: int) -> tuple[int, ...]:
    """Return the shuffle factors of a scale: 3 → (3,), 4 → (2, 2)."""
    factors = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}.get(scale)
    if factors is None:
        raise UsageError(f"scale {scale} is not one of 2, 3, 4, 8")
    return factors


def upsampler_reach(scale: int) -> float:
    """Return the receptive radius, in LR pixels, of the upsampler's 3×3 convolutions and the next 3×3 convolution."""
    reach, magnified = 0.0, 1
    for factor in upsampler_factors(scale):
        reach += 1 / magnified
        magnified *= factor
    return reach + 1 / magnified


def scale_from_upsampler(rows: Sequence[int], width: int) -> int:
    """Return the scale from the rows of an upsampler's convolutions: 9·C → 3; 4·C one to three times → 2, 4, 8."""
    ratios = tuple(row // max(1, width) for row in rows)
    scale = {(4,): 2, (9,): 3, (4, 4): 4, (4, 4, 4): 8}.get(ratios)
    if scale is None or width < 1 or any(row % width for row in rows):
        raise SrkdError(f"upsampler convolutions with {list(rows)} rows at {width} channels fit no scale of 2, 3, 4, 8")
    return scale
