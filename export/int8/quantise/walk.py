"""Quantisation in one pass over a graph, node by node, with float and quantised values side by side.

A layer is solved again on the inputs that it really gets, towards its target: its float result, or, if the result is
added to another value, the rest that the sum needs, so that errors of earlier layers are corrected instead of
accumulated. Its weight is rounded with feedback: weights that are not yet rounded compensate each error. Its bias
compensates the mean error. A plan may also solve for the weights by ridge least squares before they are rounded
(`compressor/models/fitting/least_squares.py`). Then the result is rounded to its grid.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch.nn import functional as F

from compressor.base.context import QUIET, Context
from compressor.base.errors import one_line
from compressor.models.fitting.least_squares import Sums, best_correction
from compressor.runtimes.onnx_runtime import cpu_session
from export.int8.quantise.grids import Grid, choose_grid, image_grid, round_rows, round_with_feedback, row_scales
from export.int8.quantise.plan import Layer, QuantisationPlan

APART = 4
"""One of this many patches is held out to choose the ridge."""

PIXELS_OF_A_PATCH = 1024
"""Largest number of pixels per patch that count in the sums of a layer, as neighbours are alike."""

BIAS = 2.0**30
"""Largest bias in steps of its layer's products, where it must be an integer; half of what 32 bits hold."""

FEEDBACK_COLUMNS = 4096
"""Largest number of columns of a layer that is rounded with feedback, whose cost grows with their cube."""


@dataclass(frozen=True)
class QuantisedLayer:
    """A layer's weight as integers in its stored shape, the scale of each row, and its bias."""

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None


@dataclass
class _PatchValues:
    """A value for all patches: in the float graph, and in the quantised one before and after rounding to its grid."""

    exact: NDArray[Any]
    raw: NDArray[Any]
    rounded: NDArray[Any] | None = None


