"""LPIPS and DISTS: distances of the features that an ImageNet network has of two images.

    LPIPS   Zhang et al., 'The unreasonable effectiveness of deep features as a perceptual metric', 2018, version 0.1.
            d = sum_l mean_hw w_l (f_l / |f_l| - g_l / |g_l|)^2, f_l after the ReLUs of SqueezeNet 1.1
    DISTS   Ding et al., 'Image quality assessment: unifying structure and texture similarity', 2020.
            d = 1 - sum_l (a_l (2 m n + c) / (m^2 + n^2 + c) + b_l (2 cov + c) / (v + u + c)); means m and n, variances
            v and u and the covariance of each channel of the image and of VGG-16, whose pooling is an L2 norm

The networks are defined here without torchvision, which all libraries of these metrics need. Their weights are
torchvision's files in torch.hub's cache; nothing is downloaded. The weights w, a and b are in torchmetrics. The tests
compare both with the official code on random weights of the networks: the ImageNet weights were not available during
development.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.base.errors import SrkdError
from compressor.images.metrics import PEAK, ImageTooSmall, crop_both
from compressor.models.checkpoints.published import hub_file, read_published

MOST_PIXELS = 2**22
"""Larger images are measured in equal pieces of at most this size, in at most 4 GB; their mean is weighted by area."""
SMALLEST_SIDE = 16
LPIPS_EPSILON = 1e-10
DISTS_EPSILON = 1e-6


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision, and the file of its weights."""

    what: str
    file: str
    megabytes: float
    build: Callable[[], nn.Sequential]
    taps: tuple[int, ...]
    """Layers whose outputs are compared."""

    @property
    def sha256(self) -> str:
        """The first digits of the file's SHA-256, which torchvision puts in its name."""
        return self.file.removesuffix(".pth").rpartition("-")[2]

    def missing(self) -> str | None:
        """One line on how to get the file, or None if it is here."""
        path = hub_file(self.file)
        if path.is_file():
            return None
        return (
            f"{path} is missing, the weights of {self.what} ({self.megabytes:g} MB): download "
            f"https://download.pytorch.org/models/{self.file} there"
        )

    def load(self) -> nn.Sequential:
        """The layers up to the last tap, frozen."""
        with torch.device("meta"):
            features = self.build()
        shapes = {f"features.{name}": value.shape for name, value in features.state_dict().items()}
        state = read_published(
            hub_file(self.file), shapes, what=self.what, give=f"torchvision's {self.file}", sha256=self.sha256
        )
        features.load_state_dict({name.removeprefix("features."): value for name, value in state.items()}, assign=True)
        return features.requires_grad_(False).eval()


class _Fire(nn.Module):
    """SqueezeNet's module: a 1x1 convolution, then a 1x1 and a 3x3 convolution side by side; names of torchvision."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def squeezenet() -> nn.Sequential:
    """The features of SqueezeNet 1.1."""

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        pool(),
        _Fire(64, 16, 64),
        _Fire(128, 16, 64),
        pool(),
        _Fire(128, 32, 128),
        _Fire(256, 32, 128),
        pool(),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        _Fire(512, 64, 256),
    )


class _L2Pooling(nn.Module):
    """The root of a weighted mean of squares over 3x3 pixels, every other pixel."""

    def forward(self, x: Tensor) -> Tensor:
        hann = x.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(hann, hann).expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def vgg16() -> nn.Sequential:
    """The features of VGG-16 up to conv5_3 and its ReLU, with DISTS' pooling."""
    layers: list[nn.Module] = []
    inputs = 3
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [_L2Pooling()] if layers else []
        for _ in range(convolutions):
            # In place saves memory: no layer before a ReLU is compared.
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = channels
    return nn.Sequential(*layers)


SQUEEZENET = Backbone("SqueezeNet 1.1", "squeezenet1_1-b8a52dc0.pth", 4.7, squeezenet, (1, 4, 7, 9, 10, 11, 12))
VGG16 = Backbone("VGG-16", "vgg16-397923af.pth", 528, vgg16, (3, 8, 15, 22, 29))


