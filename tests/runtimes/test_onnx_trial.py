"""Untrusted ONNX files that never end or crash: tried in a child process, reported as one line."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.base.child import Child, ResourceLimits, StartChild, children_started_by
from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.runtimes.onnx_runtime import try_content
from compressor.teachers.teacher import load_teacher
from tests.support.children import RunWhenAsked

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


@pytest.mark.ci
def test_a_loop_without_end_is_one_line(tmp_path: Path, real_children: None) -> None:
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
    path = save(tmp_path / "loop.onnx", nodes, weights)
    with pytest.raises(SrkdError, match=r"loop\.onnx: .*--limits 4"):
        try_content(path.read_bytes(), path, ResourceLimits(seconds=8))


@pytest.mark.ci
def test_a_block_size_that_ends_the_process_is_one_line(tmp_path: Path, real_children: None) -> None:
    weights: Weights = {}
    nodes = [*enlarge(weights, 2**40), helper.make_node("Identity", ["large"], ["sr"])]
    path = save(tmp_path / "block.onnx", nodes, weights)
    for open_file in (open_model, load_teacher):
        with pytest.raises(SrkdError, match=r"block\.onnx"):
            open_file(path)


@pytest.mark.ci
def test_a_pooling_block_that_ends_the_process_on_small_images_is_padded(tmp_path: Path, real_children: None) -> None:
    """As in BSRN and RLFN: ONNX Runtime divides by zero if the pooled map is smaller than the window."""
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


def plain(weight: float, path: Path, scale: int = 2) -> Path:
    """Write a model whose every output pixel is the sum of three inputs times `weight`."""
    weights: Weights = {"w": np.full((3 * scale**2, 3, 1, 1), weight, dtype=np.float32)}
    nodes = [
        helper.make_node("Conv", ["lr", "w"], ["features"]),
        helper.make_node("DepthToSpace", ["features"], ["sr"], blocksize=scale, mode="CRD"),
    ]
    return save(path, nodes, weights)


def split(path: Path) -> Path:
    """Move the weights to a second file."""
    model = onnx.load_model(str(path))
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("open_file", [open_model, load_teacher])
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_the_bytes_that_were_tried_are_the_ones_that_run(
    open_file: Callable[[Path], Any],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick_children: StartChild,
) -> None:
    """An attacker with write access to the folder swaps the files while the child process tries them."""
    tmp_path = tmp_path / "own"  # not srkd's cache
    tmp_path.mkdir()
    path = plain(0.25, tmp_path / "good.onnx")
    other = tmp_path / "other"
    other.mkdir()
    plain(0.125, other / "good.onnx")
    if place == "beside":
        for file in (path, other / "good.onnx"):
            split(file)
    swapped = []

    def start_and_swap(*arguments: Any, **options: Any) -> Child:
        values = quick_children(*arguments, **options).result()
        for file in other.iterdir():
            file.replace(tmp_path / file.name)
            swapped.append(file.name)
        return RunWhenAsked(lambda: values)

    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "untried"))
    with children_started_by(start_and_swap):
        model = open_file(path)
    assert "good.onnx" in swapped and ("weights.bin" in swapped) == (place == "beside")
    run = model if callable(model) else model.run
    assert float(run(torch.ones(1, 3, 4, 4)).mean()) == pytest.approx(0.75)


def test_names_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    """ONNX Runtime opens the file, but its Python names fail."""
    path = plain(0.25, tmp_path / "names.onnx")
    path.write_bytes(path.read_bytes().replace(b"lr", b"l\xee"))
    with pytest.raises(SrkdError, match=r"names\.onnx is not a") as caught:
        open_model(path)
    assert "limits" not in str(caught.value)


def test_many_tensors_of_the_same_bytes_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = split(plain(0.25, tmp_path / "many.onnx"))
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate(64 * 2**20)
    model = onnx.load_model(str(path), load_external_data=False)
    tensor = model.graph.initializer[0]
    entries = {"location": "weights.bin", "offset": "0", "length": str(64 * 2**20)}
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.extend([tensor] * 100)
    path.write_bytes(model.SerializeToString())
    tracemalloc.start()
    with pytest.raises(SrkdError, match=r"many\.onnx has 6,7\d\d,\d{3},\d{3} bytes with its weights, more than 2,147"):
        open_model(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
