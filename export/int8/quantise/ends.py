"""Rewriting of a graph's ends: int8 holds an image's bytes exactly, but not the image minus a mean.

    input    conv(a·x + c)  →  conv'(x),  W' = W·a, b' = b + ΣW·c      x on the grid of bytes: no error at all
    output   a·conv(x) + c  →  conv'(x),  W' = a·W, b' = a·b + c       rounded to bytes once, not twice
    anchor   clip(shuffle(conv(x) + lr))  →  shuffle(clip(conv(x) + lr))   clipped and rounded to bytes by the sum
    copies   shuffle(conv(x) + copy(lr))  →  shuffle'(conv'(x) + concat(lr, lr, …))   bytes are moved, not convolved

a and c are constants, per channel or for all; an anchor is the image itself, copied or enlarged, and added last.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compressor.runtimes.onnx_file import drop_unused, set_nodes
from export.graph.onnx_graph import attribute_of
from export.int8.quantise.plan import FloatGraph, enlarges_by_copies

AFFINE = ("Add", "Sub", "Mul", "Div")


def meet_image(model: onnx.ModelProto) -> FloatGraph:
    """The rewritten graph, whose first convolution reads and whose last writes the image; ends that do not have these
    forms stay unchanged."""
    model = copy.deepcopy(model)
    first = _rewrite_input(model)
    last = _rewrite_output(model)
    sums = () if last else _meet_anchor(model)
    _remove_unused(model.graph)
    return FloatGraph(model, frozenset(name for name in (first, last, *sums) if name is not None))


@dataclass(frozen=True)
class _Steps:
    """Successive nodes that scale and shift the channels of a value, and the convolution next to them."""

    graph: FloatGraph
    value: str
    nodes: Sequence[onnx.NodeProto]
    conv: int

    def composed(self, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return factor and offset of all steps for each channel."""
        factor, offset, value = np.ones(channels), np.zeros(channels), self.value
        for node in self.nodes:
            step = _affine(self.graph, node, value)
            assert step is not None
            factor, offset = factor * step[0], offset * step[0] + step[1]
            (value,) = node.output
        return factor, offset


def _rewrite_input(model: onnx.ModelProto) -> str | None:
    """Make the first convolution read the image; return the name of the value it reads, or None."""
    graph = FloatGraph(model)
    name: str = model.graph.input[0].name
    for user in graph.users.get(name, ()):
        steps = _steps_behind(graph, name, user)
        if steps is not None:
            return _read_image(model, steps)
    return None


def _steps_behind(graph: FloatGraph, name: str, user: int) -> _Steps | None:
    """The steps from a value to a convolution, if no other node reads the values between."""
    nodes, value, following = [], name, user
    while _affine(graph, graph.nodes[following], value) is not None:
        nodes.append(graph.nodes[following])
        (value,) = graph.nodes[following].output
        sole = graph.sole_user(value)
        if sole is None:
            return None
        following = sole
    layer = graph.layers.get(following)
    if layer is None or layer.kind != "conv" or layer.groups != 1 or len(graph.users[layer.weight]) > 1:
        return None
    return _Steps(graph, name, nodes, following)


def _read_image(model: onnx.ModelProto, steps: _Steps) -> str | None:
    graph, conv, layer = steps.graph, steps.graph.nodes[steps.conv], steps.graph.layers[steps.conv]
    if not steps.nodes:
        return steps.value
    weight = graph.constants[layer.weight].astype(np.float64)
    factor, offset = steps.composed(weight.shape[1])
    if not np.all(np.abs(factor) > 1e-12):
        return None
    image = steps.value
    if any(layer.padding):
        image = f"{steps.value}.padded"
        nodes = _pad(model, conv.input[0], image, layer.padding, 1 / factor, -offset / factor)
        for place, node in enumerate(nodes, steps.conv):
            model.graph.node.insert(place, node)
        for entry in [each for each in conv.attribute if each.name in ("pads", "auto_pad")]:
            conv.attribute.remove(entry)
        conv.attribute.append(helper.make_attribute("pads", [0, 0, 0, 0]))
    _store(model, layer.weight, (weight * factor.reshape(1, -1, 1, 1)).astype(np.float32))
    _add_to_bias(model, graph, steps.conv, (weight * offset.reshape(1, -1, 1, 1)).sum((1, 2, 3)))
    conv.input[0] = image
    return image


