"""The groups of a SwinIR for images of one size, in operations that converters without dynamic shapes take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.windows import ChannelNorm, SwinGroup, SwinLayer, WindowAttention, shift_mask


class FixedGroup(nn.Module):
    """A residual group: x + conv(layers(x)) on (N,C,H,W)."""

    def __init__(self, group: SwinGroup, height: int, width: int) -> None:
        super().__init__()
        mask = shift_mask(height, width, group.window, torch.device("cpu"))
        layers = cast(Iterable[SwinLayer], group.layers)
        self.layers = nn.Sequential(*(FixedLayer(layer, mask, height, width) for layer in layers))
        self.conv = group.conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep: torch.Tensor = self.conv(self.layers(x))
        return x + deep


class FixedLayer(nn.Module):
    """A transformer layer: x += attention(norm1(x)), in shifted windows or not; x += mlp(norm2(x))."""

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
    """Window attention: softmax(q·kᵀ/√d + relative bias + mask)·v within each window."""

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
        """Return (1,C,H,W) as (1, heads, channels per head, positions, windows)."""
        cut = F.pixel_unshuffle(x, self.window)
        return cut.reshape(1, self.heads, self.each, self.window**2, self.rows * self.columns)


def _pointwise(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """Return a linear layer as a 1×1 convolution."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(weight[:, :, None, None])
        assert conv.bias is not None
        conv.bias.copy_(bias)
    return conv


def _channel_norm(norm: nn.LayerNorm) -> ChannelNorm:
    channel_norm = ChannelNorm(list(norm.normalized_shape), eps=norm.eps)
    channel_norm.load_state_dict(norm.state_dict())
    return channel_norm
