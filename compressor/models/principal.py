"""Strongest directions first: the same function in another basis, so that leading slices keep most of its features.

Where nothing but convolutions and sums touch a feature, any orthogonal change of its basis may be folded into them:

    producer   W ← PᵀW, b ← Pᵀb      consumer   W ← W·P      P: eigenvectors of Σ f·fᵀ over all that consumers see

Second moments are not centred: zero padding forbids moving a mean into biases. Between two convolutions with an
activation only the order of the units is free: they come by falling var(φ(z))·‖w‖², w what the next convolution does
with the unit in the directions that are kept. SliceGPT (Ashkboos et al., 2024) rotates transformers in this way.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from compressor.base.errors import UsageError
from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8
from compressor.images.sets import embedded_photos
from compressor.models.networks.base import HiddenUnits, LinearSpace, Network, Spec
from compressor.models.networks.registry import architecture

PATCH = 48
"""Pixels of the side of a low-resolution patch."""

BATCH = 8
"""Patches that are run at the same time."""


def order_by_principal_directions(teacher: Network, student: Spec, patches: torch.Tensor) -> Network:
    """Return a copy of the teacher that computes the same, the strongest directions and units first.

    `patches` are low-resolution images, (N, C, H, W) in [0,1], on which directions and units are measured.
    """
    family = architecture(teacher.spec.arch)
    if family.spaces is None:
        raise UsageError(
            f"--select principal turns the basis of a stream without gates, norms and activations, and {family.name} "
            "has some on it: take --select l1, which only reorders channels"
        )
    spaces, hidden = family.spaces(teacher.spec)
    rotated = copy.deepcopy(teacher).eval()
    layers = dict(rotated.named_modules())
    moments = _second_moments(rotated, {name for space in spaces for name in space.consumers}, patches)
    with torch.no_grad():
        for space in spaces:
            _rotate(space, layers, _leading_directions(torch.stack([moments[name] for name in space.consumers]).sum(0)))
        kept = family.axes(student).axes["width"].size
        variances = _hidden_variances(rotated, hidden, patches)
        for units in hidden:
            _reorder(units, layers, variances[units.producer], kept)
    return rotated


def embedded_patches(scale: int, channels: int = 3) -> torch.Tensor:
    """Return patches of the embedded training photos, shrunk by the scale, side by side without overlap."""
    patches = []
    for path in embedded_photos("train").values():
        hr = read_rgb_u8(path)
        height, width = (length // scale * scale for length in hr.shape[-2:])
        lr = downscale_u8(hr[:, :height, :width], scale)[:channels].float().div(255)
        side = min(PATCH, *lr.shape[-2:])
        tiles = lr.unfold(1, side, side).unfold(2, side, side)
        patches.append(tiles.permute(1, 2, 0, 3, 4).reshape(-1, channels, side, side))
    side = min(patch.shape[-1] for patch in patches)
    return torch.cat([patch[..., :side, :side] for patch in patches])


def _second_moments(network: Network, names: set[str], patches: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return Σ f·fᵀ over the pixels of the inputs of these layers, in float64."""
    sums: dict[str, torch.Tensor] = {}

    def add(name: str, feature: torch.Tensor) -> None:
        pixels = feature.transpose(0, 1).flatten(1).double()
        product = pixels @ pixels.T
        sums[name] = sums[name] + product if name in sums else product

    with _inputs_seen(network, names, add):
        _run(network, patches)
    return sums


def _hidden_variances(
    network: Network, hidden: Sequence[HiddenUnits], patches: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the variance over pixels of each unit after its activation, by the convolution before it."""
    by_consumer = {units.consumer: units.producer for units in hidden}
    sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    pixel_counts: Counter[str] = Counter()

    def add(name: str, feature: torch.Tensor) -> None:
        pixels = feature.transpose(0, 1).flatten(1).double()
        first, second = sums.get(name, (torch.zeros_like(pixels[:, 0]), torch.zeros_like(pixels[:, 0])))
        sums[name] = first + pixels.sum(1), second + pixels.square().sum(1)
        pixel_counts[name] += pixels.shape[1]

    with _inputs_seen(network, set(by_consumer), add):
        _run(network, patches)
    return {
        by_consumer[name]: second / pixel_counts[name] - (first / pixel_counts[name]) ** 2
        for name, (first, second) in sums.items()
    }


def _run(network: Network, patches: torch.Tensor) -> None:
    device = network.device
    with torch.no_grad():
        for part in torch.split(patches, BATCH):
            network(part.to(device))


@contextmanager
def _inputs_seen(network: Network, names: set[str], add: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Call `add(name, input)` whenever one of these layers runs."""

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: add(name, inputs[0])

    handles = [
        module.register_forward_pre_hook(watch(name)) for name, module in network.named_modules() if name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leading_directions(moments: torch.Tensor) -> torch.Tensor:
    """Return eigenvectors as columns, the largest eigenvalue first; of each the largest component is positive."""
    vectors = torch.linalg.eigh(moments)[1].flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    signed: torch.Tensor = vectors * largest.sign()
    return signed


def _rotate(space: LinearSpace, layers: Mapping[str, nn.Module], basis: torch.Tensor) -> None:
    """Fold P into the layers: Pᵀ into the rows of producers, P into the columns of consumers."""
    for name in space.producers:
        layer = _conv(layers, name)
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                # Rows before a pixel shuffle: each unit has some, one for each offset.
                rows = parameter.reshape(len(basis), -1).double()
                parameter.copy_((basis.T @ rows).reshape(parameter.shape))
    for name in space.consumers:
        weight = _conv(layers, name).weight
        weight.copy_(torch.einsum("ochw,cd->odhw", weight.double(), basis))


def _reorder(units: HiddenUnits, layers: Mapping[str, nn.Module], variance: torch.Tensor, kept: int) -> None:
    first, second = _conv(layers, units.producer), _conv(layers, units.consumer)
    use = second.weight[:kept].double().square().sum((0, 2, 3))
    order = (variance * use).argsort(descending=True, stable=True)
    first.weight.copy_(first.weight[order])
    if first.bias is not None:
        first.bias.copy_(first.bias[order])
    second.weight.copy_(second.weight[:, order])


def _conv(layers: Mapping[str, nn.Module], name: str) -> nn.Conv2d:
    layer = layers[name]
    assert isinstance(layer, nn.Conv2d)
    return layer
