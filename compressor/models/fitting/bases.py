"""Bases of a student's units: for each space a matrix in the teacher's units, with one column per unit of the student.

In a linear space (`networks/linear_plan.py`) the columns are the directions from which a regression explains most of
the next layers' outputs, Σ‖W·f‖² (`used_directions`). In a space that gates multiply they are its principal directions:
eigenvectors of Σ f·fᵀ. Second moments are not centred: zero padding forbids moving a mean into biases. In a space with
an activation, units are selected one by one: the next unit is the one that, together with those before it, lets a
regression explain most of the next layers' outputs for the whole space, in the directions that these layers keep
themselves (orthogonal least squares: Chen, Billings and Luo, 1989). Hidden units of a block that replaces several are
selected among all of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from compressor.base.processes import SharedFailure
from compressor.models.fitting.layers import (
    channels_first,
    dense_segment,
    groups_of,
    in_rows,
    linear_layer,
    segments_of,
    units_of,
)
from compressor.models.fitting.least_squares import ridge_solution
from compressor.models.fitting.shares import Share
from compressor.models.fitting.watching import watched
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import Correspondence, LinearPlan

UNUSED = 1e-3
"""The use of directions that no layer reads, as a share of the mean use."""

FLAT = 1e-6
"""Ridge of the decoder's regression, as a share of the mean variance: flatter directions predict nothing."""


@dataclass(frozen=True)
class Basis:
    """A space's basis: one column per unit of the student, in the units of the teacher's concatenated `sources`."""

    sources: tuple[str, ...]
    matrix: torch.Tensor
    whole: torch.Tensor
    """The matrix with one column per unit of the teacher, the kept ones first (in each group)."""
    decoder: torch.Tensor
    """The decoder D, with f ≈ D·Bᵀ·f: what the next layer reads in place of the teacher's units."""

    def rows_of(self, space: str) -> torch.Tensor:
        """Return the rows of one of the teacher's spaces; all of these have the same number of units."""
        return self.matrix.chunk(len(self.sources))[self.sources.index(space)]

    def decoder_rows(self, space: str) -> torch.Tensor:
        """Return the decoder's rows for one of the teacher's spaces: they map the student's units to that space."""
        return self.decoder.chunk(len(self.sources))[self.sources.index(space)]

    def project(self, feature: torch.Tensor, parts: int = 1) -> torch.Tensor:
        """Return a teacher's feature (N, C, H, W) in the student's units; C is units times offsets, or parts."""
        if parts > 1:
            return torch.cat([self.project(chunk) for chunk in feature.chunk(parts, 1)], 1)
        units, offsets = len(self.matrix), feature.shape[1] // len(self.matrix)
        split = feature.reshape(len(feature), units, offsets, *feature.shape[2:])
        mixed = torch.einsum("nuohw,uv->nvohw", split, self.matrix.to(feature.dtype))
        return mixed.reshape(len(feature), -1, *feature.shape[2:])

    def gates(self, values: torch.Tensor) -> torch.Tensor:
        """Return the student's gates diag(BᵀGB), for `values` (N, C, 1, 1) that multiply the teacher's units."""
        return torch.einsum("nuhw,uv->nvhw", values, self.matrix.to(values.dtype).square())


