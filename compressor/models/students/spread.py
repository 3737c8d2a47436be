"""Change of basis of each linear stream for 8 bit: the same function, with the least error in the image from rounding.

If only sums are between layers (`SpaceKind` linear), any basis A can be folded into them exactly:

    producer   W ← A·W, b ← A·b      consumer   W ← W·A⁻¹

The scale of a value is set by its largest channel, and rounding adds noise of the same strength to every channel. Over
the rounded values x_k, with the image's Jacobian J_k, A minimises

    Σ_k tr(A⁻ᵀ·M_k·A⁻¹) · ‖A·x_k‖₈²      M_k = J_kᵀ·(l·lᵀ + I/100)·J_k, ‖·‖₈ the mean of eighth powers

The second factor approximates the square of the scale: higher powers fit the peak of these pixels better and that of
others worse (twelfth powers gained 3 dB on the patches and nothing on other photos). The first factor is the visible
noise: mostly in the luma l, a little in each channel. The initial A is orthogonal with entries of equal magnitude, so
that it mixes all channels and none is much larger than another, as QuaRot (Ashkboos et al., 2024) does for language
models; gradient descent then improves A.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from compressor.models.fitting.layers import change_basis, linear_layer, segments_of, units_of
from compressor.models.fitting.watching import watched
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import LinearPlan
from compressor.models.networks.registry import linear_plan

CANDIDATES = 16
"""Number of initial bases with different signs, of which the best is used."""

STEPS = 200
LEARNING_RATE = 0.05
"""Learning rate of the entries of A, in units of 1/√n."""

PRODUCTS_A_STEP = 2e9
"""Multiplications per step of the descent: they limit the number of pixels."""
MAX_PIXELS = 2048
MAX_VALUES = 48

MIRRORED = ((-1,), (-2,), (-1, -2))

LUMA = (0.299, 0.587, 0.114)
CHANNEL_NOISE = 0.1
"""Weight of white noise in each channel beside that in the luma: Y-PSNR ignores it, but colours must not suffer."""


@dataclass(frozen=True)
class Value:
    """A rounded value: some of its pixels as (n, pixels), including the largest, and its M, (n, n)."""

    pixels: torch.Tensor
    sensitivity: torch.Tensor


def spread_streams(network: Network, patches: torch.Tensor) -> Network:
    """Return a copy with the same function and the best basis of each linear stream; the network itself if it has none.

    `patches` are low-resolution images, (N, C, H, W) in [0,1], on which values and sensitivities are measured.
    """
    plan = linear_plan(network.spec)
    if plan is None or "linear" not in plan.spaces.values():
        return network
    spread = copy.deepcopy(network).eval()
    linear = [space for space, kind in plan.spaces.items() if kind == "linear"]
    spaces = [space for space in linear if plan.producers[space] and plan.consumers[space]]
    bases = {space: best_basis(values) for space, values in _measure(network, plan, spaces, patches).items()}
    inverses = {space: torch.linalg.inv(basis) for space, basis in bases.items()}
    for layer in plan.layers:
        if layer.output in bases or bases.keys() & set(layer.inputs):
            module = linear_layer(spread, layer)
            rows = bases.get(layer.output, torch.eye(len(module.weight), dtype=torch.float64)).T
            sizes = zip(layer.inputs, segments_of(network, plan, layer), strict=True)
            same = {space: torch.eye(size, dtype=torch.float64) for space, size in sizes}
            change_basis(module, rows, [inverses.get(space, same[space]) for space in layer.inputs])
    return spread


def _measure(
    network: Network, plan: LinearPlan, spaces: Sequence[str], patches: torch.Tensor
) -> Mapping[str, Sequence[Value]]:
    """Return the values of each space: its layers' outputs and inputs.

    M = E[g·gᵀ], with g the gradient of the image times noise. Each patch is also run mirrored, which gives other
    features.
    """
    probed = copy.deepcopy(network).eval().requires_grad_(False)
    taps = {tap: (space, units_of(network, plan, space)) for space in spaces for tap in _taps(plan, space)}
    generator = torch.Generator().manual_seed(0)
    pixels: dict[Tap, list[torch.Tensor]] = {tap: [] for tap in taps}
    sensitivity = {tap: torch.zeros(n, n) for tap, (_, n) in taps.items()}
    passes: list[tuple[tuple[int, ...], torch.Tensor]] = [((), patch) for patch in patches]
    passes += [(MIRRORED[index % len(MIRRORED)], patch) for index, patch in enumerate(patches)]
    for axes, patch in passes:
        features: dict[Tap, torch.Tensor] = {}

        def keep(tap: Tap, feature: torch.Tensor, features: dict[Tap, torch.Tensor] = features) -> None:
            feature.retain_grad()
            features[tap] = feature

        with torch.enable_grad(), watched(probed, taps, keep):
            image = probed(patch[None].flip(axes).requires_grad_())
            image.backward(_noise(image.shape, generator))
        for tap, feature in features.items():
            n = taps[tap][1]
            assert feature.grad is not None
            gradient = feature.grad[0].reshape(n, -1)
            sensitivity[tap] += gradient @ gradient.T
            pixels[tap].append(_some(feature.detach()[0].reshape(n, -1), len(passes), generator))
    values: dict[str, list[Value]] = {space: [] for space in spaces}
    for tap, (space, _) in taps.items():
        if pixels[tap]:
            some = torch.cat(pixels[tap], 1)
            largest = some.abs().max().clamp_min(1e-12)  # its eighth power may exceed float32
            values[space].append(Value(some / largest, sensitivity[tap] * largest**2))
    return {space: _bounded(some, generator) for space, some in values.items() if some}


def _noise(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Return noise with the covariance l·lᵀ + I/100 of a pixel's channels; white noise for an image without colours."""
    white = torch.randn(shape, generator=generator)
    if shape[1] != len(LUMA):
        return white
    luma = torch.randn(shape[0], 1, *shape[2:], generator=generator) * torch.tensor(LUMA).view(1, -1, 1, 1)
    return luma + CHANNEL_NOISE * white


