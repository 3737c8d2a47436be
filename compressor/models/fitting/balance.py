"""Units of a solved student scaled to a size at which it trains well."""

from __future__ import annotations

import torch

from compressor.models.fitting.layers import groups_of, linear_layer, segments_of
from compressor.models.networks.base import Network
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan

BALANCE_SWEEPS = 4
"""Passes over the layers in which units are scaled; neighbours share a layer, so one does not suffice."""


def balance(student: Network, plan: LinearPlan) -> None:
    """Give each unit's weights the same size in the layers that write it as in those that read it.

    This changes no output, as w·act(u) = (w/c)·act(c·u), but how the student trains: features are in the source's
    range, and beside weights far from 1 a step of Adam is far too large, or too small.
    """
    spaces = [space for space, kind in plan.spaces.items() if kind == "linear" or space in plan.slopes]
    for space in [space for space in spaces if not plan.bends.get(space)] * BALANCE_SWEEPS:
        writers = [linear_layer(student, layer) for layer in plan.producers[space]]
        readers = [_columns(student, plan, layer)[segment] for layer, segment in plan.consumers[space]]
        if len(writers[0].weight) != readers[0].shape[0] * readers[0].shape[2]:  # a shuffle is between them
            continue
        written = torch.stack([writer.weight.square().mean((1, 2, 3)) for writer in writers]).sum(0)
        ratio = torch.stack([read.square().mean((1, 3, 4)).flatten() for read in readers]).sum(0) / written
        factor = torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.ones_like(ratio)).pow(0.25)
        for writer in writers:
            writer.weight.mul_(factor[:, None, None, None])
            assert writer.bias is not None
            writer.bias.mul_(factor)
        for read in readers:
            read.div_(factor.reshape(len(read), 1, -1, 1, 1))


def _columns(student: Network, plan: LinearPlan, layer: LinearLayer) -> tuple[torch.Tensor, ...]:
    """Return views of a layer's weights as (groups, rows, columns, h, w), one for each space that it reads."""
    module, sizes = linear_layer(student, layer), segments_of(student, plan, layer)
    groups = groups_of(module)
    by_group = module.weight.view(groups, -1, *module.weight.shape[1:])
    return torch.split(by_group, [size // groups for size in sizes], 2)
