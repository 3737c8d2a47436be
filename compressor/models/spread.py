"""The same function, its features spread evenly over the channels of each linear stream: eight bits hold more of them.

One scale for all channels of a value is made for the largest of them. Where nothing but sums stands between layers
(`SpaceKind` linear), the basis may be turned exactly:

    producer   W ← Q·W, b ← Q·b      consumer   W ← W·Qᵀ      Q orthogonal, all its entries about ±1/√n

so that each channel is a mixture of all, and none is much larger than another. QuaRot (Ashkboos et al., 2024) turns
language models in this way.
"""

from __future__ import annotations

import copy
import math

import torch

from compressor.models.fitting.layers import in_bases, linear_layer, units_of
from compressor.models.fitting.watching import watched
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import LinearPlan
from compressor.models.networks.registry import architecture

CANDIDATES = 16
"""Turns that differ in signs, of which the one with the lowest peaks is taken."""


def spread_streams(network: Network, patches: torch.Tensor) -> Network:
    """Return a copy that computes the same, each linear stream turned; the network itself where it has none.

    `patches` are low-resolution images, (N, C, H, W) in [0,1], on which peaks are measured.
    """
    linear = architecture(network.spec.arch).linear
    plan = None if linear is None else linear(network.spec)
    if plan is None or not any(True for _ in plan.spaces_of("linear")):
        return network
    turned = copy.deepcopy(network).eval()
    with torch.no_grad():
        turns = {
            space: _best_turn(network, plan, space, patches)
            for space in plan.spaces_of("linear")
            if plan.producers[space] and plan.consumers[space]
        }
        for layer in plan.layers:
            if layer.output not in turns and not turns.keys() & set(layer.inputs):
                continue
            module = linear_layer(turned, layer)
            rows = turns.get(layer.output, _identity(len(module.weight)))
            segment = module.weight.shape[1] // len(layer.inputs)
            columns = [turns.get(space, _identity(segment)) for space in layer.inputs]
            module.weight.copy_(in_bases(module.weight, rows, columns))
            if module.bias is not None:
                module.bias.copy_((rows.T @ module.bias.double().reshape(len(rows), -1)).flatten())
    return turned


def _identity(size: int) -> torch.Tensor:
    return torch.eye(size, dtype=torch.float64)


def _best_turn(network: Network, plan: LinearPlan, space: str, patches: torch.Tensor) -> torch.Tensor:
    """Return the turn, as the columns of a matrix, after which the largest value at the readers is smallest."""
    size = units_of(network, plan, space)
    generator = torch.Generator().manual_seed(0)
    even = mixing_matrix(size)
    candidates = [even * (torch.randint(0, 2, (size, 1), generator=generator) * 2 - 1) for _ in range(CANDIDATES)]
    peaks = torch.zeros(CANDIDATES, dtype=torch.float64)

    def measure(tap: Tap, feature: torch.Tensor) -> None:
        flat = feature.transpose(0, 1).flatten(1)[..., :: max(1, feature[:, 0].numel() // 2**16)]
        for index, turn in enumerate(candidates):
            peaks[index] += (turn.T.float() @ flat).abs().max().double() ** 2

    # A reader of several spaces reads them one after the other: its input has other channels.
    readers = [Tap(layer.name, "input") for layer, _ in plan.consumers[space] if len(layer.inputs) == 1]
    with watched(network, readers, measure):
        network(patches)
    return candidates[int(peaks.argmin())]


def mixing_matrix(size: int) -> torch.Tensor:
    """Return an orthogonal matrix with entries as equal as possible: Hadamard's where one is known, else a cosine's."""
    return hadamard(size) if _is_known(size) else _cosines(size)


def _is_known(size: int) -> bool:
    return size == 1 or _is_paley(size) or (size % 2 == 0 and _is_known(size // 2))


def _is_paley(size: int) -> bool:
    """Return whether size - 1 is a prime of the form 4k + 3."""
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


def _cosines(size: int) -> torch.Tensor:
    """Return the discrete Hartley transform, which is orthogonal for every size, its entries at most √(2/size)."""
    angles = 2 * math.pi / size * torch.outer(torch.arange(size), torch.arange(size)).double()
    return (angles.cos() + angles.sin()) / math.sqrt(size)
