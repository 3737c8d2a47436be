"""ONNX files of strangers that never end or crash: tried in a child process, reported as one line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.base.errors import SrkdError
from compressor.base.isolation import Limits
from compressor.inference.open import open_model
from compressor.runtimes.onnx_runtime import try_file
from compressor.teachers.teacher import load_teacher

Weights: TypeAlias = dict[str, Any]


def save(path: Path, nodes: list[onnx.NodeProto], weights: Weights) -> Path:
    """Write a model of one image of any size, `lr`, and its enlargement, `sr`."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, None, None]) for name in ("lr", "sr")]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "stranger", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def enlarge(weights: Weights, block: int = 2) -> list[onnx.NodeProto]:
    weights["w"] = np.full((12, 3, 1, 1), 0.3, dtype=np.float32)
    return [
        helper.make_node("Conv", ["lr", "w"], ["features"]),
        helper.make_node("DepthToSpace", ["features"], ["large"], blocksize=block, mode="CRD"),
    ]


def test_a_loop_without_end_is_one_line(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Add", ["x", "x"], ["x_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", TensorProto.FLOAT, None),
        ],
    )
    weights: Weights = {}
    nodes = [
        *enlarge(weights),
        helper.make_node("Constant", [], ["trips"], value=numpy_helper.from_array(np.array(2**62))),
        helper.make_node("Constant", [], ["true"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("Loop", ["trips", "true", "large"], ["sr"], body=body),
    ]
    path, began = save(tmp_path / "loop.onnx", nodes, weights), time.monotonic()
    with pytest.raises(SrkdError, match=r"loop\.onnx: it took over 8 s.*limits=4"):
        try_file(path, Limits(seconds=8))
    assert time.monotonic() - began < 40


def test_a_block_size_that_ends_the_process_is_one_line(tmp_path: Path) -> None:
    weights: Weights = {}
    nodes = [*enlarge(weights, 2**40), helper.make_node("Identity", ["large"], ["sr"])]
    path = save(tmp_path / "block.onnx", nodes, weights)
    for open_file in (open_model, load_teacher):
        with pytest.raises(SrkdError, match=r"block\.onnx"):
            open_file(path)


def test_a_pooling_block_that_ends_the_process_on_small_images_is_padded(tmp_path: Path) -> None:
    """As in BSRN and RLFN: ONNX Runtime divides by zero where the pooled map is smaller than the window."""
    weights: Weights = {}
    nodes = [
        *enlarge(weights),
        helper.make_node("Conv", ["lr", "w3"], ["half"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("MaxPool", ["half"], ["pooled"], kernel_shape=[7, 7], strides=[3, 3]),
        helper.make_node("GlobalAveragePool", ["pooled"], ["mean"]),
        helper.make_node("Add", ["large", "mean"], ["sr"]),
    ]
    weights["w3"] = np.full((3, 3, 3, 3), 0.01, dtype=np.float32)
    path = save(tmp_path / "pools.onnx", nodes, weights)
    teacher = load_teacher(path)
    least = teacher.model.facts.descriptor.min_size  # type: ignore[attr-defined]
    assert 9 <= least <= 16
    assert teacher(torch.rand(1, 3, 5, 20)).shape == (1, 3, 10, 40)
    assert open_model(path).descriptor.min_size == least
