"""Channels in order of strength: the same function with its strongest units first, so that leading slices keep them.

Along the residual stream every layer meets the same units, so one order for a whole axis, applied wherever the axis
plan names it, changes nothing but the names. Units of a grouped convolution stay in their group, the channels of an
attention head stay together, and hidden units that only one module knows have an order of their own there.

The strength of a unit is the sum of the L1 norms of the weights that touch it, as producer or as consumer (filter
norms: Li et al., 2017, "Pruning filters for efficient ConvNets").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from compressor.models.networks.axes import Axis, AxisPlan
from compressor.models.networks.base import Network

Key = tuple[str, str]
"""An axis and, where it is local, the module that it belongs to (else ""): units that share one order."""


def order_by_strength(network: Network, plan: AxisPlan, axes: frozenset[str]) -> Network:
    """Return a copy that computes the same, with the units of `axes` in falling order of strength."""
    parameters = dict(network.named_parameters())
    by_key = strengths(plan, parameters, axes)
    orders = {key: _order(plan.axes[key[0]], strength) for key, strength in by_key.items()}
    permuted = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in permuted.named_parameters():
            parameter.copy_(_permuted(parameters[name], _terms(plan, name), orders))
    return permuted


def strengths(plan: AxisPlan, parameters: Mapping[str, torch.Tensor], axes: frozenset[str]) -> dict[Key, torch.Tensor]:
    """Return the L1 norm of the weights that touch each position of each axis."""
    sums: dict[Key, torch.Tensor] = {}
    for name, parameter in parameters.items():
        if parameter.dim() < 2:
            continue
        magnitude = parameter.detach().abs().double()
        for dim, terms in enumerate(_terms(plan, name)):
            for term in terms:
                if term.axis not in axes:
                    continue
                part = magnitude.narrow(dim, term.start, term.length)
                touching = _sum_per_position(part, dim, term, plan.axes[term.axis])
                sums[term.key] = sums[term.key] + touching if term.key in sums else touching
    return sums


@dataclass(frozen=True)
class Term:
    """One segment of a parameter's axis: `length` positions from `start` that belong to an axis of the plan."""

    axis: str
    key: Key
    operator: str
    number: int
    start: int
    length: int


def _terms(plan: AxisPlan, name: str) -> list[list[Term]]:
    """Return the segments of each declared axis of a parameter."""
    module = name.rsplit(".", 2)[0]
    segments = []
    for expression in plan.expressions(name):
        terms, start = [], 0
        for text in expression.split("|"):
            axis_name, operator, number = (*text.split(), "", "1")[:3]
            axis = plan.axes[axis_name]
            leader = axis.follows or axis_name
            length = axis.size // axis.groups if operator == "/" else axis.size * int(number)
            key = (leader, module if plan.axes[leader].local else "")
            terms.append(Term(axis_name, key, operator, int(number), start, length))
            start += length
        segments.append(terms)
    return segments


def _sum_per_position(part: torch.Tensor, dim: int, term: Term, axis: Axis) -> torch.Tensor:
    """Sum the magnitudes at each position of the axis, in the order of the network."""
    if term.operator == "/":
        # Rows of one group after the other; each group's columns are its own positions.
        rows = part.reshape(axis.groups, part.shape[0] // axis.groups, part.shape[1], -1)
        return rows.sum((1, 3)).flatten()
    along = part.movedim(dim, 0).flatten(1).sum(1)
    return along.reshape(-1, term.number).sum(1) if term.operator == "*" else along


def _order(axis: Axis, strength: torch.Tensor) -> torch.Tensor:
    """Return old positions in their new order: units by falling strength within each group, ties as they were."""
    units = strength.reshape(axis.groups, -1, axis.unit)
    ranking = units.sum(2).argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(strength.numel()).reshape(units.shape)
    return torch.stack([group[order] for group, order in zip(positions, ranking.cpu(), strict=True)]).flatten()


def _permuted(
    tensor: torch.Tensor, terms_of_axes: list[list[Term]], orders: Mapping[Key, torch.Tensor]
) -> torch.Tensor:
    for dim, terms in enumerate(terms_of_axes):
        if terms[0].operator == "/" and terms[0].key in orders:
            tensor = _permuted_within_groups(tensor, orders[terms[0].key], tensor.shape[dim])
            continue
        index = torch.cat([_index(term, orders) for term in terms])
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _permuted_within_groups(tensor: torch.Tensor, order: torch.Tensor, columns: int) -> torch.Tensor:
    """Permute the input side of a grouped convolution: each group of rows has its own order of columns."""
    groups = order.numel() // columns
    blocks = tensor.chunk(groups, 0)
    orders = order.reshape(groups, columns) - torch.arange(groups)[:, None] * columns
    return torch.cat(
        [block.index_select(1, index.to(tensor.device)) for block, index in zip(blocks, orders, strict=True)]
    )


def _index(term: Term, orders: Mapping[Key, torch.Tensor]) -> torch.Tensor:
    """Return old positions of one segment in their new order."""
    order = orders.get(term.key)
    if order is None:
        return torch.arange(term.start, term.start + term.length)
    if term.axis != term.key[0]:
        unit = order.numel() // term.length
        order = order[::unit] // unit
    if term.operator == "*":
        order = (order[:, None] * term.number + torch.arange(term.number)).flatten()
    return order + term.start
