"""Patches for fits, and a teacher that a narrower student can reproduce exactly."""

from __future__ import annotations

import torch

from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from tests.support.slices import lively


def patches(count: int = 8, side: int = 20, seed: int = 4) -> torch.Tensor:
    """Return smooth low-resolution noise: neighbouring pixels are alike, as in photos."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 4 + 2, side // 4 + 2, generator=generator)
    fine = torch.rand(count, 3, side, side, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (0.8 * smooth + 0.2 * fine).clamp(0, 1)


def in_few_directions(spec: EDSRSpec, rank: int) -> Network:
    """Return a teacher whose stream and upsampler span `rank` dimensions, with `rank` live hidden units per block."""
    network = lively(spec)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        bases = [torch.linalg.qr(torch.randn(spec.width, spec.width, generator=generator))[0][:, :rank] for _ in "abc"]
        keep = [basis @ basis.T for basis in bases]
        for name, module in network.named_modules():
            if not isinstance(module, torch.nn.Conv2d) or name == "tail":
                continue
            level = 0 if not name.startswith("upsampler") else 1 + int(name[-1])
            if name.endswith("conv1"):
                for unit in torch.randperm(spec.width, generator=generator)[rank:]:
                    module.weight[unit], module.bias[unit] = 0.0, 0.0  # type: ignore[index]
                continue
            rows = module.weight.reshape(spec.width, -1)
            module.weight.copy_((keep[level] @ rows).reshape(module.weight.shape))
            module.bias.copy_((keep[level] @ module.bias.reshape(spec.width, -1)).flatten())
    return network
