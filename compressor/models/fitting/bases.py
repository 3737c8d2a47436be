"""What a student's units are made of: for each space a matrix with a column for each of them, in the teacher's units.

Where a space is linear (`networks/linear_plan.py`) the columns are the directions from which a regression explains most
of what the layers behind make of it, Σ‖W·f‖² (`used_directions`); where gates stand on it, its principal directions:
eigenvectors of Σ f·fᵀ. Second moments are not centred: zero padding forbids moving a mean into biases. Where an
activation stands on it they are a choice of units, taken one by one: the next is the one that, beside those before it,
lets a regression explain most of what the layers behind make of the whole space, in the directions that they keep
themselves (orthogonal least squares: Chen, Billings and Luo, 1989). Hidden units of a block that stands for several are
chosen among all of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from compressor.base.processes import SharedFailure
from compressor.models.fitting.layers import channels_first, dense_weight, groups_of, in_rows, linear_layer, units_of
from compressor.models.fitting.shares import Share
from compressor.models.fitting.watching import watched
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import Correspondence, LinearPlan

Directions: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes directions, as columns, of Σ f·fᵀ and of Σ WᵀW of the layers behind."""

UNUSED = 1e-3
"""What no layer reads counts as if it were read by this share of the mean."""

FLAT = 1e-6
"""Directions that vary by less than this share of the mean say nothing of others."""


@dataclass(frozen=True)
class Basis:
    """A column for each of the student's units, in the units of these of the teacher's spaces, one after the other."""

    sources: tuple[str, ...]
    matrix: torch.Tensor
    whole: torch.Tensor
    """The same with a column for each unit of the teacher, the kept ones first (in each group)."""
    decoder: torch.Tensor
    """D, with f ≈ D·Bᵀ·f: what a layer behind takes for the teacher's units."""

    def rows_of(self, space: str) -> torch.Tensor:
        """Return the rows that belong to one of the teacher's spaces; all of them have as many units."""
        return self.matrix.chunk(len(self.sources))[self.sources.index(space)]

    def columns_of(self, space: str) -> torch.Tensor:
        """Return what a layer that reads one of the teacher's spaces takes for its units."""
        return self.decoder.chunk(len(self.sources))[self.sources.index(space)]

    def project(self, feature: torch.Tensor, parts: int = 1) -> torch.Tensor:
        """Return a teacher's feature (N, C, H, W) in the student's units; C may be units times offsets, or parts."""
        if parts > 1:
            return torch.cat([self.project(part) for part in feature.chunk(parts, 1)], 1)
        units, offsets = len(self.matrix), feature.shape[1] // len(self.matrix)
        split = feature.reshape(len(feature), units, offsets, *feature.shape[2:])
        mixed = torch.einsum("nuohw,uv->nvohw", split, self.matrix.to(feature.dtype))
        return mixed.reshape(len(feature), -1, *feature.shape[2:])

    def gates(self, values: torch.Tensor) -> torch.Tensor:
        """Return what multiplies the student's units where `values` (N, C, 1, 1) multiply the teacher's: diag(BᵀGB)."""
        return torch.einsum("nuhw,uv->nvhw", values, self.matrix.to(values.dtype).square())