def _taps(plan: LinearPlan, space: str) -> list[Tap]:
    """Return taps of a space's values, evenly spaced if there are many."""
    # A layer that reads several spaces has them concatenated in its input, with other channels.
    readers = [Tap(layer.name, "input") for layer, _ in plan.consumers[space] if len(layer.inputs) == 1]
    taps = list(dict.fromkeys([*(Tap(layer.name, "output") for layer in plan.producers[space]), *readers]))
    return taps[:: math.ceil(len(taps) / MAX_VALUES)]


def _some(pixels: torch.Tensor, passes: int, generator: torch.Generator) -> torch.Tensor:
    """Return some pixels of one pass, its share of MAX_PIXELS: a quarter the largest, the others random."""
    count = max(4, MAX_PIXELS // passes)
    largest = pixels.norm(dim=0).topk(min(count // 4, pixels.shape[1])).indices
    others = torch.randperm(pixels.shape[1], generator=generator)[: count - count // 4]
    return pixels[:, torch.cat([largest, others])]


def _bounded(values: Sequence[Value], generator: torch.Generator) -> Sequence[Value]:
    """Return the values with as many pixels as a step of the descent allows."""
    size = len(values[0].sensitivity)
    count = max(size, int(PRODUCTS_A_STEP / (size**2 * len(values))))
    return [
        Value(value.pixels[:, torch.randperm(value.pixels.shape[1], generator=generator)[:count]], value.sensitivity)
        for value in values
    ]


def best_basis(values: Sequence[Value]) -> torch.Tensor:
    """Return the basis A in float64, scaled to a determinant of one."""
    size = len(values[0].sensitivity)
    even, generator = mixing_matrix(size).float(), torch.Generator().manual_seed(0)
    starts = [even.T * (torch.randint(0, 2, (1, size), generator=generator) * 2 - 1) for _ in range(CANDIDATES)]
    with torch.no_grad():
        basis = min(starts, key=lambda start: float(rounding_noise(start, values))).contiguous()
    best, least = basis.clone(), float("inf")
    with torch.enable_grad():
        basis.requires_grad_()
        optimiser = torch.optim.Adam([basis], lr=LEARNING_RATE / math.sqrt(size))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            noise = rounding_noise(basis, values).log()
            if not bool(noise.isfinite()):
                break
            if noise.item() < least:
                best, least = basis.detach().clone(), noise.item()
            (basis.grad,) = torch.autograd.grad(noise, basis)
            optimiser.step()
            schedule.step()
    exact = best.double()
    scaled: torch.Tensor = exact / torch.linalg.det(exact).abs() ** (1 / size)
    return scaled


def rounding_noise(basis: torch.Tensor, values: Sequence[Value]) -> torch.Tensor:
    """Return the noise in the image from rounding all values in this basis, up to a constant factor."""
    inverse = torch.linalg.inv(basis)
    gram = inverse @ inverse.T
    noise = []
    for value in values:
        squares = (basis @ value.pixels).square()
        noise.append((gram.T * value.sensitivity).sum() * squares.square().square().mean() ** (1 / 4))
    return torch.stack(noise).sum()


def mixing_matrix(size: int) -> torch.Tensor:
    """Return an orthogonal matrix with entries of similar magnitude: Hadamard if one is known, else Hartley."""
    if _is_known(size):
        return hadamard(size)
    # The discrete Hartley transform is orthogonal for every size, with entries of at most √(2/size).
    angles = 2 * math.pi / size * torch.outer(torch.arange(size), torch.arange(size)).double()
    return (angles.cos() + angles.sin()) / math.sqrt(size)


def _is_known(size: int) -> bool:
    return size == 1 or _is_paley(size) or (size % 2 == 0 and _is_known(size // 2))


def _is_paley(size: int) -> bool:
    """Return True if size - 1 is a prime of the form 4k + 3."""
    prime = size - 1
    return prime % 4 == 3 and all(prime % divisor for divisor in range(2, math.isqrt(prime) + 1))


def hadamard(size: int) -> torch.Tensor:
    """Return a Hadamard matrix over √size: Sylvester's doubling of Paley's first construction (Paley, 1933)."""
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if not _is_paley(size):
        half = hadamard(size // 2)
        return torch.cat([torch.cat([half, half], 1), torch.cat([half, -half], 1)]) / math.sqrt(2)
    prime = size - 1
    squares = {number * number % prime for number in range(1, prime)}
    difference = (torch.arange(prime)[:, None] - torch.arange(prime)) % prime
    signs = torch.tensor([0.0, *(1.0 if number in squares else -1.0 for number in range(1, prime))])
    skew = torch.zeros(size, size, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, signs[difference]
    return (torch.eye(size, dtype=torch.float64) + skew) / math.sqrt(size)