def choose_bases(
    teacher: Network,
    plan: LinearPlan,
    student: Network,
    short: LinearPlan,
    places: Correspondence,
    patches: Share,
    *,
    strongest: bool = False,
) -> dict[str, Basis]:
    """Return the basis of each of the student's spaces, measured on low-resolution patches.

    With `strongest` linear spaces keep their principal directions, too, whatever the next layers use.
    """
    moments = _moments(teacher, plan, patches)
    bases: dict[str, Basis] = {}
    for space, kind in short.spaces.items():
        if kind != "units":
            source = places.last_of(space)
            size = units_of(student, short, space)
            identity = torch.eye(units_of(teacher, plan, source), dtype=torch.float64, device=teacher.device)
            # Another basis of a mixed space is an approximation: avoid it where nothing is cut.
            is_kept = kind == "fixed" or (kind == "mixed" and size == len(identity))
            second = moments[source].second
            if is_kept:
                directions = identity
            elif kind == "linear" and not strongest:
                directions = used_directions(second, _use(teacher, plan, source, {}))
            else:
                directions = leading_directions(second)
            columns = directions[:, :size]
            bases[space] = Basis((source,), columns, directions, columns if is_kept else _decoder(second, columns))
    # From the last space back: a unit's value depends on what the next layers keep of it.
    for space in reversed([space for space, kind in short.spaces.items() if kind == "units"]):
        sources = tuple(places.all_of(space)) if short.is_hidden(space) else (places.last_of(space),)
        uses = [_use(teacher, plan, source, bases) for source in sources]
        use: torch.Tensor = torch.block_diag(*uses)  # type: ignore[no-untyped-call]
        covariances = [moments[source].covariance for source in sources]
        covariance: torch.Tensor = torch.block_diag(*covariances)  # type: ignore[no-untyped-call]
        layers = [*short.producers[space], *(layer for layer, _ in short.consumers[space])]
        groups = max(groups_of(linear_layer(student, layer)) for layer in layers)  # in which units must stay
        order = units_in_order(covariance, use, groups)
        if space in short.blocks:  # whole blocks, by their share of the next layers' outputs
            size = short.blocks[space]
            worth = (use * covariance).sum(1).reshape(-1, size).sum(1)
            blocks = worth.argsort(descending=True, stable=True)
            order = (blocks[:, None] * size + torch.arange(size, device=blocks.device)).reshape(1, -1)
        columns = order[:, : units_of(student, short, space) // groups]
        identity = torch.eye(len(use), dtype=torch.float64, device=teacher.device)
        matrix = identity[:, columns.flatten()]
        bases[space] = Basis(sources, matrix, identity[:, order.flatten()], matrix)
    for basis in bases.values():
        patches.follow(basis.matrix, basis.whole, basis.decoder)
    return bases


class _Moments:
    """The sums Σ f·fᵀ and Σ f over `count` pixels of a space, as its consumers read it."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.second = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.first = torch.zeros(size, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, pixels: torch.Tensor) -> None:
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
        segments = torch.split(feature, segments_of(teacher, plan, layer), 1)
        for space, segment in zip(layer.inputs, segments, strict=True):
            moments[space].add(segment.transpose(0, 1).flatten(1))

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


def used_directions(second: torch.Tensor, use: torch.Tensor) -> torch.Tensor:
    """Return orthonormal directions p, such that a regression on the leading ones explains most of Σ‖W·f‖²: M·U·M·p =
    λ·M·p.

    M is `second`, U is `use`: Σ WᵀW over the next layers. Directions that none of them reads come last, the strongest
    first.
    """
    mean = use.diagonal().mean().clamp_min(1e-30)
    values, vectors = torch.linalg.eigh(use + UNUSED * mean * torch.eye(len(use), dtype=use.dtype, device=use.device))
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    rotated, signs = torch.linalg.qr(root @ leading_directions(root @ second @ root))
    directions: torch.Tensor = rotated * signs.diagonal().sign()
    return directions


def _decoder(second: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return D = B + (I - B·Bᵀ)·M·B·(Bᵀ·M·B)⁻¹, a regression of f on Bᵀ·f; for principal directions it is B itself."""
    inner = basis.T @ second @ basis
    return basis + ridge_solution(inner, second @ basis - basis @ inner, FLAT)


def leading_directions(moments: torch.Tensor) -> torch.Tensor:
    """Return eigenvectors as columns, the largest eigenvalue first; the largest component of each is positive."""
    vectors = torch.linalg.eigh(moments)[1].flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    signed: torch.Tensor = vectors * largest.sign()
    return signed


def _use(teacher: Network, plan: LinearPlan, space: str, bases: Mapping[str, Basis]) -> torch.Tensor:
    """Return Σ WᵀW over the layers that read the space, with W in the directions that the student keeps."""
    size = units_of(teacher, plan, space)
    use = torch.zeros(size, size, dtype=torch.float64, device=teacher.device)
    for layer, segment in plan.consumers[space]:
        weight = dense_segment(teacher, plan, layer, segment)
        row_bases = [basis.rows_of(layer.output) for basis in bases.values() if layer.output in basis.sources]
        for chunk in weight.chunk(layer.parts):
            for rows in [in_rows(chunk, basis) for basis in row_bases] or [chunk]:
                use += torch.einsum("ochw,odhw->cd", rows, rows)
    return use


def units_in_order(covariance: torch.Tensor, use: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Return positions (groups, units per group): each unit is the one that, with those before it, explains most.

    The target is Σ‖W·f‖² of the next layers, by regression on the selected units; `use` is Σ WᵀW. Groups take turns.
    """
    rest, each = covariance.clone(), len(covariance) // groups
    floor = 1e-9 * covariance.diagonal().max().clamp_min(1e-30)
    is_selected = torch.zeros(len(rest), dtype=torch.bool, device=rest.device)
    order: list[list[int]] = [[] for _ in range(groups)]
    for turn in range(each * groups):
        group = turn % groups
        variance = rest.diagonal()
        gain = ((use @ rest) * rest).sum(0) / variance.clamp_min(floor)
        # Units that the others explain, or that never vary, come last.
        gain = torch.where(variance > floor, gain, torch.zeros_like(gain)).masked_fill(is_selected, -1.0)
        best = group * each + int(gain[group * each : (group + 1) * each].argmax())
        order[group].append(best)
        is_selected[best] = True
        if variance[best] > floor:
            rest = rest - torch.outer(rest[:, best], rest[best]) / variance[best]
    return torch.tensor(order, device=covariance.device)