def choose_bases(
    teacher: Network,
    plan: LinearPlan,
    student: Network,
    short: LinearPlan,
    places: Correspondence,
    patches: Share,
    directions_of: Directions | None = None,
) -> dict[str, Basis]:
    """Return the basis of each of the student's spaces, measured on low-resolution patches.

    `directions_of` gives the directions of a linear space, of which the leading ones are kept.
    """
    directions_of = directions_of or used_directions
    moments = _moments(teacher, plan, patches)
    bases: dict[str, Basis] = {}
    for space, kind in short.spaces.items():
        if kind != "units":
            source = places.last_of(space)
            size = units_of(student, short, space)
            identity = torch.eye(units_of(teacher, plan, source), dtype=torch.float64, device=teacher.device)
            # Another basis of a mixed space is an approximation: not where nothing is cut.
            is_kept = kind == "fixed" or (kind == "mixed" and size == len(identity))
            second, directions = moments[source].second, identity
            if not is_kept:
                choose = directions_of if kind == "linear" else principal_directions
                directions = choose(second, _use(teacher, plan, source, {}))
            kept = directions[:, :size]
            bases[space] = Basis((source,), kept, directions, kept if is_kept else _decoder(second, kept))
    # From the end: what a unit is worth depends on what the layers behind keep of it.
    for space in reversed([space for space, kind in short.spaces.items() if kind == "units"]):
        sources = tuple(places.all_of(space)) if short.is_hidden(space) else (places.last_of(space),)
        covariance = _block_diagonal([moments[source].covariance for source in sources])
        use = _block_diagonal([_use(teacher, plan, source, bases) for source in sources])
        groups = _groups_of(student, short, space)
        order = units_in_order(covariance, use, groups)
        if space in short.blocks:
            order = _whole_blocks(covariance, use, short.blocks[space])
        kept = order[:, : units_of(student, short, space) // groups]
        identity = torch.eye(len(use), dtype=torch.float64, device=teacher.device)
        matrix = identity[:, kept.flatten()]
        bases[space] = Basis(sources, matrix, identity[:, order.flatten()], matrix)
    for basis in bases.values():
        patches.follow(basis.matrix, basis.whole, basis.decoder)
    return bases


class _Moments:
    """Σ f·fᵀ and Σ f over `count` pixels of what the consumers of a space see."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.second = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.first = torch.zeros(size, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, pixels: torch.Tensor) -> None:
        """Add pixels (units, n)."""
        self.second += (pixels @ pixels.T).double()
        self.first += pixels.sum(1).double()
        self.count += pixels.shape[1]

    @property
    def covariance(self) -> torch.Tensor:
        mean = self.first / self.count
        return self.second / self.count - torch.outer(mean, mean)


def _moments(teacher: Network, plan: LinearPlan, patches: Share) -> dict[str, _Moments]:
    taps = {Tap(layer.name, "input"): layer for layer in plan.layers}
    moments = {space: _Moments(units_of(teacher, plan, space), teacher.device) for space in plan.spaces}

    def measure(tap: Tap, feature: torch.Tensor) -> None:
        layer = taps[tap]
        feature = channels_first(feature, linear_layer(teacher, layer))
        for space, part in zip(layer.inputs, feature.chunk(len(layer.inputs), 1), strict=True):
            moments[space].add(part.transpose(0, 1).flatten(1))

    with torch.no_grad(), watched(teacher, taps, measure):
        for batch in patches.batches():
            teacher(batch.lr)
    for space, sums in moments.items():
        patches.add(sums.second, sums.first, sums.count)
        if not torch.isfinite(sums.second).all():
            names = ", ".join(layer.name for layer, _ in plan.consumers[space][:1])
            raise SharedFailure(
                f"the input of {names} is not finite on these images: are there NaNs among the weights?"
            )
    return moments


def principal_directions(second: torch.Tensor, use: torch.Tensor) -> torch.Tensor:
    """Return the principal directions: the leading ones keep most of Σ‖f‖²."""
    return leading_directions(second)


def used_directions(second: torch.Tensor, use: torch.Tensor) -> torch.Tensor:
    """Return directions p, orthonormal, from whose leading ones a regression explains most of Σ‖W·f‖²: M·U·M·p = λ·M·p.

    M is `second`, U is `use`: Σ WᵀW over the layers behind. Directions that none of them reads come after the others,
    the strongest first.
    """
    mean = use.diagonal().mean().clamp_min(1e-30)
    values, vectors = torch.linalg.eigh(use + UNUSED * mean * torch.eye(len(use), dtype=use.dtype, device=use.device))
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    turned, signs = torch.linalg.qr(root @ leading_directions(root @ second @ root))
    directions: torch.Tensor = turned * signs.diagonal().sign()
    return directions


def _decoder(second: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return D = B + (I - B·Bᵀ)·M·B·(Bᵀ·M·B)⁻¹: a regression of f on Bᵀ·f; of principal directions B itself."""
    inner = basis.T @ second @ basis
    load = FLAT * inner.diagonal().mean().clamp_min(1e-30)
    loaded = inner + load * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    rest: torch.Tensor = torch.linalg.solve(loaded, (second @ basis - basis @ inner).T).T
    return basis + rest


def leading_directions(moments: torch.Tensor) -> torch.Tensor:
    """Return eigenvectors as columns, the largest eigenvalue first; of each the largest component is positive."""
    vectors = torch.linalg.eigh(moments)[1].flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    signed: torch.Tensor = vectors * largest.sign()
    return signed


def _block_diagonal(blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    total, start = torch.zeros(sum(map(len, blocks)), sum(map(len, blocks))).to(blocks[0]), 0
    for block in blocks:
        total[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return total


def _whole_blocks(covariance: torch.Tensor, use: torch.Tensor, size: int) -> torch.Tensor:
    """Return positions (1, units): blocks by their share in what the layers behind make of the space."""
    worth = (use * covariance).sum(1).reshape(-1, size).sum(1)
    order = worth.argsort(descending=True, stable=True)
    return (order[:, None] * size + torch.arange(size, device=order.device)).reshape(1, -1)


def _use(teacher: Network, plan: LinearPlan, space: str, bases: Mapping[str, Basis]) -> torch.Tensor:
    """Return Σ WᵀW over the layers that read the space, W in the directions that the student keeps."""
    size = units_of(teacher, plan, space)
    use = torch.zeros(size, size, dtype=torch.float64, device=teacher.device)
    for layer, segment in plan.consumers[space]:
        weight = dense_weight(linear_layer(teacher, layer)).chunk(len(layer.inputs), 1)[segment]
        kept = [basis.rows_of(layer.output) for basis in bases.values() if layer.output in basis.sources]
        for part in weight.chunk(layer.parts):
            for rows in [in_rows(part, one) for one in kept] or [part]:
                use += torch.einsum("ochw,odhw->cd", rows, rows)
    return use


def units_in_order(covariance: torch.Tensor, use: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Return positions (groups, units of a group): each unit is the one that, beside those before it, explains most.

    What is explained is Σ‖W·f‖² for the layers behind, by regression from the units taken; `use` is Σ WᵀW. Groups take
    turns.
    """
    left, each = covariance.clone(), len(covariance) // groups
    floor = 1e-9 * covariance.diagonal().max().clamp_min(1e-30)
    taken = torch.zeros(len(left), dtype=torch.bool, device=left.device)
    order: list[list[int]] = [[] for _ in range(groups)]
    for turn in range(each * groups):
        group = turn % groups
        variance = left.diagonal()
        gain = ((use @ left) * left).sum(0) / variance.clamp_min(floor)
        # A unit that the others explain, or that never varies, comes after those that add something.
        gain = torch.where(variance > floor, gain, torch.zeros_like(gain)).masked_fill(taken, -1.0)
        inside = gain[group * each : (group + 1) * each]
        best = group * each + int(inside.argmax())
        order[group].append(best)
        taken[best] = True
        if variance[best] > floor:
            left = left - torch.outer(left[:, best], left[best]) / variance[best]
    return torch.tensor(order, device=covariance.device)


def _groups_of(network: Network, plan: LinearPlan, space: str) -> int:
    """Return the groups that units must stay in: those of grouped layers that write or read them."""
    layers = [*plan.producers[space], *(layer for layer, _ in plan.consumers[space])]
    return max(groups_of(linear_layer(network, layer)) for layer in layers)
