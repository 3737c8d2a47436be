"""`--for tensorrt`: files that TensorRT 11 builds without a switch, and the command. TensorRT itself is not run."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import build
from compressor.runtimes.onnx_runtime import cpu_session
from export.writing.exporting import HostFolder, Source
from tests.support.hosts import STUDENTS, enlarged, export_for_hosts, photo

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16)
GONE = ("--fp16", "--int8", "--bf16", "--fp8", "--int4", "--best", "--calib")
"""Options that trtexec 11 does not have (NVIDIA, Migrating trtexec Usage from TensorRT 10.x to 11.x)."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> HostFolder:
    network = build(CompactSpec(4, width=8, depth=2), seed=1)
    (host,) = export_for_hosts(network, Source("net"), ["tensorrt"], tmp_path_factory.mktemp("out"))
    assert host.folder is not None, host.reason
    return host


def model(written: HostFolder, name: str) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(onnx.load_model(str(written.folder / name)), strict_mode=True)


@pytest.mark.ci
@pytest.mark.parametrize(("name", "images"), [("4x-net.fp16.onnx", "float"), ("4x-net-fp16io.fp16.onnx", "fp16")])
def test_all_between_the_images_is_fp16(written: HostFolder, name: str, images: str) -> None:
    """A strongly typed network computes in the types of its tensors, so a float32 one would stay float32."""
    graph = model(written, name).graph
    ends = {graph.input[0].name, graph.output[0].name}
    kind = TensorProto.FLOAT if images == "float" else TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {kind}
    inside = [value for value in graph.value_info if value.name not in ends]
    assert inside and not [value.name for value in inside if value.type.tensor_type.elem_type in FLOATS]
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert weights and all(tensor.data_type == TensorProto.FLOAT16 for tensor in weights)


@pytest.mark.ci
def test_the_command_has_no_option_that_11_lacks(written: HostFolder) -> None:
    text = (written.folder / "README.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("- Call: "))
    words = shlex.split(line.removeprefix("- Call: ").strip("`"))
    assert words[0] == "trtexec" and not [word for word in words if word.split("=")[0] in GONE]
    values = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    onnx_file = written.folder / values["--onnx"]
    (source,) = onnx.load_model(str(onnx_file)).graph.input
    for name in ("--minShapes", "--optShapes", "--maxShapes"):
        tensor, shape = values[name].split(":")
        assert tensor == source.name and [int(side) for side in shape.split("x")][:2] == [1, 3]


@pytest.mark.ci
@pytest.mark.parametrize(
    "student", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("edsr", "span"))) for name in STUDENTS]
)
def test_onnx_runtime_gives_the_networks_image(student: str, tmp_path: Path) -> None:
    """The types are those in the files; on eight bits ONNX Runtime and TensorRT agree by their sources only."""
    network = STUDENTS[student]().eval()
    (host,) = export_for_hosts(network, Source("net"), ["tensorrt"], tmp_path)
    assert host.folder is not None, host.reason
    lr = photo(channels=network.descriptor.channels)
    expected = enlarged(network, lr)
    for file in host.files:
        if file.format == "trt":
            continue
        session = cpu_session(file.path)
        (source,) = session.get_inputs()
        kind = np.float16 if source.type == "tensor(float16)" else np.float32
        (sr,) = session.run(None, {source.name: lr.numpy().astype(kind)})
        image = sr[0].astype(np.float32).transpose(1, 2, 0).clip(0, 1)
        if file.format == "int8-trt":
            assert -10 * np.log10(np.square(image - expected).mean()) > 38
        else:
            assert np.abs(image - expected).max() <= 1 / 255
    assert [file.format for file in host.files][:2] == ["fp16", "fp16"]
