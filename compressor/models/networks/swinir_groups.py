"""The residual groups of SwinIR, and the LayerNorm over channels."""

from __future__ import annotations

import torch
from torch import nn

from compressor.models.networks.swinir_spec import SwinIRSpec
from compressor.models.networks.windows import SwinLayer, shift_mask


def connection(spec: SwinIRSpec) -> nn.Module:
    """Return the convolution at the end of a group or of the body: one, or three through a quarter of the channels."""
    if spec.connection == "1conv":
        return nn.Conv2d(spec.width, spec.width, 3, padding=1)
    quarter = spec.width // 4
    return nn.Sequential(
        nn.Conv2d(spec.width, quarter, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(quarter, quarter, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(quarter, spec.width, 3, padding=1),
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
