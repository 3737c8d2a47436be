"""What a student's units are made of: for each space a matrix with a column for each of them, in the teacher's units.

Where a space is linear (`networks/linear_plan.py`) the columns are its principal directions: eigenvectors of Σ f·fᵀ
over all that its consumers see. Second moments are not centred: zero padding forbids moving a mean into biases. Where
an activation stands on it they are a choice of units, taken one by one: the next is the one that, beside those before
it, lets a regression explain most of what the layers behind make of the whole space, in the directions that they keep
themselves (orthogonal least squares: Chen, Billings and Luo, 1989). Hidden units of a block that stands for several
are chosen among all of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from compressor.base.processes import SharedFailure
from compressor.models.fitting.layers import channels_first, dense_weight, groups_of, in_rows, linear_layer, units_of
from compressor.models.fitting.shares import Share
from compressor.models.fitting.watching import watched
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import Correspondence, LinearPlan


@dataclass(frozen=True)
class Basis:
    """A column for each of the student's units, in the units of these of the teacher's spaces, one after the other."""

    sources: tuple[str, ...]
    matrix: torch.Tensor
    whole: torch.Tensor
    """The same with a column for each unit of the teacher, the kept ones first (in each group)."""

    def rows_of(self, space: str) -> torch.Tensor:
        """Return the rows that belong to one of the teacher's spaces; all of them have as many units."""
        return self.matrix.chunk(len(self.sources))[self.sources.index(space)]

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
    teacher: Network, plan: LinearPlan, student: Network, short: LinearPlan, places: Correspondence, patches: Share
) -> dict[str, Basis]:
    """Return the basis of each of the student's spaces, measured on low-resolution patches."""
    moments = _moments(teacher, plan, patches)
    bases: dict[str, Basis] = {}
    for space, kind in short.spaces.items():
        if kind != "units":
            source = places.last_of(space)
            size = units_of(student, short, space)
            identity = torch.eye(units_of(teacher, plan, source), dtype=torch.float64, device=teacher.device)
            # Another basis of a mixed space is an approximation: not where nothing is cut.
            is_kept = kind == "fixed" or (kind == "mixed" and size == len(identity))
            directions = identity if is_kept else directions_of(moments[source], _use(teacher, plan, source, {}))
            bases[space] = Basis((source,), directions[:, :size], directions)
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
        bases[space] = Basis(sources, identity[:, kept.flatten()], identity[:, order.flatten()])
    for basis in bases.values():
        patches.follow(basis.matrix, basis.whole)
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


def directions_of(moments: _Moments, use: torch.Tensor) -> torch.Tensor:
    """Return the directions of a linear space, of which leading ones are kept; `use` is Σ WᵀW of the layers behind."""
    return leading_directions(moments.second)


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
