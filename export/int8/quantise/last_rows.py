"""The convolution that writes the image, in the form that ONNX Runtime computes fast with integers on CPUs.

    conv(shuffle(x))  →  slice(shuffle(conv'(x)))   each tap reads its own sub-pixel of x; exact
    conv(x)           →  slice(conv'(x))            rows of zeros, 16 in all

Its integer convolutions are slow below 16 rows, and a shuffle of feature maps takes as long as a convolution of them;
behind the last convolution it moves only the image.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compressor.runtimes.onnx_file import drop_unused, set_nodes
from export.graph.onnx_graph import attribute_of
from export.int8.quantise.ends import is_shuffle
from export.int8.quantise.plan import FloatGraph, Layer

ROWS = 16
"""The fewest rows of a fast convolution."""


def widen_last_rows(graph: FloatGraph) -> FloatGraph:
    """The graph in this form if its last layer is a convolution that writes the image; else the same graph."""
    index, layer = max(graph.layers.items(), key=lambda place: place[0], default=(-1, None))
    if layer is None or not _writes_few_rows(graph, layer):
        return graph
    node, weight = graph.nodes[index], graph.constants[layer.weight]
    shuffle = graph.producer.get(node.input[0], index)
    before = graph.nodes[shuffle]
    passes = is_shuffle(before) and graph.sole_user(node.input[0]) == index
    block = attribute_of(before, "blocksize") if passes else 1
    source = before.input[0] if block > 1 else node.input[0]
    colours, square = len(weight), block**2
    added = max(0, -(-ROWS // square) - colours) * square
    wide = _by_position(weight, block)
    bias = np.zeros(colours, np.float32) if layer.bias is None else graph.constants[layer.bias]
    stored = {
        "image/weight": np.pad(wide, [(0, added), (0, 0), (0, 0), (0, 0)]),
        "image/bias": np.pad(np.repeat(bias, square), (0, added)),
        **{f"image/{name}": np.array([value]) for name, value in (("first", 0), ("last", colours), ("axis", 1))},
    }
    (conv, bias_name, *bounds), reach = stored, wide.shape[2] // 2
    nodes = [helper.make_node("Conv", [source, conv, bias_name], ["image/rows"], node.name, pads=[reach] * 4)]
    if block > 1:
        nodes += [helper.make_node("DepthToSpace", ["image/rows"], ["image/wide"], blocksize=block, mode="CRD")]
    nodes += [helper.make_node("Slice", [nodes[-1].output[0], *bounds], node.output)]
    model = copy.deepcopy(graph.model)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in stored.items())
    kept = [other for place, other in enumerate(graph.nodes[:index]) if block == 1 or place != shuffle]
    set_nodes(model.graph, [*kept, *nodes, *graph.nodes[index + 1 :]])
    drop_unused(model.graph)
    return FloatGraph(model, graph.images | {"image/rows"})


def _writes_few_rows(graph: FloatGraph, layer: Layer) -> bool:
    (result,) = graph.nodes[layer.index].output
    if layer.kind != "conv" or layer.groups != 1 or result not in graph.images:
        return False
    rows, _, height, width = graph.constants[layer.weight].shape
    return rows < ROWS and height == width and layer.padding == (height // 2, height // 2)


def _by_position(weight: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Return the weight of a row for each colour and position in a block, for the channels before a shuffle (CRD)."""
    colours, channels, size, _ = weight.shape
    reach = -(-(size // 2) // block)
    side = 2 * reach + 1
    wide = np.zeros((colours, block, block, channels, block, block, side, side), np.float32)
    for top, left, row, column in np.ndindex(block, block, size, size):
        (down, y), (right, x) = (divmod(place - size // 2, block) for place in (top + row, left + column))
        wide[:, top, left, :, y, x, reach + down, reach + right] = weight[:, :, row, column]
    return wide.reshape(colours * block**2, channels * block**2, side, side)
