"""Count of the nodes that a runtime really computes with integers, from its own graph of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.networks.base import Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.runtimes import onnx_runtime
from compressor.runtimes.table import OpenOptions
from export.formats.conversion import FileOptions, Int8Options
from export.formats.proof_inputs import ProofInput
from export.formats.table import find_formats
from export.proof.integer_nodes import IntegerNodes, count_integer_nodes
from export.proof.speed import Int8Speed
from export.timing.turns import SpeedUp
from export.writing import exporting
from export.writing.exporting import prove
from tests.support.exports import unproved_file
from tests.support.onnx_files import model_of

RELU, PRELU = EDSRSpec(width=8, depth=2, scale=2), CompactSpec(scale=2, width=8, depth=3)
UNBOUNDED = FileOptions(int8=Int8Options(max_drop=None))
pytestmark = pytest.mark.usefixtures("quick_int8")
MIXED = IntegerNodes(29, 8, {"PRelu": 17, "Softmax": 4}, 12)


def written(spec: Spec, folder: Path, name: str = "int8") -> Path:
    return unproved_file(build(spec, seed=1), name, folder, UNBOUNDED)[0]


def counted(path: Path, runtime: str | None = None) -> IntegerNodes:
    return count_integer_nodes(open_model(path, OpenOptions(runtime=runtime)), path)


@pytest.mark.ci
def test_all_layers_of_a_network_with_relus_compute_in_integers(tmp_path: Path) -> None:
    nodes = counted(written(RELU, tmp_path))
    # Eight convolutions, the sums of two blocks and that of the body.
    assert nodes.nodes_in_int8 == 8 + 3
    assert "Conv" not in nodes.in_float
    assert nodes.nodes == nodes.nodes_in_int8 + sum(nodes.in_float.values())
    assert nodes.conversions == 2


@pytest.mark.ci
def test_prelus_fall_back_to_float_between_conversions(tmp_path: Path) -> None:
    nodes = counted(written(PRELU, tmp_path))
    assert nodes.in_float["PRelu"] == 4
    assert next(iter(nodes.in_float)) == "PRelu"  # the most first
    assert nodes.nodes_in_int8 == 5 + 2  # the convolutions, and the image enlarged and added
    assert nodes.conversions >= 8
    assert "7 of 11 nodes compute in integers, PRelu 4 in float" in str(nodes)


@pytest.mark.ci
@pytest.mark.parametrize("spec", [PlainSpec(width=8, depth=2), CompactSpec(2, width=8, depth=2, act="relu")], ids=str)
def test_students_for_phones_compute_in_integers_from_end_to_end(spec: Spec, tmp_path: Path) -> None:
    nodes = counted(written(spec, tmp_path))
    assert nodes.nodes_in_int8 == nodes.nodes == spec.depth + 4  # type: ignore[attr-defined]
    assert nodes.conversions == 2  # the float images at both ends


def test_moving_bytes_and_sizes_is_no_computation(tmp_path: Path) -> None:
    """Integer sizes and operators that only move values are not counted; a cast to bytes is a conversion."""
    model = model_of(
        """mixed (float[n, 3, h, w] lr) => (float[n, 3, H, W] sr)
        <int64[4] factors = {1, 1, 2, 2}, float[1] scale = {255.0}, uint8[1] dark = {3}> {
            shape = Shape(lr)
            size = Mul(shape, factors)
            large = Mul(lr, scale)
            bytes = Cast <to = 2> (large)
            turned = Transpose <perm = [0, 1, 3, 2]> (bytes)
            raised = Max(turned, dark)
            back = Transpose <perm = [0, 1, 3, 2]> (raised)
            floats = Cast <to = 1> (back)
            sr = Resize <mode = "nearest"> (floats, , , size)
        }"""
    )
    path = tmp_path / "mixed.onnx"
    onnx.save_model(model, str(path))
    assert counted(path) == IntegerNodes(3, 1, {"Mul": 1, "Resize": 1}, 2)


@pytest.mark.ci
def test_openvino_shows_what_it_executes(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    nodes = counted(written(PRELU, tmp_path), "openvino")
    assert nodes.in_float == {"PRelu": 4} and nodes.nodes_in_int8 >= 5
    nodes = counted(written(PRELU, tmp_path, "openvino"))
    assert nodes.nodes_in_int8 == 0 and nodes.in_float["Convolution"] == 5


def test_a_runtime_that_shows_no_graph_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(RELU, tmp_path, "onnx")
    model = open_model(path)
    monkeypatch.setattr(type(model), "name", "ncnn")
    assert count_integer_nodes(model, path) is None


@pytest.mark.parametrize("native", [True, False])
def test_a_file_that_is_not_faster_says_what_runs_in_float(native: bool) -> None:
    slower, faster = SpeedUp(0.5, 0.4, 0.6), SpeedUp(2.0, 1.9, 2.1)
    verdict = str(Int8Speed(20.0, 10.0, slower, "onnxruntime", (64, 64), 1, MIXED, native))
    words = "8 of 29 nodes compute in integers, PRelu 17, Softmax 4 in float, with 12 conversions between both"
    assert words in verdict
    assert ("neither VNNI nor dot products" in verdict) is not native
    assert "PRelu" not in str(Int8Speed(10.0, 20.0, faster, "onnxruntime", (64, 64), 1, MIXED, native))


def test_a_good_file_is_kept_where_its_graph_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SrkdError("onnxruntime does not show its graph")

    notes: list[str] = []
    monkeypatch.setattr(exporting, "count_integer_nodes", refuse)
    (row,), network, path = find_formats(["int8"]), build(RELU, seed=1), written(RELU, tmp_path)
    grey = ProofInput("grey", torch.full((1, 3, 24, 20), 0.5), flat=True)
    proof = prove(row, path, network, [grey], UNBOUNDED, Context(note=notes.append))
    assert proof.reason is None and proof.speed is not None and proof.speed.integer_nodes is None
    assert notes == ["onnxruntime does not show its graph"]


def test_what_a_runtime_cannot_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(RELU, tmp_path, "onnx")
    model = open_model(path)

    def fail(_: Path) -> Callable[[], None]:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(onnx_runtime, "executed_nodes", fail)
    with pytest.raises(SrkdError, match=r"small.onnx: onnxruntime does not show its graph.*first$"):
        count_integer_nodes(model, path)
