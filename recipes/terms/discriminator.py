"""The opponent of a perceptual student: a U-Net that gives each pixel of an image a logit, and its losses.

    c0 3→n;  c1 n→2n, c2 2n→4n, c3 4n→8n, each 4×4 with stride 2;  then up by 2 (bilinear), c4 8n→4n, + x2;
    up, c5 4n→2n, + x1;  up, c6 2n→n, + x0;  c7, c8 n→n;  c9 n→1          (a leaky ReLU of 0.2 behind each but the last)

c1 to c8 have no bias and spectral normalisation (Miyato et al., 2018), iterated in each pass that learns. Code:
xinntao/Real-ESRGAN, realesrgan/archs/discriminator_arch.py (n = 64), whose names of parameters are kept.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from recipes.terms.distances import full_precision, widen

SIDE_FACTOR = 8
"""Images are padded to a multiple of this side: three times halved."""
SLOPE = 0.2
FIRST_ITERATIONS = 15
"""Iterations for u and v of a new network, whose σ would otherwise be far too small."""


class OpponentConv(nn.Conv2d):
    """A convolution that runs with or without learning: without, its weights are constants."""

    def run(self, images: torch.Tensor, *, learns: bool) -> torch.Tensor:
        bias = self.bias if self.bias is None or learns else self.bias.detach()
        return F.conv2d(images, self.matrix(learns=learns), bias, self.stride, self.padding)

    def matrix(self, *, learns: bool) -> torch.Tensor:
        """Return the weight that the pass uses."""
        return self.weight if learns else self.weight.detach()


class SpectralConv(OpponentConv):
    """A convolution without bias, its weight divided by its largest singular value."""

    weight_u: torch.Tensor
    weight_v: torch.Tensor

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, side, stride, padding=1, bias=False)
        # The names of torch's spectral_norm, which the published files have.
        self.weight_orig = nn.Parameter(self.weight.detach().clone())
        del self.weight
        self.register_buffer("weight_u", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(inputs * side**2), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self._iterate()

    @torch.no_grad()
    def _iterate(self) -> None:
        rows = self.weight_orig.flatten(1)
        self.weight_v.copy_(F.normalize(rows.t() @ self.weight_u, dim=0))
        self.weight_u.copy_(F.normalize(rows @ self.weight_v, dim=0))

    def matrix(self, *, learns: bool) -> torch.Tensor:
        weight = self.weight_orig if learns else self.weight_orig.detach()
        with full_precision(weight):
            if learns:
                self._iterate()
            # Clones, as the next pass changes them before the backward pass of this one.
            largest = torch.dot(self.weight_u.clone(), weight.flatten(1) @ self.weight_v.clone())
            return weight / largest


class UNetDiscriminator(nn.Module):
    """The discriminator of Real-ESRGAN, of `width` channels; at 64 it has 4,376,897 parameters, at 32 1,094,817."""

    def __init__(self, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        n = width
        self.conv0 = OpponentConv(channels, n, 3, padding=1)
        self.conv1, self.conv2, self.conv3 = (SpectralConv(k * n, 2 * k * n, 4, 2) for k in (1, 2, 4))
        self.conv4, self.conv5, self.conv6 = (SpectralConv(2 * k * n, k * n, 3) for k in (4, 2, 1))
        self.conv7, self.conv8 = SpectralConv(n, n, 3), SpectralConv(n, n, 3)
        self.conv9 = OpponentConv(n, 1, 3, padding=1)
        # A pass and its backward pass take three quarters of the time in this layout (16 channels, 64x64, one thread).
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor, *, learns: bool = False) -> torch.Tensor:
        """Return a logit per pixel, (B,1,H,W), above zero for the teacher's images.

        A pass that `learns` has gradients to the weights and moves u and v; any other has gradients to the images only.
        """
        height, width = images.shape[-2:]
        x = F.pad(images, (0, -width % SIDE_FACTOR, 0, -height % SIDE_FACTOR), mode="replicate")
        skips = list[torch.Tensor]()
        for conv in (self.conv0, self.conv1, self.conv2, self.conv3):
            x = F.leaky_relu(conv.run(x, learns=learns), SLOPE)
            skips.append(x)
        skips.pop()
        for conv in (self.conv4, self.conv5, self.conv6):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(conv.run(x, learns=learns), SLOPE) + skips.pop()
        for conv in (self.conv7, self.conv8):
            x = F.leaky_relu(conv.run(x, learns=learns), SLOPE)
        return widen(self.conv9.run(x, learns=learns))[..., :height, :width]


def student_loss(fake: torch.Tensor) -> torch.Tensor:
    """BCE(D(s), 1): the mean of -log sigmoid of the logits of the student's images."""
    return F.softplus(-fake).mean()


def opponent_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """BCE(D(t), 1) + BCE(D(s), 0)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()
