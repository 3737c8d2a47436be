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
from torch import nn

from compressor.base.errors import SrkdError
from compressor.models.fitting.watching import watched
from compressor.models.networks.base import Network, Tap
from compressor.models.networks.linear_plan import Correspondence, LinearLayer, LinearPlan

BATCH = 8
"""Patches that are run at the same time."""


@dataclass(frozen=True)
class Basis:
    """A column for each of the student's units, in the units of these of the teacher's spaces, one after the other."""

    sources: tuple[str, ...]
    matrix: torch.Tensor
    whole: torch.Tensor
    """The same with a column for each unit of the teacher, the kept ones first (in each group)."""

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
    teacher: Network, plan: LinearPlan, student: Network, short: LinearPlan, places: Correspondence, lr: torch.Tensor
) -> dict[str, Basis]:
    """Return the basis of each of the student's spaces, measured on low-resolution patches (N, C, H, W)."""
    moments = _moments(teacher, plan, lr)
    bases: dict[str, Basis] = {}
    for space, kind in short.spaces.items():
        if kind != "units":
            source = places.last_of(space)
            size = units_of(student, short, space)
            identity = torch.eye(units_of(teacher, plan, source), dtype=torch.float64, device=teacher.device)
            # Another basis of a mixed space is an approximation: not where nothing is cut.
            is_kept = kind == "fixed" or (kind == "mixed" and size == len(identity))
            directions = identity if is_kept else leading_directions(moments[source].second)
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
    return bases


@dataclass
class _Moments:
    """Σ f·fᵀ and Σ f over `count` pixels of what the consumers of a space see."""

    second: torch.Tensor
    first: torch.Tensor
    count: int = 0

    @property
    def covariance(self) -> torch.Tensor:
        mean = self.first / self.count
        return self.second / self.count - torch.outer(mean, mean)


def _moments(teacher: Network, plan: LinearPlan, lr: torch.Tensor) -> dict[str, _Moments]:
    taps = {Tap(layer.name, "input"): layer for layer in plan.layers}
    sizes = {space: units_of(teacher, plan, space) for space in plan.spaces}
    zeros = {space: torch.zeros(size, dtype=torch.float64, device=teacher.device) for space, size in sizes.items()}
    moments = {space: _Moments(torch.diag(zero), zero) for space, zero in zeros.items()}
    with torch.no_grad():
        for batch in torch.split(lr, BATCH):
            # More calls than there are: the pass runs to its end.
            with watched(teacher, taps, dict.fromkeys(taps, 2**31)) as seen:
                teacher(batch.to(teacher.device))
            for tap, layer in taps.items():
                for feature in seen[tap]:
                    feature = channels_first(feature, linear_layer(teacher, layer))
                    for space, part in zip(layer.inputs, feature.chunk(len(layer.inputs), 1), strict=True):
                        pixels = part.transpose(0, 1).flatten(1)
                        moments[space].second += (pixels @ pixels.T).double()
                        moments[space].first += pixels.sum(1).double()
                        moments[space].count += pixels.shape[1]
    for space in plan.spaces:
        if moments[space].count and not torch.isfinite(moments[space].second).all():
            names = ", ".join(layer.name for layer, _ in plan.consumers[space][:1])
            raise SrkdError(f"the input of {names} is not finite on these images: are there NaNs among the weights?")
    return moments


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
        weight = dense_weight(teacher, layer).chunk(len(layer.inputs), 1)[segment]
        kept = [basis for basis in bases.values() if layer.output in basis.sources]
        for part in weight.chunk(layer.parts):
            for rows in [_projected_rows(part, layer.output, basis, teacher, plan) for basis in kept] or [part]:
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


def _projected_rows(weight: torch.Tensor, space: str, basis: Basis, teacher: Network, plan: LinearPlan) -> torch.Tensor:
    """Return Bᵀ·W for the rows of one space of the basis."""
    start = sum(units_of(teacher, plan, source) for source in basis.sources[: basis.sources.index(space)])
    rows = basis.matrix[start : start + units_of(teacher, plan, space)]
    split = weight.reshape(len(rows), -1, *weight.shape[1:])
    return torch.einsum("uochw,uv->vochw", split, rows).flatten(0, 1)


def linear_layer(network: Network, layer: LinearLayer) -> nn.Conv2d | nn.Linear | nn.LayerNorm:
    module = network.get_submodule(layer.name)
    assert isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm))
    return module


def inputs_of(module: nn.Conv2d | nn.Linear | nn.LayerNorm) -> int:
    """Return the number of channels that a layer reads."""
    if isinstance(module, nn.Conv2d):
        return module.in_channels
    return module.in_features if isinstance(module, nn.Linear) else module.normalized_shape[0]


def outputs_of(module: nn.Conv2d | nn.Linear | nn.LayerNorm) -> int:
    """Return the number of channels that a layer writes."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    return module.out_features if isinstance(module, nn.Linear) else module.normalized_shape[0]


def groups_of(module: nn.Module) -> int:
    return module.groups if isinstance(module, nn.Conv2d) else 1


def channels_first(feature: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Return a feature as (N, C, ., .); linear layers, and norms of tokens, have the channels last."""
    is_last = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm
    return feature.movedim(-1, 1) if is_last else feature


def in_bases(weight: torch.Tensor, rows: torch.Tensor, columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return rowsᵀ·W·columns for a weight (rows times offsets, columns, h, w), a matrix for each segment of columns."""
    split = weight.double().reshape(len(rows), -1, *weight.shape[1:])
    parts = [
        torch.einsum("uochw,uv,cd->vodhw", part, rows, matrix).flatten(0, 1)
        for part, matrix in zip(torch.split(split, [len(matrix) for matrix in columns], 2), columns, strict=True)
    ]
    return torch.cat(parts, 1)


def dense_weight(network: Network, layer: LinearLayer) -> torch.Tensor:
    """Return the weight in float64 as (rows, columns, h, w), with zeros between the groups of a grouped convolution."""
    module = linear_layer(network, layer)
    weight = module.weight.detach().double()
    if isinstance(module, nn.LayerNorm):
        return torch.diag(weight)[:, :, None, None]
    if isinstance(module, nn.Linear):
        return weight[:, :, None, None]
    if module.groups == 1:
        return weight
    blocks = weight.chunk(module.groups)
    dense = torch.zeros(len(weight), module.in_channels, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    rows, columns = len(blocks[0]), weight.shape[1]
    for index, block in enumerate(blocks):
        dense[index * rows : (index + 1) * rows, index * columns : (index + 1) * columns] = block
    return dense


def units_of(network: Network, plan: LinearPlan, space: str) -> int:
    """Return the number of units of a space."""
    for layer, _ in plan.consumers[space]:
        return inputs_of(linear_layer(network, layer)) // len(layer.inputs)
    return outputs_of(linear_layer(network, plan.producers[space][0]))


def _groups_of(network: Network, plan: LinearPlan, space: str) -> int:
    """Return the groups that units must stay in: those of grouped layers that write or read them."""
    layers = [*plan.producers[space], *(layer for layer, _ in plan.consumers[space])]
    return max(groups_of(linear_layer(network, layer)) for layer in layers)
