"""Rewritten graphs give the same numbers: ends that meet the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.int8.quantise.ends import meet_image
from export.int8.quantise.last_rows import widen_last_rows
from tests.support.onnx_files import run_graph

Step = tuple[str, object]
"""An operation and its constant; `c-x` and `c/x` have the constant first."""

MEAN, SCALE = (0.4, 0.5, 0.3), (2.0, -0.5, 3.0)
IMAGE = np.random.default_rng(0).uniform(0, 1, (2, 3, 6, 8)).astype(np.float32)


class Drawing:
    """Builds a graph node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.float32]] = {}

    def step(self, value: str, step: Step) -> str:
        (name, constant), result = step, f"v{len(self.nodes)}"
        operation = {"-": "Sub", "+": "Add", "*": "Mul", "/": "Div"}[name.strip("cx")]
        values = np.asarray(constant, np.float32)
        if values.shape == (3,):
            values = values.reshape(1, 3, 1, 1)
        self.constants[f"{result}.c"] = values
        operands = [f"{result}.c", value] if name.startswith("c") else [value, f"{result}.c"]
        self.nodes.append(helper.make_node(operation, operands, [result], name=result))
        return result

    def conv(self, value: str, rows: int, columns: int, *, pad: int = 1, bias: bool = True, group: int = 1) -> str:
        result, random = f"v{len(self.nodes)}", np.random.default_rng(len(self.nodes))
        side = 2 * pad + 1
        self.constants[f"{result}.w"] = random.normal(0, 1, (rows, columns // group, side, side)).astype(np.float32)
        operands = [value, f"{result}.w"]
        if bias:
            self.constants[f"{result}.b"] = random.normal(0, 1, rows).astype(np.float32)
            operands.append(f"{result}.b")
        padding: dict[str, Any] = {"pads": [pad] * 4} if pad else {}
        node = helper.make_node(
            "Conv", operands, [result], name=result, kernel_shape=[side, side], group=group, **padding
        )
        self.nodes.append(node)
        return result

    def node(self, operation: str, *values: str, **attributes: Any) -> str:
        result = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, values, [result], name=result, **attributes))
        return result

    def constant(self, name: str, values: NDArray[np.float32]) -> str:
        self.constants[name] = values
        return name

    def model(self, output: str) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], ["unused"], name="unused"))
        graph = helper.make_graph(
            self.nodes,
            "ends",
            [helper.make_tensor_value_info("lr", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", "c", "y", "x"])],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    return run_graph(model, torch.from_numpy(IMAGE))


def operations(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def behind(steps: Sequence[Step], *, pad: int = 1, bias: bool = True) -> onnx.ModelProto:
    """A graph: the image, steps, a convolution, ReLU, another convolution."""
    drawing, value = Drawing(), "lr"
    for step in steps:
        value = drawing.step(value, step)
    value = drawing.node("Relu", drawing.conv(value, 4, 3, pad=pad, bias=bias))
    return drawing.model(drawing.conv(value, 3, 4))


def before(steps: Sequence[Step], *, blocks: Sequence[int] = (), bias: bool = True, mode: str = "CRD") -> Drawing:
    """A graph that ends with a convolution, shuffles and steps; `v{last}` is its output."""
    drawing = Drawing()
    value = drawing.node("Relu", drawing.conv("lr", 4, 3))
    value = drawing.conv(value, 3 * int(np.prod([block**2 for block in blocks])), 4, bias=bias)
    for block in blocks:
        value = drawing.node("DepthToSpace", value, blocksize=block, mode=mode)
    for step in steps:
        value = drawing.step(value, step)
    return drawing


def same_numbers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rewritten graph, whose numbers are those of the graph."""
    rewritten = meet_image(model).model
    np.testing.assert_allclose(run(rewritten), run(model), rtol=1e-4, atol=1e-4)
    return rewritten


INPUTS: dict[str, tuple[Step, ...]] = {
    "none": (),
    "minus a mean": (("x-c", MEAN),),
    "a mean minus it": (("c-x", MEAN),),
    "times a number, then plus a mean": (("x*c", 2.0), ("c+x", MEAN)),
    "divided and scaled": (("x/c", SCALE), ("c*x", SCALE)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("pad", [1, 0])
@pytest.mark.parametrize("steps", INPUTS.values(), ids=INPUTS)
def test_steps_on_the_image_go_into_the_first_convolution(steps: tuple[Step, ...], pad: int, bias: bool) -> None:
    model = behind(steps, pad=pad, bias=bias)
    met, rewritten = meet_image(model), same_numbers(model)
    # The frame of zeros lies around the shifted image: it is padded first, and then the steps are undone.
    padded = [*operations(model)[: len(steps)], "Pad", "Mul", "Add"] if pad and steps else []
    assert operations(rewritten) == [*padded, "Conv", "Relu", "Conv"]
    assert rewritten.graph.node[len(padded)].input[0] in met.images


@pytest.mark.parametrize("pad", [1, 0])
def test_every_byte_is_on_the_grid_that_the_first_convolution_reads(pad: int) -> None:
    rewritten = same_numbers(behind((("x-c", MEAN), ("x*c", 2.0)), pad=pad))
    conv = next(node for node in rewritten.graph.node if node.op_type == "Conv")
    inner = IMAGE
    if pad:
        probe = onnx.ModelProto()
        probe.CopyFrom(rewritten)
        del probe.graph.output[:]
        probe.graph.output.append(
            helper.make_tensor_value_info(conv.input[0], onnx.TensorProto.FLOAT, ["n", "c", "y", "x"])
        )
        inner = run(probe)[:, :, 1:-1, 1:-1]
    else:
        assert conv.input[0] == "lr"
    np.testing.assert_allclose(inner, IMAGE, atol=1e-6)


REFUSED: dict[str, tuple[Step, ...]] = {
    "a channel times zero": (("x*c", (1.0, 0.0, 1.0)),),
    "a constant over it": (("c/x", MEAN),),
    "divided by a zero": (("x/c", (1.0, 0.0, 1.0)),),
    "a constant for each column": (("x*c", np.linspace(1, 2, 8)),),
}


@pytest.mark.parametrize("steps", REFUSED.values(), ids=REFUSED)
def test_other_steps_on_the_image_stay(steps: tuple[Step, ...]) -> None:
    model = behind(steps)
    met = meet_image(model)
    assert operations(met.model) == [node.op_type for node in model.graph.node if node.name != "unused"]
    assert len(met.images) == 1, "the last convolution writes the image, no convolution reads it"


def test_an_image_that_others_read_too_and_a_grouped_convolution_stay() -> None:
    shared = Drawing()
    centred = shared.step("lr", ("x-c", MEAN))
    body = shared.conv(shared.node("Relu", shared.conv(centred, 4, 3)), 3, 4)
    model = shared.model(shared.node("Add", body, centred))
    assert operations(same_numbers(model)) == ["Sub", "Conv", "Relu", "Conv", "Add"]
    grouped = Drawing()
    model = grouped.model(grouped.conv(grouped.conv(grouped.step("lr", ("x-c", MEAN)), 6, 3, group=3), 3, 6))
    assert operations(same_numbers(model)) == ["Sub", "Conv", "Conv"]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("blocks", [(), (2,), (2, 2)], ids=["no shuffle", "shuffle", "two shuffles"])
@pytest.mark.parametrize("steps", INPUTS.values(), ids=INPUTS)
def test_steps_on_the_output_go_into_the_last_convolution(
    steps: tuple[Step, ...], blocks: tuple[int, ...], bias: bool
) -> None:
    drawing = before(steps, blocks=blocks, bias=bias)
    model = drawing.model(drawing.nodes[-1].output[0])
    met, rewritten = meet_image(model), same_numbers(model)
    assert operations(rewritten) == ["Conv", "Relu", "Conv", *["DepthToSpace"] * len(blocks)]
    assert [node for node in rewritten.graph.node if node.op_type == "Conv"][-1].output[0] in met.images


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_only_the_shuffle_of_torch_is_passed(mode: str) -> None:
    drawing = before((("x+c", MEAN),), blocks=(2,), mode=mode)
    rewritten = same_numbers(drawing.model(drawing.nodes[-1].output[0]))
    assert ("Add" in operations(rewritten)) == (mode == "DCR")


@pytest.mark.parametrize("steps", [REFUSED["a constant over it"], (("x*c", np.linspace(1, 2, 8)),)])
def test_other_steps_on_the_output_stay(steps: tuple[Step, ...]) -> None:
    drawing = before(steps)
    rewritten = same_numbers(drawing.model(drawing.nodes[-1].output[0]))
    assert operations(rewritten)[-1] == drawing.nodes[-2].op_type


def anchored(*, scale: int, enlarged: bool, order: Sequence[int] | None = None, clip: bool = False) -> onnx.ModelProto:
    """A graph that adds copies of the image: made by a convolution before the shuffle, or enlarged after it."""
    drawing = Drawing()
    square = scale**2
    value = drawing.conv(drawing.node("Relu", drawing.conv("lr", 4, 3)), 3 * square, 4)
    if enlarged:
        value = drawing.node("DepthToSpace", value, blocksize=scale, mode="CRD")
        scales = drawing.constant("scales", np.array([1, 1, scale, scale], np.float32))
        words = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        value = drawing.node("Add", value, drawing.node("Resize", "lr", "", scales, **words))
    else:
        sources = np.arange(3 * square) // square if order is None else np.array(order)
        copies = drawing.constant("copies", np.eye(3, dtype=np.float32)[sources][:, :, None, None])
        value = drawing.node("Add", value, drawing.node("Conv", "lr", copies, kernel_shape=[1, 1]))
        value = drawing.node("DepthToSpace", value, blocksize=scale, mode="CRD")
    if clip:
        bounds = [drawing.constant(name, np.array(bound, np.float32)) for name, bound in (("low", 0), ("high", 1))]
        value = drawing.node("Clip", value, *bounds)
    return drawing.model(value)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("enlarged", [False, True], ids=["convolved", "enlarged"])
@pytest.mark.parametrize("scale", [2, 3])
def test_copies_of_the_image_are_laid_side_by_side(scale: int, enlarged: bool, clip: bool) -> None:
    model = anchored(scale=scale, enlarged=enlarged, clip=clip)
    met, rewritten = meet_image(model), same_numbers(model)
    clips = ["Clip"] * clip
    assert operations(rewritten) == ["Conv", "Relu", "Conv", "Concat", "Add", *clips, "DepthToSpace"]
    (concat,) = (node for node in rewritten.graph.node if node.op_type == "Concat")
    assert list(concat.input) == ["lr"] * scale**2 and {"lr", concat.output[0]} <= met.images


def test_copies_in_another_order_stay() -> None:
    model = anchored(scale=2, enlarged=False, order=[0, 1, 2] * 4)
    assert operations(same_numbers(model)) == ["Conv", "Relu", "Conv", "Conv", "Add", "DepthToSpace"]


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_last_convolution_of_few_rows_comes_before_its_shuffle(block: int, pad: int) -> None:
    drawing = Drawing()
    value = drawing.node("Relu", drawing.conv("lr", 4 * block**2, 3))
    if block > 1:
        value = drawing.node("DepthToSpace", value, blocksize=block, mode="CRD")
    model = drawing.model(drawing.conv(value, 3, 4, pad=pad, bias=pad > 0))
    wide = widen_last_rows(meet_image(model))
    np.testing.assert_allclose(run(wide.model), run(model), rtol=1e-4, atol=1e-4)
    assert operations(wide.model) == ["Conv", "Relu", "Conv", *["DepthToSpace"] * (block > 1), "Slice"]
    (*_, last) = (node for node in wide.model.graph.node if node.op_type == "Conv")
    assert len(wide.constants[last.input[1]]) == {1: 16, 2: 16, 3: 27}[block] and last.output[0] in wide.images
