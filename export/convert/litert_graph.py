"""Replacement of pixel shuffle, PReLU and nearest upscaling by LiteRT's own operations.

The converter writes these as chains of reshapes over whole images, which are slow on a phone and fix the image size.
With LiteRT's operations, on channels-last maps, a convolutional network takes any size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

aten = torch.ops.aten

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


@torch.library.custom_op("srkd::depth_to_space", mutates_args=())
def depth_to_space(last: torch.Tensor, block: int) -> torch.Tensor:
    """Rearrange N,H,W,(i,j,C) to N,H·block,W·block,C, as LiteRT orders channels."""
    n, h, w, c = last.shape
    cut = last.reshape(n, h, w, block, block, c // block**2)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(n, h * block, w * block, c // block**2).clone()


@depth_to_space.register_fake
def _depth_to_space_shape(last: torch.Tensor, block: int) -> torch.Tensor:
    n, h, w, c = last.shape
    return last.new_empty(n, h * block, w * block, c // block**2)


@torch.library.custom_op("srkd::prelu", mutates_args=())
def prelu(last: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The PReLU of N,H,W,C with a slope of shape 1,1,C."""
    return torch.where(last > 0, last, last * slope)


@torch.library.custom_op("srkd::take", mutates_args=())
def take(last: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return `last` (N,H,W,C) with its channels in another order."""
    return last.index_select(3, order)


@take.register_fake
@prelu.register_fake
def _same_shape(last: torch.Tensor, operand: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(last)


def trace_network(network: nn.Module, example: torch.Tensor) -> GraphModule:
    """The network's graph for images like `example`; its weights are copies."""
    module = torch.export.export(network, (example,)).module()
    assert isinstance(module, GraphModule)
    # The program shares its parameters with the network; copies keep the network's order.
    for name, parameter in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    return module


def use_litert_operations(module: GraphModule) -> GraphModule:
    """Replace the operations in place; the module computes the same function.

    Each works on channels-last values between two permutes; the converter drops pairs of permutes.
    """
    replacements: dict[Any, Callable[[GraphModule, Node], Node]] = {
        aten.pixel_shuffle.default: _shuffled,
        aten.upsample_nearest2d.vec: _enlarged,
        aten.prelu.default: _activated,
    }
    for node in list(module.graph.nodes):
        if node.target in replacements:
            with module.graph.inserting_before(node):
                last = replacements[node.target](module, node)
                node.replace_all_uses_with(_call(module, aten.permute.default, last, TO_FIRST))
            module.graph.erase_node(node)
    module.recompile()
    return module


def _shuffled(module: GraphModule, node: Node) -> Node:
    """A pixel shuffle. torch stores a channel's pixels side by side, LiteRT a pixel's channels, so the channels of the
    convolution before are reordered."""
    image, block = node.args
    assert isinstance(image, Node) and isinstance(block, int)
    reordered = _reorder_convolution(module, image, block)
    last = _call(module, aten.permute.default, image, TO_LAST)
    if not reordered:
        channels = int(image.meta["val"].shape[1])
        order = torch.arange(channels, dtype=torch.int32).reshape(-1, block**2).t().reshape(-1)
        last = _call(module, torch.ops.srkd.take.default, last, _constant(module, node, order))
    return _call(module, torch.ops.srkd.depth_to_space.default, last, block)


def _reorder_convolution(module: GraphModule, image: Node, block: int) -> bool:
    """Reorder the channels of the convolution that computes `image`, also through a ReLU; return whether that worked.

    It is impossible if another node uses the convolution, or if it is grouped: channels cannot change groups.
    """
    while image.target == aten.relu.default and len(image.users) == 1:
        image = image.all_input_nodes[0]
    arguments = dict(
        zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), image.args, strict=False)
    )
    if image.target != aten.conv2d.default or len(image.users) != 1 or arguments.get("groups", 1) != 1:
        return False
    holders = [arguments[name] for name in ("weight", "bias") if isinstance(arguments.get(name), Node)]
    if any(len(holder.users) != 1 for holder in holders):  # type: ignore[union-attr]
        return False
    for holder in holders:
        parameter = module.get_parameter(str(holder.target))  # type: ignore[union-attr]
        of_pixels = parameter.data.reshape(-1, block**2, *parameter.shape[1:])
        parameter.data = of_pixels.transpose(0, 1).reshape(parameter.shape).contiguous()
    return True


def _enlarged(module: GraphModule, node: Node) -> Node:
    """Nearest upscaling by an integer factor, as a shuffle of factor² copies."""
    image, factors = node.args[0], [float(str(factor)) for factor in node.args[2]]  # type: ignore[union-attr]
    block = int(factors[0])
    assert factors == [block, block], factors
    copies = _call(module, aten.cat.default, [_call(module, aten.permute.default, image, TO_LAST)] * block**2, 3)
    return _call(module, torch.ops.srkd.depth_to_space.default, copies, block)


def _activated(module: GraphModule, node: Node) -> Node:
    image, holder = node.args
    assert isinstance(holder, Node)
    slope = module.get_parameter(str(holder.target)).detach().reshape(1, 1, -1).clone()
    last = _call(module, aten.permute.default, image, TO_LAST)
    return _call(module, torch.ops.srkd.prelu.default, last, _constant(module, node, slope))


def _constant(module: GraphModule, node: Node, value: torch.Tensor) -> Node:
    name = f"litert_{node.name}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def _call(module: GraphModule, operation: Any, *args: Any) -> Node:
    return module.graph.call_function(operation, args)