def lpips(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """LPIPS with SqueezeNet for each image of (N,3,H,W) on 0..255: (N,); 0 for equal images."""
    features, weights = _lpips_weights()
    return in_pieces(lambda *pair: lpips_of(features, weights, *pair), images_255, reference_255, border)


def dists(images_255: Tensor, reference_255: Tensor, *, border: int = 0) -> Tensor:
    """DISTS for each image of (N,3,H,W) on 0..255: (N,); 0 for equal images."""
    features, alpha, beta = _dists_weights()
    return in_pieces(lambda *pair: dists_of(features, alpha, beta, *pair), images_255, reference_255, border)


def lpips_of(features: nn.Sequential, weights: tuple[Tensor, ...], ours_01: Tensor, theirs_01: Tensor) -> Tensor:
    """LPIPS by these features, with the weights (1,C,1,1) of each level's channels."""
    shift, scale = (ours_01.new_tensor(row)[:, None, None] for row in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    ours, theirs = ((2 * image - 1 - shift) / scale for image in (ours_01, theirs_01))
    total = ours.new_zeros(len(ours))
    for weight, levels in zip(weights, _levels(features, SQUEEZENET.taps, ours, theirs), strict=True):
        unit, other = (level / (level.square().sum(1, keepdim=True).sqrt() + LPIPS_EPSILON) for level in levels)
        total += ((unit - other).square() * weight).sum(1).mean((-2, -1))
    return total


def dists_of(features: nn.Sequential, alpha: Tensor, beta: Tensor, ours_01: Tensor, theirs_01: Tensor) -> Tensor:
    """DISTS by these features, with the weights (1,C,1,1) of the channels of the image and of all levels."""
    mean, deviation = (ours_01.new_tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours, theirs = ((image - mean) / deviation for image in (ours_01, theirs_01))
    similarity, first = ours.new_zeros(len(ours)), 0
    for levels in ((ours_01, theirs_01), *_levels(features, VGG16.taps, ours, theirs)):
        means = [level.mean((-2, -1)) for level in levels]
        centred = [level - m[..., None, None] for level, m in zip(levels, means, strict=True)]
        variances = [level.square().mean((-2, -1)) for level in centred]
        covariance = (centred[0] * centred[1]).mean((-2, -1))
        texture = (2 * means[0] * means[1] + DISTS_EPSILON) / (means[0] ** 2 + means[1] ** 2 + DISTS_EPSILON)
        structure = (2 * covariance + DISTS_EPSILON) / (variances[0] + variances[1] + DISTS_EPSILON)
        channels = slice(first, first + means[0].shape[1])
        similarity += (alpha[0, channels, 0, 0] * texture + beta[0, channels, 0, 0] * structure).sum(1)
        first = channels.stop
    return (1 - similarity / (alpha.sum() + beta.sum())).clamp(min=0)  # rounding can go below


def _levels(
    features: nn.Sequential, taps: tuple[int, ...], ours: Tensor, theirs: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The features of both images at each tap; those of earlier taps are freed."""
    first = 0
    for tap in taps:
        for layer in list(features)[first : tap + 1]:
            ours, theirs = layer(ours), layer(theirs)
        yield ours, theirs
        first = tap + 1


def in_pieces(
    measure: Callable[[Tensor, Tensor], Tensor], images_255: Tensor, reference_255: Tensor, border: int
) -> Tensor:
    """The measure of images on [0,1], as its mean over pieces of a large image, weighted by area."""
    images, reference = crop_both(images_255, reference_255, border)
    height, width = images.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise ImageTooSmall(
            f"LPIPS and DISTS need {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, the image has {width}x{height} after "
            "cropping the border: leave such images out of the set"
        )
    rows, columns = 1, 1
    while -(-height // rows) * -(-width // columns) > MOST_PIXELS:
        rows, columns = (rows + 1, columns) if height / rows > width / columns else (rows, columns + 1)
    total = torch.zeros(len(images), dtype=torch.float64)
    with torch.inference_mode():
        for ours_rows, theirs_rows in zip(images.tensor_split(rows, -2), reference.tensor_split(rows, -2), strict=True):
            pairs = zip(ours_rows.tensor_split(columns, -1), theirs_rows.tensor_split(columns, -1), strict=True)
            for ours, theirs in pairs:
                area = ours.shape[-2] * ours.shape[-1]
                total += area * measure((ours / PEAK).float(), (theirs / PEAK).float())
    return total / (height * width)


@lru_cache(maxsize=1)
def _lpips_weights() -> tuple[nn.Sequential, tuple[Tensor, ...]]:
    channels = (64, 128, 256, 384, 384, 512, 512)
    shapes = {f"lin{level}.model.1.weight": (1, count, 1, 1) for level, count in enumerate(channels)}
    return SQUEEZENET.load(), tuple(_torchmetrics_file("lpips_models/squeeze.pth", shapes, "LPIPS").values())


@lru_cache(maxsize=1)
def _dists_weights() -> tuple[nn.Sequential, Tensor, Tensor]:
    shape = (1, 3 + 64 + 128 + 256 + 512 + 512, 1, 1)
    weights = _torchmetrics_file("dists_models/weights.pt", {"alpha": shape, "beta": shape}, "DISTS")
    return VGG16.load(), weights["alpha"], weights["beta"]


def _torchmetrics_file(name: str, shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Tensor]:
    """The weights of a metric in the installed torchmetrics, of which only this file is read."""
    package = importlib.util.find_spec("torchmetrics")
    assert package is not None and package.origin is not None  # the metric requires it
    path = Path(package.origin).parent / "functional" / "image" / name
    if not path.is_file():
        raise SrkdError(f"{path} is missing: pip install --no-deps torchmetrics==1.9.0, which has it")
    return read_published(path, shapes, what=f"the weights of {what}", give="that of torchmetrics 1.9.0")