@dataclass
class GraphWalk:
    """One pass over a planned graph: it solves for the grids of values, by name, and the quantised layers, by index."""

    plan: QuantisationPlan
    images: NDArray[np.float32]
    context: Context = QUIET
    correct: bool = True
    """True: round with feedback and solve for the bias again; False: round each weight independently."""
    values: dict[str, _PatchValues] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    layers: dict[int, QuantisedLayer] = field(default_factory=dict)

    def run(self) -> GraphWalk:
        graph = self.plan.graph
        left = Counter(name for node in graph.nodes for name in dict.fromkeys(node.input))
        (source,) = (value.name for value in graph.model.graph.input)
        self._keep(source, self.images, self.images)
        for index, node in enumerate(self.context.each("quantise", graph.nodes)):
            if node.op_type != "Constant":
                self._run(index, node)
            for name in dict.fromkeys(node.input):
                left[name] -= 1
                if not left[name]:
                    self.values.pop(name, None)
        return self

    def error(self) -> float:
        """Run the pass, and return the mean squared difference between the float and the quantised image."""
        (output,) = (value.name for value in self.plan.graph.model.graph.output)
        self.run()
        value = self.values[output]
        return float(np.square(value.exact - value.raw).mean())

    def _run(self, index: int, node: onnx.NodeProto) -> None:
        layer = self.plan.layers.get(index)
        inputs = [self._input(index, name) for name in node.input]
        with one_line(f"{node.name} cannot be computed", first=True):
            exact = _compute(self.plan.graph.model, node, [pair[0] for pair in inputs])
        if layer is not None:
            raw = [self._solve(layer, inputs[0][1], exact[0], index)]
        elif all(exact_input is raw_input for exact_input, raw_input in inputs):
            raw = exact
        else:
            raw = _compute(self.plan.graph.model, node, [pair[1] for pair in inputs])
        for name, *values in zip(node.output, exact, raw, strict=True):
            self._keep(name, *values)

    def _input(self, index: int, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        constants = self.plan.graph.constants
        if not name or name in constants:
            stored = constants.get(name, np.empty(0))
            grid = self.plan.operands.get(name)
            return stored, stored if grid is None else grid.round(torch.from_numpy(stored.copy())).numpy()
        value = self.values[name]
        on_grid = value.rounded is not None and self.plan.reads_grid(index, name)
        return value.exact, value.rounded if on_grid and value.rounded is not None else value.raw

    def _keep(self, name: str, exact: NDArray[Any], raw: NDArray[Any]) -> None:
        value = self.values[name] = _PatchValues(exact, raw)
        if name in self.plan.grids:
            tensor = torch.from_numpy(np.ascontiguousarray(raw))
            grid = self.grids[name] = self._grid(name, tensor)
            value.rounded = grid.round(tensor).numpy()

    def _grid(self, name: str, values: torch.Tensor) -> Grid:
        shared, flavour = self.plan.grids[name], self.plan.flavour
        if shared is not None:
            return self.grids[shared]
        image = name in self.plan.graph.images and flavour.image_bytes
        return image_grid(flavour.values) if image else choose_grid(values, flavour.values)

    def _solve(self, layer: Layer, inputs: NDArray[Any], exact: NDArray[Any], index: int) -> NDArray[Any]:
        """Quantise a layer, and return its result before rounding."""
        graph, levels = self.plan.graph, self.plan.flavour.weights
        stored = torch.from_numpy(graph.constants[layer.weight].copy())
        own_bias = layer.bias is not None and graph.nodes[index].op_type != "MatMul"
        bias = torch.from_numpy(graph.constants[layer.bias].copy()) if layer.bias is not None and own_bias else None
        matrix = stored.T if layer.kind == "columns" else stored.flatten(1)  # rows, columns
        x, target = torch.from_numpy(inputs), self._target(index, exact)
        shared = len(graph.users[layer.weight]) > 1
        rows_of_group = len(matrix) // layer.groups
        integers, scales, biases = [], [], []
        now = _apply(layer, x, stored, bias)
        sums = [_sums(layer, x, target - now, group, stored.shape[2:]) for group in range(layer.groups)]
        for group, (fitted, apart) in enumerate(sums):
            rows = slice(group * rows_of_group, (group + 1) * rows_of_group)
            weight_rows = matrix[rows].double()
            free = bias is not None or layer.kind == "conv"
            if self.plan.parts.variant and not shared:
                weight_rows = weight_rows + best_correction(fitted, apart)[0]
            total = fitted.plus(apart)
            scale = row_scales(weight_rows, levels)
            if self.plan.flavour.everything and bias is not None:  # so that the bias fits into 32 bits
                source = self.grids[graph.nodes[index].input[0]].scale
                scale = torch.maximum(scale, (bias[rows].abs() / (BIAS * source)).to(scale.dtype))
            covariance = total.xx - torch.outer(total.x, total.x) / total.count
            rounded = (
                round_with_feedback(weight_rows, scale, covariance, levels)
                if len(covariance) <= FEEDBACK_COLUMNS and self.correct and not shared
                else round_rows(weight_rows, scale, levels)
            )
            # The bias compensates the mean error that is left after rounding.
            change = rounded * scale[:, None] - matrix[rows].double()
            offset = (total.r - change @ total.x) / total.count if self.correct and free else torch.zeros(len(rounded))
            integers.append(rounded)
            scales.append(scale)
            biases.append(offset)
        flat_scales = torch.cat(scales).float()
        all_integers = torch.cat(integers)
        offset = torch.cat(biases)
        new_bias = None if bias is None and not offset.any() else (offset + (0 if bias is None else bias)).float()
        integer_weight = _from_matrix(layer, all_integers, stored.shape)
        weight = _from_matrix(layer, all_integers * flat_scales[:, None].double(), stored.shape).float()
        self.layers[index] = QuantisedLayer(
            integer_weight.numpy().astype(np.int8), flat_scales.numpy(), None if new_bias is None else new_bias.numpy()
        )
        return _apply(layer, x, weight, new_bias).numpy()

    def _target(self, index: int, exact: NDArray[Any]) -> torch.Tensor:
        """A layer's target: its float result, or the rest that the sum it is added to needs."""
        graph = self.plan.graph
        (name,) = graph.nodes[index].output
        factor = np.float32(1)
        value = exact
        while (user := graph.sole_user(name)) is not None:
            node = graph.nodes[user]
            others = [other for other in node.input if other != name]
            if node.op_type == "Mul" and len(others) == 1 and graph.constants.get(others[0], np.empty(2)).size == 1:
                factor = factor * graph.constants[others[0]].reshape(-1)[0]
                value = value * graph.constants[others[0]].reshape(-1)[0]
                (name,) = node.output
                continue
            if node.op_type == "Add" and len(others) == 1 and others[0] in self.values and factor:
                beside = self.values[others[0]]
                present = self._input(user, others[0])[1]
                if beside.exact.shape == value.shape:
                    return torch.from_numpy((value + (beside.exact - present)) / factor)
            break
        return torch.from_numpy(exact)


def _from_matrix(layer: Layer, matrix: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return (matrix.T if layer.kind == "columns" else matrix).reshape(tuple(shape)).contiguous()


def _apply(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if layer.kind == "conv":
        return F.conv2d(x, weight, bias, padding=(layer.padding[0], layer.padding[1]), groups=layer.groups)
    return F.linear(x, weight.T if layer.kind == "columns" else weight, bias)


def _sums(
    layer: Layer, x: torch.Tensor, missing: torch.Tensor, group: int, kernel: tuple[int, ...]
) -> tuple[Sums, Sums]:
    """The sums of one group over the patches to fit, and over the held-out ones; `kernel`: (h, w) of a convolution."""
    if layer.kind != "conv":
        x, missing = x.flatten(1, -2).movedim(-1, 1)[..., None], missing.flatten(1, -2).movedim(-1, 1)[..., None]
    else:
        x = x.chunk(layer.groups, 1)[group]
        missing = missing.chunk(layer.groups, 1)[group]
    sides = kernel or (1, 1)
    columns = x.shape[1] * math.prod(sides)
    both = Sums(columns, missing.shape[1], x.device), Sums(columns, missing.shape[1], x.device)
    pixels = missing.shape[2] * missing.shape[3]
    step = 1
    while pixels / step**2 > PIXELS_OF_A_PATCH:
        step += 1
    for index in range(len(x)):
        inputs = F.unfold(x[index : index + 1], sides, padding=layer.padding, stride=step)
        rest = missing[index][:, ::step, ::step].flatten(1)
        both[len(x) > APART and index % APART == APART - 1].add(inputs[0], rest, torch.ones(rest.shape[1]))
    return both


def _compute(model: onnx.ModelProto, node: onnx.NodeProto, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
    sources = [helper.make_tensor_value_info(name, kind, [None] * feeds[name].ndim) for name, kind in kinds.items()]
    results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    small = helper.make_model(
        helper.make_graph([node], "node", sources, results),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    session = cpu_session(small, threads=torch.get_num_threads(), optimised=False)
    return [np.asarray(result) for result in session.run(None, feeds)]
