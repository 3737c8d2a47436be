"""Linear layers as dense matrices, read and written: convolutions (grouped or not), linear layers, norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import nn

from compressor.models.networks.base import Network
from compressor.models.networks.linear_plan import LinearLayer, LinearPlan

Linear: TypeAlias = "nn.Conv2d | nn.Linear | nn.LayerNorm"


def linear_layer(network: Network, layer: LinearLayer) -> Linear:
    module = network.get_submodule(layer.name)
    assert isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm))
    return module


def inputs_of(module: Linear) -> int:
    return len(module.weight) if isinstance(module, nn.LayerNorm) else module.weight.shape[1] * groups_of(module)


def groups_of(module: nn.Module) -> int:
    return module.groups if isinstance(module, nn.Conv2d) else 1


def asked_rows(module: Linear, count: int) -> torch.Tensor:
    """Return the rows of a layer of which something is asked: the first ones, in each group if these share them."""
    groups = groups_of(module)
    if count % groups:
        return torch.arange(count)
    return torch.arange(len(module.weight)).view(groups, -1)[:, : count // groups].flatten()


def area_of(module: nn.Module) -> int:
    """Return the number of input pixels per output pixel of a layer."""
    return module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1


def units_of(network: Network, plan: LinearPlan, space: str) -> int:
    """Return the number of units of a space: the inputs of a layer that reads it alone, or what is written to it."""
    for layer, _ in plan.consumers[space]:
        if len(layer.inputs) == 1:
            return inputs_of(linear_layer(network, layer))
    return len(linear_layer(network, plan.producers[space][0]).weight)


def segments_of(network: Network, plan: LinearPlan, layer: LinearLayer) -> list[int]:
    """Return the number of units in each of the spaces that a layer reads side by side."""
    return [units_of(network, plan, space) for space in layer.inputs]


def dense_segment(network: Network, plan: LinearPlan, layer: LinearLayer, segment: int) -> torch.Tensor:
    """Return the columns of a layer's dense weight that read one of its spaces."""
    return torch.split(dense_weight(linear_layer(network, layer)), segments_of(network, plan, layer), 1)[segment]


def channels_first(feature: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Return a feature as (N, C, ., .); linear layers, and norms of tokens, have channels last."""
    is_last = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm
    return feature.movedim(-1, 1) if is_last else feature


def dense_weight(module: Linear) -> torch.Tensor:
    """Return the weight in float64 as (rows, columns, h, w), with zeros between the groups of a grouped convolution."""
    weight = module.weight.detach().double()
    if isinstance(module, nn.LayerNorm):
        return torch.diag(weight)[:, :, None, None]
    if isinstance(module, nn.Linear):
        return weight[:, :, None, None]
    dense = weight.new_zeros(module.out_channels, module.in_channels, *weight.shape[2:])
    for rows, columns in _groups(module):
        dense[rows, columns] = weight[rows]
    return dense


def write_dense(module: Linear, dense: torch.Tensor) -> None:
    """Write a dense weight to a layer, the inverse of `dense_weight`; values between groups are dropped."""
    if isinstance(module, nn.LayerNorm):
        module.weight.copy_(dense[:, :, 0, 0].diagonal())
    elif isinstance(module, nn.Linear):
        module.weight.copy_(dense[:, :, 0, 0])
    else:
        for rows, columns in _groups(module):
            module.weight[rows] = dense[rows, columns].to(module.weight.dtype)


def _groups(module: nn.Conv2d) -> list[tuple[slice, slice]]:
    """Return the rows of each group, and its columns in the dense weight."""
    rows, columns = (count // module.groups for count in (module.out_channels, module.in_channels))
    return [(slice(k * rows, (k + 1) * rows), slice(k * columns, (k + 1) * columns)) for k in range(module.groups)]


def in_rows(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rowsᵀ·W for a weight (units times offsets, columns, h, w): each unit has one row per offset."""
    split = weight.double().reshape(len(rows), -1, *weight.shape[1:])
    return torch.einsum("uochw,uv->vochw", split, rows).flatten(0, 1)


def in_bases(weight: torch.Tensor, rows: torch.Tensor, columns: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return rowsᵀ·W·columns, with one matrix per segment of the columns."""
    segments = torch.split(in_rows(weight, rows), [len(matrix) for matrix in columns], 1)
    pairs = zip(segments, columns, strict=True)
    return torch.cat([torch.einsum("rchw,cd->rdhw", segment, matrix) for segment, matrix in pairs], 1)


@torch.no_grad()
def change_basis(module: Linear, rows: torch.Tensor, columns: Sequence[torch.Tensor]) -> None:
    """Replace weight and bias by rowsᵀ·W·columns and rowsᵀ·b, with one matrix per segment of the columns."""
    module.weight.copy_(in_bases(module.weight, rows, columns))
    if module.bias is not None:
        module.bias.copy_((rows.T @ module.bias.double().reshape(len(rows), -1)).flatten())
