"""What a slice must equal: the teacher with everything that was dropped set to zero."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.networks.base import Network, Spec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import ChannelNorm
from compressor.models.students import student_cuts
from tests.support.networks import zero_outside


def lively(spec: Spec) -> Network:
    """Random weights, none of them trivial, so that anything cut wrongly shows."""
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
    """Its output for noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sr: torch.Tensor = network(torch.rand(1, network.descriptor.channels, *size, generator=generator))
    return sr


def zero_masked(teacher: Network, student: Network) -> Network:
    """The teacher with every weight that touches a dropped channel set to zero.

    LayerNorm takes mean and variance over all channels, so that dropped ones count although they are zero. What is
    equivalent is the masked teacher whose norms look at the kept channels only: that is what a narrower norm does.
    """
    cut = student_cuts(teacher.spec, student.spec)
    masked = build(teacher.spec)
    own = dict(teacher.named_parameters())
    masked.load_state_dict({name: zero_outside(cut[name], own[name].detach()) for name in own})
    kept = int(student.spec.to_dict()["width"])
    for module in masked.modules():
        if isinstance(module, nn.LayerNorm):
            _narrow(module, kept)
    return masked


def _narrow(norm: nn.LayerNorm, kept: int) -> None:
    """Let `norm` normalise the leading channels alone; the others, which are zero, stay zero."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        channels_first = isinstance(norm, ChannelNorm)
        x = x.permute(0, 2, 3, 1) if channels_first else x
        inside = F.layer_norm(x[..., :kept], (kept,), norm.weight[:kept], norm.bias[:kept], norm.eps)
        x = F.pad(inside, (0, x.shape[-1] - kept))
        return x.permute(0, 3, 1, 2) if channels_first else x

    norm.forward = forward  # type: ignore[method-assign, assignment]
