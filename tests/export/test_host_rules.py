"""Files that other programs are to take satisfy the rules that stand in those programs' sources.

FFmpeg itself is not run: Debian's has no backend for ONNX. tests/hosts/test_vapoursynth.py runs vs-mlrt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from compressor.inference.open import open_model
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from export.formats.conversion import FileOptions
from tests.support.exports import export_file

NAMES = ("input", "output")
SPECS = (EDSRSpec(width=8, depth=1, scale=2), CompactSpec(width=8, depth=1, scale=4, channels=1))


@pytest.fixture(scope="module", params=SPECS, ids=lambda spec: spec.arch)
def network(request: pytest.FixtureRequest) -> Network:
    spec: Spec = request.param
    return build(spec, seed=0)


def file_of(network: Network, name: str, folder: Path, options: FileOptions | None = None) -> Path:
    path = export_file(network, name, folder, options).path
    assert path is not None
    return path


def ffmpeg_refuses(path: Path, name: str, output: str) -> str | None:
    """What FFmpeg's `libavfilter/dnn/dnn_backend_onnx.c` (master, 2026) says to a file; None if it takes it."""
    session = onnxruntime.InferenceSession(str(path))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:  # dnn_load_model_onnx
        return "the ONNX backend supports single-input models only"
    if inputs[0].name != name:  # get_input_onnx, and the next three
        return "input name not found in ONNX model"
    if len(inputs[0].shape) != 4:
        return "support for other than 4 dimensional input"
    if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] > 1:
        return "ONNX model has fixed batch size"
    if inputs[0].type != "tensor(float)":
        return "unsupported input tensor data type, only float is supported"
    if output not in [value.name for value in outputs]:  # onnx_start_inference
        return "output name not found in ONNX model"
    if outputs[0].type != "tensor(float)":  # infer_completion_callback
        return "unsupported output tensor data type, only float supported"
    return None


def test_ffmpeg_takes_the_float32_file(network: Network, tmp_path: Path) -> None:
    """`dnn_processing=dnn_backend=onnx:model=F:input=input:output=output`: bytes / 255 in N,C,H,W, result x 255."""
    path = file_of(network, "onnx", tmp_path)
    assert ffmpeg_refuses(path, *NAMES) is None
    session = onnxruntime.InferenceSession(str(path))
    assert not any(isinstance(side, int) for side in session.get_inputs()[0].shape[2:]), "a frame of any size"
    channels, scale = network.descriptor.channels, network.descriptor.scale
    frame = np.random.default_rng(0).integers(0, 256, (1, channels, 18, 32), dtype=np.uint8)
    (sr,) = session.run(["output"], {"input": frame.astype(np.float32) / 255})
    assert sr.shape == (1, channels, 18 * scale, 32 * scale)
    ours = open_model(path).run(torch.from_numpy(frame).float() / 255)
    assert np.abs(sr - ours.numpy()).max() * 255 < 0.01


def test_ffmpeg_takes_no_other_images(network: Network, tmp_path: Path) -> None:
    assert "only float" in str(ffmpeg_refuses(file_of(network, "fp16", tmp_path, FileOptions(io="fp16")), *NAMES))
    assert "only float" in str(ffmpeg_refuses(file_of(network, "onnx", tmp_path, FileOptions(io="uint8")), *NAMES))
    assert ffmpeg_refuses(file_of(network, "fp16", tmp_path), *NAMES) is None


@pytest.mark.parametrize(("name", "io"), [("onnx", "float"), ("fp16", "float"), ("fp16", "fp16")])
def test_vs_mlrt_takes_the_file(network: Network, tmp_path: Path, name: str, io: str) -> None:
    """vs-mlrt 3.23: `checkIOInfo` and `checkNodesAndNetwork` in vsort/vs_onnxruntime.cpp, `specifyShape` in
    common/onnx_utils.cpp, and `input_name="input"` of the TensorRT path in scripts/vsmlrt.py."""
    model = onnx.load_model(str(file_of(network, name, tmp_path, FileOptions(io=io))))  # type: ignore[arg-type]
    (source,), (target,) = model.graph.input, model.graph.output
    assert source.name == "input"
    for value in (source, target):
        assert value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        assert len(value.type.tensor_type.shape.dim) == 4
    assert source.type.tensor_type.shape.dim[1].dim_value in (1, 3)
    tile = (1, network.descriptor.channels, 48, 64)
    for dim, length in zip(source.type.tensor_type.shape.dim, tile, strict=True):
        dim.dim_value = length
    target.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    (inferred,) = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
    scale = network.descriptor.scale
    sides = [dim.dim_value for dim in inferred.type.tensor_type.shape.dim]
    assert sides[2:] == [48 * scale, 64 * scale], "the output is a whole multiple of the tile"
