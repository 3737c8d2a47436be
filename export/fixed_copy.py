"""A network for one image size, as a plain graph of tensor operations: for converters that know no arithmetic on sizes.

Masks, indices and bias tables, which a network of windows works out from the size of its input, become constants.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import ShapeProp

from compressor.models.networks.base import Network
from compressor.models.networks.windows import WindowAttention

ASSERTION = torch.ops.aten._assert_tensor_metadata.default
CLONE = torch.ops.aten.clone.default
PERMUTE = torch.ops.aten.permute.default
SELECT = torch.ops.aten.index_select.default
SLICE = torch.ops.aten.slice.Tensor


def needs_fixed_size(network: Network) -> bool:
    """Whether its graph depends on the size of its input, beyond the sizes of its tensors."""
    return any(isinstance(part, WindowAttention) for part in network.modules())


def fixed_copy(network: Network, lr_size: tuple[int, int]) -> fx.GraphModule:
    """The same function of a batch of one of `lr_size` (width, height), and of nothing else."""
    width, height = lr_size
    example = torch.zeros(1, network.descriptor.channels, height, width)
    with torch.no_grad():
        program = torch.export.export(network, (example,), strict=False).run_decompositions({})
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        for node in list(module.graph.nodes):
            if node.op == "call_function" and node.target is ASSERTION:
                module.graph.erase_node(node)
        _fold(module)
        _without_selection(module, example)
        _in_memory(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _fold(module: fx.GraphModule) -> None:
    """Whatever does not depend on the image is computed now; equal constants are kept once."""
    known: dict[fx.Node, Any] = {}
    kept: dict[tuple[object, ...], str] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(module)
        elif node.op == "call_function" and all(given in known for given in node.all_input_nodes):
            arguments = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*arguments[0], **arguments[1])
    for node, value in known.items():
        used = any(user not in known for user in node.users)
        if node.op != "get_attr" and used and isinstance(value, torch.Tensor):
            value = value.detach().contiguous()
            content = (value.dtype, tuple(value.shape), value.numpy().tobytes())
            name = kept.setdefault(content, f"constant_{len(kept)}")
            if not hasattr(module, name):
                module.register_buffer(name, value)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(name))
    module.graph.eliminate_dead_code()


def _without_selection(module: fx.GraphModule, example: torch.Tensor) -> None:
    """A selection of all positions is nothing, one of the first positions a slice."""
    module.recompile()
    ShapeProp(module).propagate(example)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is not SELECT:
            continue
        source, dim, chosen = node.args
        positions = getattr(module, chosen.target)
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


def _in_memory(module: fx.GraphModule) -> None:
    """Axes are swapped in memory, too: an order of axes that is only noted some runtimes take for another one."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is not PERMUTE or all(user.target is CLONE for user in node.users):
            continue
        with module.graph.inserting_after(node):
            moved = module.graph.call_function(CLONE, (node,), {"memory_format": torch.contiguous_format})
        node.replace_all_uses_with(moved, delete_user_cb=lambda user, moved=moved: user is not moved)