def _pad(
    model: onnx.ModelProto,
    value: str,
    image: str,
    padding: Sequence[int],
    factor: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> list[onnx.NodeProto]:
    """Return nodes that pad with zeros after the steps and then undo the steps: a zero becomes -c/a, so that borders
    do not change where the convolution pads with zeros."""
    top, left = padding
    _store(model, f"{image}.pads", np.array([0, 0, top, left, 0, 0, top, left], np.int64))
    _store(model, f"{image}.factor", factor.reshape(1, -1, 1, 1).astype(np.float32))
    _store(model, f"{image}.offset", offset.reshape(1, -1, 1, 1).astype(np.float32))
    return [
        helper.make_node("Pad", [value, f"{image}.pads"], [f"{image}.with_zeros"], name="image/pad"),
        helper.make_node("Mul", [f"{image}.with_zeros", f"{image}.factor"], [f"{image}.scaled"], name="image/scale"),
        helper.make_node("Add", [f"{image}.scaled", f"{image}.offset"], [image], name="image/shift"),
    ]


def _rewrite_output(model: onnx.ModelProto) -> str | None:
    """Make the last convolution write the image; return the name of the value it writes, or None."""
    graph = FloatGraph(model)
    output: str = model.graph.output[0].name
    steps, shuffled = _steps_before(graph, output)
    if steps is None:
        return None
    layer = graph.layers[steps.conv]
    if steps.nodes:
        weight = graph.constants[layer.weight].astype(np.float64)
        factor, offset = (np.repeat(step, shuffled) for step in steps.composed(len(weight) // shuffled))
        bias = np.zeros(len(weight)) if layer.bias is None else graph.constants[layer.bias].astype(np.float64)
        _store(model, layer.weight, (weight * factor.reshape(-1, 1, 1, 1)).astype(np.float32))
        _add_to_bias(model, graph, steps.conv, factor * bias + offset - bias)
        _drop(model, steps.nodes, steps.value)
    rewritten = FloatGraph(model)
    name = output
    while (index := rewritten.producer[name]) not in rewritten.layers:
        name = next(value for value in rewritten.nodes[index].input if value in rewritten.floats)
    return name


def _steps_before(graph: FloatGraph, output: str) -> tuple[_Steps | None, int]:
    """The steps from the last convolution to the output, and how many of its channels a shuffle merges."""
    nodes: list[onnx.NodeProto] = []
    name, value, shuffled = output, output, 1
    while (index := graph.producer.get(name)) is not None:
        node = graph.nodes[index]
        layer = graph.layers.get(index)
        if layer is not None:
            own = layer.kind == "conv" and len(graph.users[layer.weight]) == 1
            return (_Steps(graph, value, nodes, index) if own else None), shuffled
        source = next((value_read for value_read in node.input if value_read in graph.floats), "")
        is_step = shuffled == 1 and bool(source) and _affine(graph, node, source) is not None
        if graph.sole_user(source) != index or not (is_step or is_shuffle(node)):
            return None, 1
        if is_step:
            nodes.insert(0, node)
            value = source
        else:
            shuffled *= attribute_of(node, "blocksize") ** 2
        name = source
    return None, 1


def _lay_copies_side_by_side(model: onnx.ModelProto) -> None:
    """Make the copies of an anchor by one Concat before the last shuffle, whichever way they were made.

    They lie side by side if the shuffle reads positions before channels (ONNX's mode DCR) and the layer writes them so.
    """
    graph, image = FloatGraph(model), model.graph.input[0].name
    for index, node in enumerate(graph.nodes):
        copies = [name for name in node.input if node.op_type == "Add" and _copies(graph, name, image)]
        if len(copies) == 1 and (anchor := _anchor_of(graph, index, copies[0])) is not None:
            layer, square = graph.layers[anchor.conv], anchor.block**2
            order = np.arange(len(graph.constants[layer.weight])).reshape(-1, square).T.ravel()
            for name in filter(None, (layer.weight, layer.bias)):
                _store(model, name, graph.constants[name][order])
            made = [
                helper.make_node("Concat", [image] * square, copies, name="image/copies", axis=1),
                helper.make_node("Add", [anchor.features, *copies], [anchor.sum], name="image/sum"),
                helper.make_node("DepthToSpace", [anchor.sum], [anchor.result], blocksize=anchor.block, mode="DCR"),
            ]
            old = {index, anchor.shuffle, graph.producer[copies[0]]}
            last = max(index, anchor.shuffle)
            ahead = [other for place, other in enumerate(graph.nodes) if place < last and place not in old]
            set_nodes(model.graph, [*ahead, *made, *graph.nodes[last + 1 :]])
            return


@dataclass(frozen=True)
class _Anchor:
    """A sum with the copies of an image, whose result is shuffled, or one operand was: `features` come from `conv`."""

    conv: int
    shuffle: int
    block: int
    features: str
    sum: str
    result: str


def _anchor_of(graph: FloatGraph, index: int, copies: str) -> _Anchor | None:
    """The anchor that a sum adds, if the channels before its shuffle can be put in another order."""
    total, maker = graph.nodes[index], graph.nodes[graph.producer[copies]]
    (other,) = (name for name in total.input if name != copies)
    enlarged = maker.op_type == "Resize"
    shuffle = graph.producer.get(other) if enlarged else graph.sole_user(total.output[0])
    if shuffle is None or not is_shuffle(graph.nodes[shuffle]) or graph.sole_user(copies) != index:
        return None
    node = graph.nodes[shuffle]
    first, second = (node, total) if enlarged else (total, node)
    features, block = node.input[0] if enlarged else other, attribute_of(node, "blocksize")
    conv = graph.producer.get(features, -1)
    layer = graph.layers.get(conv)
    if layer is None or layer.kind != "conv" or layer.groups != 1 or graph.sole_user(first.output[0]) is None:
        return None
    is_own = all(len(graph.users[name]) == 1 for name in filter(None, (layer.weight, layer.bias)))
    if not is_own or graph.sole_user(features) is None:
        return None
    if not enlarged:
        sources = graph.constants[maker.input[1]][:, :, 0, 0].argmax(1)
        if not (sources == np.arange(len(sources)) // block**2).all():
            return None
    return _Anchor(conv, shuffle, block, features, first.output[0], second.output[0])


def is_shuffle(node: onnx.NodeProto) -> bool:
    return node.op_type == "DepthToSpace" and attribute_of(node, "mode") == b"CRD"


def _meet_anchor(model: onnx.ModelProto) -> tuple[str, ...]:
    """Clip before the last shuffle if a sum with the image is shuffled; return the names of the image values there."""
    _lay_copies_side_by_side(model)
    graph = FloatGraph(model)
    (image,), name, moves = (value.name for value in model.graph.input), model.graph.output[0].name, list[int]()
    while (index := graph.producer.get(name)) is not None and graph.nodes[index].op_type in ("DepthToSpace", "Clip"):
        name = graph.nodes[index].input[0]
        if graph.sole_user(name) != index:
            return ()
        moves.append(index)
    anchors = [] if index is None else [value for value in graph.nodes[index].input if _copies(graph, value, image)]
    if index is None or graph.nodes[index].op_type != "Add" or not anchors:
        return ()
    # Whatever is clipped first: a shuffle only moves pixels.
    ordered = sorted(moves, key=lambda place: (graph.nodes[place].op_type != "Clip", place))
    values = [name, *(graph.nodes[place].output[0] for place in reversed(moves))]
    nodes = list(model.graph.node)
    for place, node in zip(sorted(moves), (copy.deepcopy(graph.nodes[place]) for place in ordered), strict=True):
        node.input[0], node.output[0] = values[:2]
        values.pop(0)
        nodes[place] = node
    set_nodes(model.graph, nodes)
    clipped = FloatGraph(model)
    user = clipped.sole_user(name)
    is_clipped = user is not None and clipped.nodes[user].op_type == "Clip"
    return (*anchors, clipped.nodes[user].output[0] if user is not None and is_clipped else name)


def _copies(graph: FloatGraph, name: str, image: str) -> bool:
    """Whether a value is the image with each pixel repeated, by a Concat, a 1×1 convolution or nearest enlarging."""
    index = graph.producer.get(name)
    if index is None or graph.nodes[index].input[0] != image:
        return False
    node, layer = graph.nodes[index], graph.layers.get(index)
    if node.op_type == "Concat":
        return all(name == image for name in node.input)
    if layer is None:
        return node.op_type == "Resize" and enlarges_by_copies(node)
    weight = graph.constants[layer.weight]
    is_point = layer.kind == "conv" and layer.bias is None and weight.shape[2:] == (1, 1)
    return is_point and bool(((weight == 0) | (weight == 1)).all() and (weight.sum((1, 2, 3)) == 1).all())


def _drop(model: onnx.ModelProto, steps: Sequence[onnx.NodeProto], value: str) -> None:
    """Remove steps from the graph: nodes that read the last result then read the value before the first."""
    result = steps[-1].output[0]
    nodes = [node for node in model.graph.node if all(node.output != step.output for step in steps)]
    is_output = any(graph_output.name == result for graph_output in model.graph.output)
    for node in nodes:
        node.input[:] = [value if name == result else name for name in node.input]
        if is_output:
            node.output[:] = [result if name == value else name for name in node.output]
    set_nodes(model.graph, nodes)


def _affine(graph: FloatGraph, node: onnx.NodeProto, value: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return factor and offset of a node that only scales and shifts the channels of a value."""
    if node.op_type not in AFFINE or value not in node.input:
        return None
    others = [name for name in node.input if name != value]
    if len(others) != 1 or others[0] not in graph.constants:
        return None
    constant = np.asarray(graph.constants[others[0]], np.float64)
    if constant.size > 1 and not (constant.ndim in (3, 4) and constant.size == constant.shape[-3]):
        return None
    constant = constant.reshape(-1)
    one, zero = np.ones(1), np.zeros(1)
    first = node.input[0] == value
    if node.op_type == "Add":
        return one, constant
    if node.op_type == "Sub":
        return (one, -constant) if first else (-one, constant)
    if node.op_type == "Mul":
        return constant, zero
    return (1 / constant, zero) if first and np.all(constant != 0) else None


def _add_to_bias(model: onnx.ModelProto, graph: FloatGraph, index: int, change: NDArray[np.float64]) -> None:
    conv, layer = graph.nodes[index], graph.layers[index]
    name = layer.bias or f"{conv.name}.bias"
    before = np.zeros(len(change)) if layer.bias is None else graph.constants[layer.bias].astype(np.float64)
    _store(model, name, (before + change).astype(np.float32))
    if layer.bias is None:
        conv.input[:] = [*conv.input[:2], name]


def _store(model: onnx.ModelProto, name: str, values: NDArray[Any]) -> None:
    tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
    for stored in model.graph.initializer:
        if stored.name == name:
            stored.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that no output depends on."""
    names = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in names for name in node.output):
            names.update(node.input)
            nodes.insert(0, node)
    set_nodes(graph, nodes)
    drop_unused(graph)
