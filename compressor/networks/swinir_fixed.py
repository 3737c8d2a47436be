"""SwinIR for images of one size, in operations that converters without free shapes know.

The same function of the same weights. Features stay N,C,H,W: linear layers are 1×1 convolutions, windows are cut by
pixel unshuffle, which lays a window's positions side by side as channels, and joined by pixel shuffle. No tensor has
more than four axes beside the batch, which is all that ncnn knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from compressor.networks.swinir import ChannelNorm, Group, SwinIR
from compressor.networks.windows import SwinLayer, WindowAttention, shift_mask


class FixedSwinIR(SwinIR):
    """`network` for a batch of one image of `height` × `width`."""

    def __init__(self, network: SwinIR, height: int, width: int) -> None:
        super().__init__(network.spec)
        self.load_state_dict(network.state_dict())
        rows, columns = (network.padded_positions(size, torch.device("cpu")) for size in (height, width))
        self.rows, self.columns = _runs(rows), _runs(columns)
        groups = cast(Iterable[Group], network.groups)
        self.groups = nn.Sequential(*(FixedGroup(group, len(rows), len(columns)) for group in groups))

    def _padded(self, lr: torch.Tensor) -> torch.Tensor:
        if self.rows != [(0, lr.shape[2])]:
            lr = torch.cat([lr[:, :, start:stop] for start, stop in self.rows], 2)
        if self.columns != [(0, lr.shape[3])]:
            lr = torch.cat([lr[:, :, :, start:stop] for start, stop in self.columns], 3)
        return lr

    def _cropped(self, sr: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return sr[:, :, :height, :width]


def _runs(positions: torch.Tensor) -> list[tuple[int, int]]:
    """Positions as pieces [start, stop) that follow each other."""
    told = positions.tolist()
    cuts = [0, *(k for k in range(1, len(told)) if told[k] != told[k - 1] + 1), len(told)]
    return [(told[begin], told[begin] + end - begin) for begin, end in pairwise(cuts)]


class FixedGroup(nn.Module):
    """x + conv(layers(x)) on (N,C,H,W)."""

    def __init__(self, group: Group, height: int, width: int) -> None:
        super().__init__()
        mask = shift_mask(height, width, group.window, torch.device("cpu"))
        layers = cast(Iterable[SwinLayer], group.layers)
        self.layers = nn.Sequential(*(FixedLayer(layer, mask, height, width) for layer in layers))
        self.conv = group.conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep: torch.Tensor = self.conv(self.layers(x))
        return x + deep


class FixedLayer(nn.Module):
    """x += attention(norm1(x)), its windows shifted or not; x += mlp(norm2(x))."""

    def __init__(self, layer: SwinLayer, mask: torch.Tensor, height: int, width: int) -> None:
        super().__init__()
        self.shift = layer.shift
        self.norm1, self.norm2 = _channel_norm(layer.norm1), _channel_norm(layer.norm2)
        self.attention = FixedAttention(layer.attention, mask if layer.shift else None, height, width)
        self.fc1, self.fc2 = (_pointwise(linear.weight, linear.bias) for linear in (layer.fc1, layer.fc2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm1(x)
        if self.shift:
            branch = torch.roll(branch, (-self.shift, -self.shift), (2, 3))
        branch = self.attention(branch)
        if self.shift:
            branch = torch.roll(branch, (self.shift, self.shift), (2, 3))
        x = x + branch
        mixed: torch.Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + mixed


class FixedAttention(nn.Module):
    """softmax(q·kᵀ/√d + relative bias + mask)·v inside each window."""

    bias: torch.Tensor
    mask: torch.Tensor | None

    def __init__(self, attention: WindowAttention, mask: torch.Tensor | None, height: int, width: int) -> None:
        super().__init__()
        self.heads, self.window = attention.heads, attention.window
        self.rows, self.columns = height // self.window, width // self.window
        (q, k, v), (q_bias, k_bias, v_bias) = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        self.each = q.shape[0] // self.heads
        scale = self.each**-0.5
        self.q = _pointwise(q * scale, q_bias * scale)
        self.k, self.v = _pointwise(k, k_bias), _pointwise(v, v_bias)
        self.proj = _pointwise(attention.proj.weight, attention.proj.bias)
        bias = attention.bias_table.detach()[attention.index].permute(2, 0, 1)
        self.register_buffer("bias", bias[None, None].contiguous())
        self.register_buffer("mask", None if mask is None else mask[None, :, None].contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self._windows(self.q(x)).permute(0, 4, 1, 3, 2)
        k = self._windows(self.k(x)).permute(0, 4, 1, 2, 3)
        v = self._windows(self.v(x)).permute(0, 4, 1, 3, 2)
        scores = torch.matmul(q, k) + self.bias
        if self.mask is not None:
            scores = scores + self.mask
        mixed = torch.matmul(scores.softmax(-1), v).permute(0, 2, 4, 3, 1)
        joined = mixed.reshape(1, self.heads * self.each * self.window**2, self.rows, self.columns)
        projected: torch.Tensor = self.proj(F.pixel_shuffle(joined, self.window))
        return projected

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        """(1,C,H,W) to (1, heads, channels of a head, positions, windows)."""
        cut = F.pixel_unshuffle(x, self.window)
        return cut.reshape(1, self.heads, self.each, self.window**2, self.rows * self.columns)


def _pointwise(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A linear layer as a convolution."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(weight[:, :, None, None])
        assert conv.bias is not None
        conv.bias.copy_(bias)
    return conv


def _channel_norm(norm: nn.LayerNorm) -> ChannelNorm:
    own = ChannelNorm(list(norm.normalized_shape), eps=norm.eps)
    own.load_state_dict(norm.state_dict())
    return own
