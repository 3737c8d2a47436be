"""ONNX files of planned and solved graphs: QuantizeLinear and DequantizeLinear at each value on a grid."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compressor.runtimes.onnx_file import drop_unused, set_nodes
from export.int8.quantise.grids import Grid
from export.int8.quantise.plan import QuantisationPlan
from export.int8.quantise.walk import GraphWalk, QuantisedLayer

INT32 = 2**31 - 1
SIXTEEN_BITS = "com.microsoft"
"""The domain of operators that quantise to sixteen bits."""


class QdqWriter:
    """The model quantised as a pass solved it; weights are stored as integers, the bias as the flavour requires."""

    def __init__(self, plan: QuantisationPlan, walk: GraphWalk) -> None:
        self.plan, self.walk = plan, walk
        self.model = copy.deepcopy(plan.graph.model)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def write(self) -> onnx.ModelProto:
        graph = self.plan.graph
        for value in self.model.graph.input:
            self._pair(value.name, value.name)
        renamed = {name: f"{name}.computed" for name in graph.outputs if name in self.walk.grids}
        for index, node in enumerate(self.model.graph.node):
            for place, name in enumerate(node.input):
                if name in renamed:
                    node.input[place] = renamed[name]
                if name in self.plan.operands and index in self.plan.integer:
                    node.input[place] = self._operand(name)
                if self.plan.reads_grid(index, name):
                    node.input[place] = name if name in renamed else f"{name}.dequantised"
            if index in self.walk.layers:
                self._layer(index, node, self.walk.layers[index])
            for place, name in enumerate(node.output):
                node.output[place] = renamed.get(name, name)
            node.doc_string = self.plan.why_in_float(index) or ""
            self.nodes.append(node)
            for name in graph.nodes[index].output:
                self._pair(name, renamed.get(name, name), last=name in renamed)
        if self._domain():
            self.model.opset_import.append(helper.make_opsetid(self._domain(), 1))
        set_nodes(self.model.graph, self.nodes)
        drop_unused(self.model.graph)
        self.model.graph.initializer.extend(self.stored)
        return self.model

    def _pair(self, name: str, computed: str, *, last: bool = False) -> None:
        grid = self.walk.grids.get(name)
        if grid is None:
            return
        names = self._grid(f"{name}.grid", grid)
        self._node("QuantizeLinear", [computed, *names], f"{name}.quantised", f"quantise/{name}")
        result = name if last else f"{name}.dequantised"
        self._node("DequantizeLinear", [f"{name}.quantised", *names], result, f"dequantise/{name}")

    def _node(self, kind: str, inputs: Sequence[str], result: str, name: str) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [result], name, domain=self._domain()))

    def _domain(self) -> str:
        """ONNX has quantisation to sixteen bits since opset 21, ONNX Runtime's own operators at any."""
        return "" if self.plan.flavour.values.bits <= 8 else SIXTEEN_BITS

    def _operand(self, name: str) -> str:
        """The name of a stored operand's values, which lie in the file as integers on their grid."""
        grid, result = self.plan.operands[name], f"{name}.dequantised"
        if all(result not in node.output for node in self.nodes):
            names = self._grid(f"{name}.grid", grid)
            exact = self.plan.graph.constants[name].astype(np.float64) / grid.scale
            integers = np.clip(np.round(exact) + grid.zero_point, grid.levels.low, grid.levels.high)
            self._store(f"{name}.integers", integers.astype(_kind(grid)))
            self._node("DequantizeLinear", [f"{name}.integers", *names], result, f"dequantise/{name}")
        return result

    def _grid(self, name: str, grid: Grid) -> tuple[str, str]:
        self._store(f"{name}.scale", np.array(grid.scale, np.float32))
        self._store(f"{name}.zero_point", np.array(grid.zero_point, _kind(grid)))
        return f"{name}.scale", f"{name}.zero_point"

    def _layer(self, index: int, node: onnx.NodeProto, layer: QuantisedLayer) -> None:
        """Replace the weight and the bias by integers."""
        axis = 1 if self.plan.layers[index].kind == "columns" else 0
        node.input[1] = self._dequantised(f"{node.name}.weight", layer.integers, layer.scales, axis)
        if layer.bias is None or node.op_type == "MatMul":
            return
        bias = f"{node.name}.bias"
        source = self.walk.grids[self.plan.graph.nodes[index].input[0]]
        scales = (layer.scales.astype(np.float64) * source.scale).astype(np.float32)
        integers = np.round(layer.bias / np.maximum(scales.astype(np.float64), 1e-30))
        if self.plan.flavour.integer_bias and np.abs(integers).max(initial=0) < INT32:
            bias = self._dequantised(bias, integers.astype(np.int32), scales, 0)
        else:
            self._store(bias, layer.bias)
        if len(node.input) > 2:
            node.input[2] = bias
        else:
            node.input.append(bias)

    def _dequantised(self, name: str, integers: NDArray[Any], scales: NDArray[np.float32], axis: int) -> str:
        self._store(f"{name}.integers", integers)
        self._store(f"{name}.scales", scales)
        self._store(f"{name}.zero_points", np.zeros(len(scales), integers.dtype))
        inputs = [f"{name}.integers", f"{name}.scales", f"{name}.zero_points"]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=f"dequantise/{name}", axis=axis))
        return name

    def _store(self, name: str, values: NDArray[np.generic]) -> None:
        self.stored.append(numpy_helper.from_array(values, name))


def _kind(grid: Grid) -> type[np.integer[Any]]:
    """The type in which a file stores integers of a grid."""
    if grid.levels.bits > 8:
        return np.uint16
    return np.int8 if grid.levels.signed else np.uint8
