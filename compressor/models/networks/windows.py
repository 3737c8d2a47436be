"""SwinIR's layers and groups: window attention on maps (N,H,W,C) whose sides are multiples of the window.

Code followed: JingyunLiang/SwinIR, models/network_swinir.py. Sizes are read from tensors, so one trace serves all
sizes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.layers import conv3
from compressor.models.networks.swinir_spec import SwinIRSpec
from compressor.models.quantisation.quantisers import Place

OTHER_REGION = -100.0
"""Added to the attention between positions that are neighbours only because of the cyclic shift."""
INITIAL_DEVIATION = 0.02
"""Initial standard deviation of linear layers and bias tables."""


def to_windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """Return (N,H,W,C) as (N, windows, window², C)."""
    n, h, w, c = x.shape
    cut = x.reshape(n, h // window, window, w // window, window, c)
    return _swapped(cut).reshape(n, (h // window) * (w // window), window * window, c)


def from_windows(windows: torch.Tensor, window: int, h: int, w: int) -> torch.Tensor:
    """Return (N, windows, window², C) as (N,H,W,C)."""
    n, _, _, c = windows.shape
    tiles = windows.reshape(n, h // window, w // window, window, window, c)
    return _swapped(tiles).reshape(n, h, w, c)


def _swapped(cut: torch.Tensor) -> torch.Tensor:
    """Return a copy with axes 2 and 3 swapped: a traced graph cannot decide whether a reshape could be a view."""
    return cut.permute(0, 1, 3, 2, 4, 5).clone(memory_format=torch.contiguous_format)


def shift_mask(h: int, w: int, window: int, device: torch.device) -> torch.Tensor:
    """Return (windows, window², window²): 0 within a region of the shifted map, OTHER_REGION between regions."""
    rows, columns = (_regions(size, window, window // 2, device) for size in (h, w))
    flat = to_windows((rows[:, None] * 3 + columns)[None, :, :, None], window)[0, :, :, 0]
    return torch.where(flat[:, None, :] == flat[:, :, None], 0.0, OTHER_REGION)


def _regions(size: int, window: int, shift: int, device: torch.device) -> torch.Tensor:
    """Return 0 before the last window, 1 in it, 2 in its last `shift` positions."""
    position = torch.arange(size, device=device)
    return (position >= size - window).long() + (position >= size - shift).long()


def relative_index(window: int) -> torch.Tensor:
    """Return (window², window²): the row of the bias table for each pair of positions."""
    along = torch.arange(window)
    grid = torch.stack(torch.meshgrid(along, along, indexing="ij")).flatten(1)
    offset = grid[:, :, None] - grid[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer, initialised as in the official code (network_swinir.py, _init_weights)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=INITIAL_DEVIATION)
    nn.init.zeros_(layer.bias)
    return layer


class WindowAttention(nn.Module):
    """Window attention: softmax(q·kᵀ/√d + relative bias + mask)·v within each window."""

    index: torch.Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = _linear(width, 3 * width)
        self.proj = _linear(width, width)
        self.read, self.mixed = Place(), Place()
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=INITIAL_DEVIATION)
        self.register_buffer("index", relative_index(window), persistent=False)

    def forward(self, windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        n, count, positions, width = windows.shape
        each = width // self.heads
        # At most five axes: some formats of `srkd export` do not support more.
        q, k, v = (
            projected.reshape(n, count, positions, self.heads, each).transpose(2, 3)
            for projected in self.qkv(self.read(windows)).chunk(3, dim=-1)
        )
        bias = self.bias_table[self.index].permute(2, 0, 1)
        attention = (q * each**-0.5) @ k.transpose(-2, -1) + bias
        if mask is not None:
            attention = attention + mask.to(attention.dtype)[:, None]
        mixed = attention.softmax(-1) @ v
        projected: torch.Tensor = self.proj(self.mixed(mixed.transpose(2, 3).reshape(n, count, positions, width)))
        return projected


class SwinLayer(nn.Module):
    """A layer: x += attention(norm1(x)), in shifted windows if `shifted`; x += mlp(norm2(x)), exact GELU."""

    def __init__(self, width: int, heads: int, window: int, hidden: int, *, shifted: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window)
        self.fc1, self.fc2 = _linear(width, hidden), _linear(hidden, width)
        self.read, self.hidden = Place(), Place()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h, w = x.shape[1:3]
        branch = self.norm1(x)
        if self.shift:
            branch = torch.roll(branch, (-self.shift, -self.shift), (1, 2))
        attended = self.attention(to_windows(branch, self.window), mask if self.shift else None)
        branch = from_windows(attended, self.window, h, w)
        if self.shift:
            branch = torch.roll(branch, (self.shift, self.shift), (1, 2))
        x = x + branch
        mixed: torch.Tensor = self.fc2(self.hidden(F.gelu(self.fc1(self.read(self.norm2(x))))))
        return x + mixed


def connection(spec: SwinIRSpec) -> nn.Module:
    """Return the convolution at the end of a group or of the body: one, or three through a quarter of the channels."""
    if spec.connection == "1conv":
        return conv3(spec.width, spec.width)
    quarter = spec.width // 4
    return nn.Sequential(
        conv3(spec.width, quarter),
        nn.LeakyReLU(0.2),
        nn.Conv2d(quarter, quarter, 1),
        nn.LeakyReLU(0.2),
        conv3(quarter, spec.width),
    )


class SwinGroup(nn.Module):
    """A residual group: x + conv(layers(x)); every second layer is shifted."""

    def __init__(self, spec: SwinIRSpec, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SwinLayer(spec.width, heads, spec.window, spec.hidden, shifted=spec.shifted and k % 2 == 1)
            for k in range(depth)
        )
        self.conv = connection(spec)
        self.window = spec.window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.permute(0, 2, 3, 1)
        mask = shift_mask(x.shape[2], x.shape[3], self.window, x.device)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        deep: torch.Tensor = self.conv(tokens.permute(0, 3, 1, 2))
        return x + deep


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N,C,H,W)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
