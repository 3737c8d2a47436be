"""Ordering of channels by strength: the same function with its strongest units first, so that leading slices keep them.

Along the residual stream every layer uses the same units, so one order for a whole axis, applied wherever the axis plan
names it, does not change the function. Units of a grouped convolution stay in their group, the channels of an attention
head stay together, and hidden units of one module have a separate order.

The strength of a unit is the sum of the L1 norms of the weights that produce or consume it (filter norms: Li et al.,
2017, "Pruning filters for efficient ConvNets").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from compressor.models.networks.axes import Axis, AxisPlan, Term
from compressor.models.networks.base import Network

Key = tuple[str, str]
"""An axis and, if it is local, its module (else ""): units that share one order."""


def order_by_strength(network: Network, plan: AxisPlan, axes: frozenset[str]) -> Network:
    """Return a copy with the same function, with the units of `axes` in descending order of strength."""
    parameters = dict(network.named_parameters())
    by_key = strengths(plan, parameters, axes)
    orders = {key: _order(plan.axes[key[0]], strength) for key, strength in by_key.items()}
    permuted = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in permuted.named_parameters():
            parameter.copy_(_permuted(parameters[name], name, plan, orders))
    return permuted


def strengths(plan: AxisPlan, parameters: Mapping[str, torch.Tensor], axes: frozenset[str]) -> dict[Key, torch.Tensor]:
    """Return the L1 norm of the weights that use each position of each axis."""
    sums: dict[Key, torch.Tensor] = {}
    for name, parameter in parameters.items():
        if parameter.dim() < 2:
            continue
        magnitude = parameter.detach().abs().double()
        for dim, expression in enumerate(plan.expressions(name)):
            for term in plan.terms(expression):
                if term.axis not in axes:
                    continue
                rows = magnitude.narrow(dim, term.start, term.length)
                touching = _sum_per_position(rows, dim, term, plan.axes[term.axis])
                key = _key(plan, term.axis, name)
                sums[key] = sums[key] + touching if key in sums else touching
    return sums


def _key(plan: AxisPlan, axis: str, parameter: str) -> Key:
    """Return the key of an axis at a parameter: the axis it follows, or itself, with the module if it is local."""
    leader = plan.axes[axis].follows or axis
    return leader, parameter.rsplit(".", 2)[0] if plan.axes[leader].local else ""


def _sum_per_position(magnitude: torch.Tensor, dim: int, term: Term, axis: Axis) -> torch.Tensor:
    """Return the sum of magnitudes at each position of the axis, in the order of the network."""
    if term.operator == "/":
        # Rows are ordered by group; each group's columns have positions of their own.
        rows = magnitude.reshape(axis.groups, magnitude.shape[0] // axis.groups, magnitude.shape[1], -1)
        return rows.sum((1, 3)).flatten()
    along = magnitude.movedim(dim, 0).flatten(1).sum(1)
    return along.reshape(-1, term.number).sum(1) if term.operator == "*" else along


def _order(axis: Axis, strength: torch.Tensor) -> torch.Tensor:
    """Return old positions in their new order: units by descending strength within each group, ties as before."""
    units = strength.reshape(axis.groups, -1, axis.unit)
    ranking = units.sum(2).argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(strength.numel()).reshape(units.shape)
    return torch.stack([group[order] for group, order in zip(positions, ranking.cpu(), strict=True)]).flatten()


def _permuted(tensor: torch.Tensor, name: str, plan: AxisPlan, orders: Mapping[Key, torch.Tensor]) -> torch.Tensor:
    for dim, expression in enumerate(plan.expressions(name)):
        terms = [(term, _key(plan, term.axis, name)) for term in plan.terms(expression)]
        first, key = terms[0]
        if first.operator == "/" and key in orders:
            tensor = _permuted_within_groups(tensor, orders[key], tensor.shape[dim])
            continue
        index = torch.cat([_index(term, key, orders) for term, key in terms])
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _permuted_within_groups(tensor: torch.Tensor, order: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the permuted input side of a grouped convolution: each group of rows has its own order of columns."""
    groups = order.numel() // columns
    blocks = tensor.chunk(groups, 0)
    orders = order.reshape(groups, columns) - torch.arange(groups)[:, None] * columns
    pairs = zip(blocks, orders, strict=True)
    return torch.cat([block.index_select(1, index.to(tensor.device)) for block, index in pairs])


def _index(term: Term, key: Key, orders: Mapping[Key, torch.Tensor]) -> torch.Tensor:
    """Return old positions of one segment in their new order."""
    order = orders.get(key)
    if order is None:
        return torch.arange(term.start, term.start + term.length)
    if term.axis != key[0]:
        unit = order.numel() // term.length
        order = order[::unit] // unit
    if term.operator == "*":
        order = (order[:, None] * term.number + torch.arange(term.number)).flatten()
    return order + term.start
