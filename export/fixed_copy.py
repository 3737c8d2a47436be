"""A network for one image size as a plain graph of tensor operations, for converters without arithmetic on sizes.

Masks, indices and bias tables, which a network of windows computes from the size of its input, become constants.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import ShapeProp

from compressor.models.networks.base import Network

ASSERTION = torch.ops.aten._assert_tensor_metadata.default
CLONE = torch.ops.aten.clone.default
PERMUTE = torch.ops.aten.permute.default
SELECT = torch.ops.aten.index_select.default
SLICE = torch.ops.aten.slice.Tensor


def fixed_copy(network: Network, lr_size: tuple[int, int]) -> fx.GraphModule:
    """Return the same function for a batch of one image of `lr_size` (width, height), and for nothing else."""
    width, height = lr_size
    example = torch.zeros(1, network.descriptor.channels, height, width)
    with torch.no_grad():
        program = torch.export.export(network, (example,), strict=False).run_decompositions({})
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        for node in list(module.graph.nodes):
            if node.op == "call_function" and node.target is ASSERTION:
                module.graph.erase_node(node)
        _fold_constants(module)
        _replace_selections(module, example)
        _make_permutes_contiguous(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute now what does not depend on the image; equal constants are stored once."""
    values: dict[fx.Node, Any] = {}
    names: dict[tuple[object, ...], str] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(node.target)(module)
        elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
            arguments = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*arguments[0], **arguments[1])
    for node, value in values.items():
        used = any(user not in values for user in node.users)
        if node.op != "get_attr" and used and isinstance(value, torch.Tensor):
            value = value.detach().contiguous()
            content = (value.dtype, tuple(value.shape), value.numpy().tobytes())
            name = names.setdefault(content, f"constant_{len(names)}")
            if not hasattr(module, name):
                module.register_buffer(name, value)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(name))
    module.graph.eliminate_dead_code()


def _replace_selections(module: fx.GraphModule, example: torch.Tensor) -> None:
    """Remove selections of all positions, and turn those of the first positions into slices."""
    module.recompile()
    ShapeProp(module).propagate(example)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is not SELECT:
            continue
        source, dim, constant = node.args
        positions = getattr(module, constant.target)
        if not torch.equal(positions, torch.arange(len(positions))):
            continue
        if source.meta["tensor_meta"].shape[dim] == len(positions):
            node.replace_all_uses_with(source)
        else:
            with module.graph.inserting_before(node):
                part = module.graph.call_function(SLICE, (source, dim, 0, len(positions)))
            part.meta = dict(node.meta)
            node.replace_all_uses_with(part)
        module.graph.erase_node(node)


def _make_permutes_contiguous(module: fx.GraphModule) -> None:
    """Swap axes in memory too: some runtimes misread an order of axes that is in the strides only."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is not PERMUTE or all(user.target is CLONE for user in node.users):
            continue
        with module.graph.inserting_after(node):
            moved = module.graph.call_function(CLONE, (node,), {"memory_format": torch.contiguous_format})
        node.replace_all_uses_with(moved, delete_user_cb=lambda user, moved=moved: user is not moved)
