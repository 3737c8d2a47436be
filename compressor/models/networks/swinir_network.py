"""The network SwinIR (Liang et al., 2021): residual groups of shifted-window transformer layers.

Code followed: JingyunLiang/SwinIR, models/network_swinir.py. Its stochastic depth in training is left out: it draws
from global state and has no effect on a trained network.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.images.resize import reflected_indices
from compressor.models.networks.base import Descriptor, Network, Tap
from compressor.models.networks.layers import DIV2K_MEAN, MeanShift, Upsampler, conv3
from compressor.models.networks.swinir_fixed import FixedGroup
from compressor.models.networks.swinir_spec import SwinIRSpec
from compressor.models.networks.windows import ChannelNorm, SwinGroup, connection


class NearestUpsampler(nn.Module):
    """An upsampler for ×4: twice nearest ×2, convolution, LeakyReLU 0.2; then one more convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.up1, self.up2, self.hr = (conv3(features, features) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.up1, self.up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return F.leaky_relu(self.hr(x), 0.2)


class SwinIR(Network):
    spec: SwinIRSpec
    repeated = "groups"

    def __init__(self, spec: SwinIRSpec) -> None:
        super().__init__()
        self.spec = spec
        mean = DIV2K_MEAN if spec.channels == 3 else (0.0,)
        self.sub_mean = MeanShift(mean, spec.img_range, leave=False, from_file=False)
        self.add_mean = MeanShift(mean, spec.img_range, leave=True, from_file=False)
        self.head = conv3(spec.channels, spec.width)
        self.embed_norm = ChannelNorm(spec.width)
        self.groups = nn.Sequential(*(SwinGroup(spec, d, h) for d, h in zip(spec.depths, spec.heads, strict=True)))
        self.norm = ChannelNorm(spec.width)
        self.body_end = connection(spec)
        self.joined = nn.Identity()
        inputs, outputs = spec.width, spec.channels
        if spec.has_features:
            inputs = spec.features
            self.before_upsampler = conv3(spec.width, spec.features)
            nearest = spec.upsampler == "nearest+conv"
            self.upsampler = NearestUpsampler(spec.features) if nearest else Upsampler(spec.scale, spec.features)
        elif spec.upsampler == "pixelshuffledirect":
            outputs = spec.channels * spec.scale**2
        self.tail = conv3(inputs, outputs)

    def stem(self, lr: torch.Tensor) -> torch.Tensor:
        return super().stem(self.sub_mean(self._padded(lr)))

    def body(self, feature: torch.Tensor) -> torch.Tensor:
        return super().body(self.embed_norm(feature))

    def finish(self, feature: torch.Tensor, shallow: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        joined = self.joined(self.body_end(self.norm(feature)) + shallow)
        h, w = lr.shape[-2] * self.spec.scale, lr.shape[-1] * self.spec.scale
        if self.spec.upsampler == "pixelshuffledirect":
            residual = F.pixel_shuffle(self.tail(joined), self.spec.scale)
        elif self.spec.upsampler == "none":
            residual = self.sub_mean(self._padded(lr)) + self.tail(joined)
        else:
            # The slope here is torch's default, not the 0.2 of the other activations.
            residual = self.tail(self.upsampler(F.leaky_relu(self.before_upsampler(joined), 0.01)))
        return self._cropped(self.add_mean(residual), h, w)

    def tail_output(self, image: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        residual: torch.Tensor = self.add_mean.undo(image)
        if self.spec.upsampler == "none":
            residual = residual - self.sub_mean(lr)
        return residual if self.spec.has_features else F.pixel_unshuffle(residual, self.spec.scale)

    def _cropped(self, sr: torch.Tensor, height: int, width: int) -> torch.Tensor:
        # Not a slice: a trace would decide once for all sizes whether the slice covers everything.
        rows, columns = (torch.arange(length, device=sr.device) for length in (height, width))
        return sr.index_select(-2, rows).index_select(-1, columns)

    def _padded(self, lr: torch.Tensor) -> torch.Tensor:
        h, w = lr.shape[-2], lr.shape[-1]
        lr = lr.index_select(-2, self.padded_positions(h, lr.device))
        return lr.index_select(-1, self.padded_positions(w, lr.device))

    def padded_positions(self, size: int, device: torch.device) -> torch.Tensor:
        """Return the source position, on an axis of `size`, of each position of the padded axis."""
        window, script = self.spec.window, self.spec.padding == "testscript"
        target = (size + (window if script else window - 1)) // window * window
        return reflected_indices(torch.arange(target, device=device), size, repeat_edge=script)

    def for_size(self, height: int, width: int) -> Network:
        if self.quantisation is not None:
            raise SrkdError("a quantised swinir has no form for images of one size: export it for any size, as --onnx")
        return FixedSwinIR(self, height, width).to(self.head.weight.device).train(self.training)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor: any size is allowed. Windows start at the top left; tiles keep to their grid."""
        return Descriptor(
            scale=self.spec.scale,
            channels=self.spec.channels,
            receptive_radius=None,
            window=self.spec.window,
            mirror_repeats_edge=self.spec.padding == "testscript",
        )

    @property
    def taps(self) -> dict[str, Tap]:
        return {**super().taps, "pre_up": Tap("joined")}


class FixedSwinIR(SwinIR):
    """A SwinIR for a batch of one image of `height` × `width`, with operations for converters without dynamic shapes.

    It computes the same function with the same weights. Features stay N,C,H,W: linear layers are 1×1 convolutions,
    windows are cut by pixel unshuffle, which puts a window's positions side by side as channels, and joined by pixel
    shuffle. No tensor has more than four axes besides the batch, which is ncnn's limit.
    """

    def __init__(self, network: SwinIR, height: int, width: int) -> None:
        super().__init__(network.spec)
        self.load_state_dict(network.state_dict())
        rows, columns = (network.padded_positions(size, torch.device("cpu")) for size in (height, width))
        self.rows, self.columns = _runs(rows), _runs(columns)
        self.sr_size = (height * network.spec.scale, width * network.spec.scale)
        groups = cast(Iterable[SwinGroup], network.groups)
        self.groups = nn.Sequential(*(FixedGroup(group, len(rows), len(columns)) for group in groups))

    def _padded(self, lr: torch.Tensor) -> torch.Tensor:
        if len(self.rows) > 1:
            lr = torch.cat([lr[:, :, start:stop] for start, stop in self.rows], 2)
        if len(self.columns) > 1:
            lr = torch.cat([lr[:, :, :, start:stop] for start, stop in self.columns], 3)
        return lr

    def _cropped(self, sr: torch.Tensor, height: int, width: int) -> torch.Tensor:
        # Not the caller's sizes, which a trace computes from the image: converters fail on that.
        if sr.shape[-2:] == self.sr_size:
            return sr
        return sr[:, :, : self.sr_size[0], : self.sr_size[1]]


def _runs(positions: torch.Tensor) -> list[tuple[int, int]]:
    """Return the positions as runs [start, stop) of consecutive numbers."""
    values = positions.tolist()
    cuts = [0, *(k for k in range(1, len(values)) if values[k] != values[k - 1] + 1), len(values)]
    return [(values[begin], values[begin] + end - begin) for begin, end in pairwise(cuts)]
