"""`--for qnn`: Qualcomm's NPU compiler takes every node of the files, and its emulation on a PC runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.registry import architecture, build
from compressor.runtimes.onnx_runtime import cpu_session
from export.formats.conversion import FileOptions
from export.hosts.qnn import qnn_refusals
from export.writing.exporting import Source
from tests.support.hosts import STUDENTS, enlarged, export_for_hosts, host_python, paths_of, photo, run_host

SIZE = (48, 32)
OTHERS = ("rcan",)

RUN = """
import sys
import numpy as np
import onnxruntime as ort
import onnxruntime_qnn as qnn
model, source, target = sys.argv[1:]
ort.register_execution_provider_library("QNNExecutionProvider", qnn.get_library_path())
devices = [device for device in ort.get_ep_devices() if device.ep_name == "QNNExecutionProvider"]
options = ort.SessionOptions()
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
# 57 is the Snapdragon 8 Gen 3; the images' own quantisation belongs to the NPU, too.
settings = {"backend_path": qnn.get_qnn_htp_path(), "soc_model": "57", "offload_graph_io_quantization": "0"}
options.add_provider_for_devices(devices, settings)
session = ort.InferenceSession(model, sess_options=options)
np.save(target, session.run(None, {session.get_inputs()[0].name: np.load(source)})[0])
"""


@pytest.mark.extras
@pytest.mark.parametrize("student", (*STUDENTS, *OTHERS))
def test_the_npu_runs_every_node(student: str, tmp_path: Path) -> None:
    """Without a fallback to the CPU the session opens only if the NPU takes the whole graph."""
    host_python("onnxruntime-qnn")
    network = (build(architecture(student).small, seed=1) if student in OTHERS else STUDENTS[student]()).eval()
    (folder,) = export_for_hosts(network, Source(student), ["qnn"], tmp_path, options=FileOptions(lr_size=SIZE))
    files = paths_of(folder)
    assert set(files) == {"qnn-w8a8", "qnn-w8a16"}
    lr = photo(*SIZE, channels=network.descriptor.channels)
    np.save(tmp_path / "lr.npy", lr.numpy())
    for name, path in files.items():
        run_host("onnxruntime-qnn", RUN, path, tmp_path / "lr.npy", tmp_path / "sr.npy")
        sr = np.load(tmp_path / "sr.npy")
        session = cpu_session(path, float_on_grids=True)
        (here,) = session.run(None, {session.get_inputs()[0].name: lr.numpy()})
        assert np.abs(sr - here).max() < {"qnn-w8a8": 6 / 255, "qnn-w8a16": 1 / 255}[name]
        image = sr[0].clip(0, 1).transpose(1, 2, 0)
        psnr = -10 * np.log10(np.square(image - enlarged(network, lr)).mean())
        assert psnr > {"qnn-w8a8": 38, "qnn-w8a16": 50}[name]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network = build(CompactSpec(2, width=8, depth=1), seed=0)
    (folder,) = export_for_hosts(
        network, Source("it"), ["qnn"], tmp_path_factory.mktemp("qnn"), options=FileOptions(lr_size=SIZE)
    )
    return paths_of(folder)


def test_types_are_those_that_qnn_takes(written: dict[str, Path]) -> None:
    """QNN-ExecutionProvider.md: values uint8 or uint16; quant_config.py: weights signed, a scale for each channel."""
    for name, kind in (("qnn-w8a8", TensorProto.UINT8), ("qnn-w8a16", TensorProto.UINT16)):
        graph = onnx.load(written[name]).graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        assert pairs and all(stored[node.input[2]].data_type == kind for node in pairs)
        dequantise = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
        for conv in (node for node in graph.node if node.op_type == "Conv"):
            integers, scales, zeros = (stored[part] for part in dequantise[conv.input[1]].input)
            assert integers.data_type == TensorProto.INT8 and len(numpy_helper.to_array(scales)) == integers.dims[0]
            assert not numpy_helper.to_array(zeros).any()
            assert stored[dequantise[conv.input[2]].input[0]].data_type == TensorProto.INT32
        (prelu, *_) = (node for node in graph.node if node.op_type == "PRelu")
        assert stored[dequantise[prelu.input[1]].input[0]].data_type == kind
        assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 3, SIZE[1], SIZE[0]]


def test_what_an_npu_does_not_take_is_found(written: dict[str, Path]) -> None:
    model = onnx.load(written["qnn-w8a8"])
    assert not list(qnn_refusals(model))
    loose, strange = (onnx.load(written["qnn-w8a8"]) for _ in range(2))
    conv = next(node for node in loose.graph.node if node.op_type == "Conv")
    conv.input[0] = "input"
    next(node for node in strange.graph.node if node.op_type == "PRelu").op_type = "Softsign"
    for changed, reason in ((loose, "not quantised"), (strange, "it has no Softsign")):
        assert any(reason in found for found in qnn_refusals(changed))


def test_sixteen_bits_are_nearer_to_the_network(written: dict[str, Path]) -> None:
    network: Network = build(CompactSpec(2, width=8, depth=1), seed=0).eval()
    lr, errors = photo(*SIZE), {}
    for name, path in written.items():
        session = cpu_session(path, float_on_grids=True)
        (sr,) = session.run(None, {session.get_inputs()[0].name: lr.numpy()})
        errors[name] = np.square(sr[0].clip(0, 1).transpose(1, 2, 0) - enlarged(network, lr)).mean()
    assert errors["qnn-w8a16"] < errors["qnn-w8a8"]
