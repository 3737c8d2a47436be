"""Networks for tests, read from each architecture, so that a new network is in every test."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from compressor.models.checkpoints.save import save_network
from compressor.models.networks.axes import Cut
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.registry import NETWORKS, architecture, build
from compressor.models.quantisation.quantisers import following

SMALL: dict[str, Spec] = {name: architecture(name).small for name in NETWORKS}
"""A spec of each network with three blocks, and enough channels for cuts at any width."""
VARIANTS: list[Spec] = [spec for name in NETWORKS for spec in architecture(name).variants]
"""Scales 1 and 8, and the other forms of each network."""
TEACHERS: dict[str, Spec] = {
    name: replace(spec, res_scale=0.5) if hasattr(spec, "res_scale") else spec for name, spec in SMALL.items()
}
FORMS: dict[str, Spec] = {
    "swinir direct": replace(TEACHERS["swinir"], upsampler="pixelshuffledirect", mlp_ratio=1.5),
    "swinir nearest": replace(TEACHERS["swinir"], upsampler="nearest+conv", scale=4),
    "swinir 3conv": replace(TEACHERS["swinir"], width=28, heads=(7, 7, 7), connection="3conv"),
    "swinir denoiser": replace(TEACHERS["swinir"], upsampler="none", scale=1, channels=1, img_range=255.0),
    "compact grey x1": replace(TEACHERS["compact"], scale=1, channels=1),
    "compact relu": replace(TEACHERS["compact"], scale=2, act="relu", residual=False),
    "rcan x8": replace(TEACHERS["rcan"], scale=8),
}
"""Networks to be cut: those of TEACHERS and other forms."""


def tiny(arch: str, scale: int) -> Spec:
    """Return the smallest network of a kind with three blocks and, if it has heads, two heads."""
    return replace(SMALL[arch], scale=scale).narrowed(0.29)


def pairs() -> list[tuple[str, int]]:
    """Return EDSR at every scale, and each other network at one: networks share their upsamplers.

    `make test-matrix` has every network at every scale.
    """
    others = [arch for arch in NETWORKS if arch != "edsr"]
    rest = [(arch, scale) for arch, scale in zip(others, itertools.cycle((3, 4, 2)), strict=False)]
    return [*(("edsr", scale) for scale in (2, 3, 4)), *rest]


def tiny_networks() -> list[Spec]:
    return [tiny(arch, scale) for arch, scale in pairs()]


def label(spec: Spec) -> str:
    return f"{spec.arch}-x{spec.scale}"


def is_bounded(spec: Spec) -> bool:
    """Return whether an output pixel depends on a bounded neighbourhood."""
    with torch.device("meta"):
        return build(spec).descriptor.receptive_radius is not None


def noise(spec: Spec, height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Return images of [0,1] with the network's channels, always the same."""
    with torch.device("meta"):
        channels = build(spec).descriptor.channels
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def same_network(one: Network, other: Network) -> bool:
    return one.fingerprint() == other.fingerprint()


def find_ranges(network: Network, lr: torch.Tensor, margin: float = 1.0) -> Network:
    """Set every range of a quantised network to the largest feature for these images, times `margin`."""
    with torch.no_grad(), following(network, lambda _, peaks: peaks.mean()) as followed:
        network(lr)
    with torch.no_grad():
        for alpha, value in followed.items():
            alpha.copy_(value * margin)
    return network


def changed(network: Network, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Network:
    other = copy.deepcopy(network)
    other.load_state_dict(other.state_dict() | {name: change(other.state_dict()[name].clone())})
    return other


def save_new(spec: Spec, folder: Path) -> Path:
    """Save a network with random weights; a mean shift that the file holds is changed a little."""
    path = folder / f"{spec.arch}.safetensors"
    network = build(spec, seed=3)
    if getattr(spec, "mean_shift", "") == "file":
        network.add_mean.bias.mul_(1.01)  # type: ignore[union-attr, operator]
    save_network(network, path)
    return path


def save_state(content: object, folder: Path, **options: object) -> Path:
    path = folder / "checkpoint.pth"
    torch.save(content, path, **options)  # type: ignore[arg-type]
    return path


def zero_outside(cut: Cut, tensor: torch.Tensor) -> torch.Tensor:
    inside = torch.ones_like(tensor, dtype=torch.bool)
    for dim, runs in enumerate(cut.runs):
        along = torch.zeros(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
        for start, length in runs:
            along[start : start + length] = True
        inside &= along.reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
    return torch.where(inside, tensor, torch.zeros_like(tensor))
