"""Merging of hidden units: a few combinations of many units, before the activation, in place of the strongest ones.

A unit of a student is to give act(aᵀu), u the units that a source has there. From the K strongest ones on, the
combinations A are moved by steps of Adam towards the least

    ‖R·act(u) - B·[act(Aᵀû); p]‖² / ‖R·act(u)‖²,      RᵀR = Σ VᵀV, V the weights that read the units,

B the regression that belongs to A, solved for in each step, and p the stream that the student carries beside the units.
û is what a regression on 3×3 patches of the source's features there gives for u: no layer of the student knows more.
Only these few features of sampled pixels are used, and no network is run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compressor.models.fitting.least_squares import ridge_solution

SAMPLE = 8192
"""Number of pixels of all patches together."""

MOST_UNITS = 2048
"""Units of a source that are sampled at most: of a larger one the strongest units are taken."""

STEPS, PIXELS, RATE, DECAY = 60, 1024, 4e-3, 0.96
"""Steps of Adam, the pixels of each, the first rate, as a share of a unit's weight, and its fall per step."""

RIDGE = 1e-4
"""Ridge of the regressions, as a share of the mean squared input."""


def places_of(height: int, width: int, count: int, seed: int) -> torch.Tensor:
    """Return `count` pixels of a patch, in an order that the seed draws."""
    return torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))[:count]


def predicted(units: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Return û: units (n, pixels) as a regression on patches (m, pixels) gives them."""
    inputs = torch.cat([patches.double(), torch.ones_like(patches[:1], dtype=torch.float64)])
    return _regression(inputs, units.double()) @ inputs


def merge(
    units: torch.Tensor,
    known: torch.Tensor,
    stream: torch.Tensor,
    use: torch.Tensor,
    slopes: torch.Tensor,
    start: Sequence[int],
) -> torch.Tensor:
    """Return combinations (n, K) that begin with the units `start` and are as large as these.

    `units` are u, (n, pixels); `known` û; `stream` p; `use` Σ VᵀV, (n, n); `slopes` those of the units below zero.
    """
    values, vectors = torch.linalg.eigh(use)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    target = _centred(root @ _act(units.double(), slopes[:, None].double()))
    chosen = torch.tensor(start, device=units.device)
    known, stream, slope = known.double(), _centred(stream.double()), slopes[chosen, None].double()
    size = known.square().mean(1).sqrt().clamp_min(1e-12)
    each = known / size[:, None]
    first = torch.zeros(len(start), len(units), dtype=torch.float64, device=units.device)
    first[torch.arange(len(start), device=units.device), chosen] = 1
    draw = torch.Generator().manual_seed(0)
    weights, strength = torch.nn.Parameter(first.float()), float(target.square().sum(0).mean().clamp_min(1e-30))
    each, target, stream, slope = each.float(), target.float(), stream.float(), slope.float()
    optimiser = torch.optim.Adam([weights], lr=RATE)
    for _ in range(STEPS):
        places = torch.randint(each.shape[1], (min(PIXELS, each.shape[1]),), generator=draw).to(units.device)
        here, wanted = each[:, places], target[:, places]
        before = weights.detach() @ here
        inputs = torch.cat([_centred(_act(before, slope)), stream[:, places]])
        regression = _regression(inputs.double(), wanted.double()).float()
        error = wanted - regression @ inputs
        # B is the best for A, so that the error's gradient needs none of B.
        wrong = _centred(regression[:, : len(start)].T @ error)
        weights.grad = torch.where(before > 0, wrong, wrong * slope) @ here.T * (-2 / len(places) / strength)
        optimiser.step()
        optimiser.param_groups[0]["lr"] *= DECAY
    mixed = weights.detach().double() / size
    scale = size[chosen].mean() / (mixed @ known).square().mean(1).sqrt().clamp_min(1e-12)
    return (mixed * scale[:, None]).T.contiguous()


def _act(values: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    return torch.where(values > 0, values, values * slopes)


def _centred(values: torch.Tensor) -> torch.Tensor:
    return values - values.mean(1, keepdim=True)


def _regression(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return the weights (outputs, inputs) of a ridge regression."""
    return ridge_solution(inputs @ inputs.T, outputs @ inputs.T, RIDGE)
