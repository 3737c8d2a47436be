"""The reference for slices: the teacher with all dropped weights set to zero."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network, Spec
from compressor.models.networks.registry import build
from compressor.models.networks.slices import student_cuts
from compressor.models.networks.windows import ChannelNorm
from tests.support.networks import zero_outside


def lively(spec: Spec) -> Network:
    """Return a network with random weights, none of them trivial, so that a wrong cut changes the output."""
    network = build(spec, seed=spec.scale)
    generator = torch.Generator().manual_seed(spec.scale)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator)
            if name.endswith("bias_table"):
                parameter.copy_(4 * noise - 2)
            elif name.endswith("bias"):
                parameter.copy_(noise - 0.4)
            else:
                parameter.mul_(1.5)
                if parameter.dim() == 1:  # norms and slopes
                    parameter.add_(noise - 0.5)
    return network


def run(network: Network, seed: int = 0, size: tuple[int, int] = (6, 7)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sr: torch.Tensor = network(torch.rand(1, network.descriptor.channels, *size, generator=generator))
    return sr


def zero_masked(teacher: Network, student: Network) -> Network:
    """Return the teacher with every weight of a dropped channel set to zero.

    LayerNorm takes mean and variance over all channels, so dropped ones would count although they are zero. Therefore
    the norms of the masked teacher normalise the kept channels only, as those of a narrower network do.
    """
    cut = student_cuts(teacher.spec, student.spec)
    masked = build(teacher.spec)
    own = dict(teacher.named_parameters())
    masked.load_state_dict({name: zero_outside(cut[name], own[name].detach()) for name in own})
    width = int(student.spec.to_dict()["width"])
    for module in masked.modules():
        if isinstance(module, nn.LayerNorm):
            _narrow(module, width)
    return masked


def _narrow(norm: nn.LayerNorm, width: int) -> None:
    """Make `norm` normalise only the leading channels; the others stay zero."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        channels_first = isinstance(norm, ChannelNorm)
        x = x.permute(0, 2, 3, 1) if channels_first else x
        inside = F.layer_norm(x[..., :width], (width,), norm.weight[:width], norm.bias[:width], norm.eps)
        x = F.pad(inside, (0, x.shape[-1] - width))
        return x.permute(0, 3, 1, 2) if channels_first else x

    norm.forward = forward  # type: ignore[method-assign, assignment]
