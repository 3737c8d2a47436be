"""Half precision and the other options of ONNX files: bytes, one size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper

import srkd
from compressor.inference.open import open_model
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime
from export.convert import to_onnx
from export.convert.to_half import to_half
from export.convert.to_onnx import write_graph
from export.formats.conversion import CannotConvert, Conversion, FileOptions
from export.formats.proof_inputs import proof_inputs
from export.formats.table import FORMATS, Bounds
from export.graph.onnx_graph import build_graph
from export.profile.report import profile_models
from export.profile.settings import ProfileSettings
from export.proof.verify import verify
from tests.support.exports import export_file
from tests.support.networks import changed

SPEC = EDSRSpec(width=8, depth=1, scale=4)
LR = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))
KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def graphs(network: Network) -> Callable[[int], ModelProto]:
    """A function that copies the network's graph at an opset, which is traced once."""
    originals = {opset: build_graph(copy.deepcopy(network), None, opset) for opset in (18, 22)}
    return lambda opset: copy.deepcopy(originals[opset])


@pytest.mark.ci
@pytest.mark.parametrize(("format", "least", "opset"), [("fp16", 70.0, 18), ("bf16", 50.0, 22)])
def test_half_precision_is_near_and_half_the_size(
    network: Network, tmp_path: Path, format: str, least: float, opset: int
) -> None:
    file = export_file(network, format, tmp_path)
    assert file.verdict == "passed" and file.path is not None and file.path.name == f"small.{format}.onnx"
    assert file.parity is not None and file.parity.psnr is not None and least <= file.parity.psnr < 120
    assert file.parity.max_abs <= 0.1 and file.facts["opset"] == opset
    model = onnx.load_model(str(file.path))
    wide = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[0] > 1]
    assert wide and {tensor.data_type for tensor in wide} == {KINDS[format]}
    kinds = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert kinds == [TensorProto.FLOAT] * 2
    runtime = open_model(file.path)
    assert (runtime.precision, runtime.spec) == (format, SPEC)
    assert 1e-7 < (runtime.run(LR) - network(LR)).abs().max() < (2e-3 if format == "fp16" else 2e-2)


def test_the_mean_shift_stays_in_float32(network: Network, graphs: Callable[[int], ModelProto]) -> None:
    model = graphs(18)
    to_half(model, TensorProto.FLOAT16)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in inferred.graph.output}
    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        shifted = node.name.startswith(("sub_mean/", "add_mean/"))
        assert {kinds[name] for name in node.output} == {TensorProto.FLOAT if shifted else TensorProto.FLOAT16}
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 2


def test_a_weight_that_fp16_cannot_hold_is_refused_and_not_clamped(graphs: Callable[[int], ModelProto]) -> None:
    model = graphs(18)
    for tensor in model.graph.initializer:
        if tensor.name == "tail.weight":
            values = numpy_helper.to_array(tensor).copy()
            values.flat[5] = 70_000.0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(CannotConvert, match=r"tail/conv2d_6 has 7e\+04"):
        to_half(copy.deepcopy(model), TensorProto.FLOAT16)
    to_half(model, TensorProto.BFLOAT16)


def test_what_no_half_precision_is_known_for_stays_in_float32(tmp_path: Path) -> None:
    """Scales of Resize are float32 in any case, and an operator without half is surrounded by casts."""
    graph = onnx.parser.parse_graph(
        """g (float[n, 3, h, w] lr) => (float[n, 3, H, W] sr)
        <float[4] scales = {1.0, 1.0, 2.0, 2.0}, float[1] one = {1.0}> {
            up = Resize <mode = "nearest"> (lr, , scales)
            big = Add(up, one)
            odd = Celu(big)
            sr = Sub(odd, one)
        }"""
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 18)])
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"lr": LR.numpy()})[0]
    to_half(model, TensorProto.FLOAT16)
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {"scales": TensorProto.FLOAT, "one.half": TensorProto.FLOAT16}
    casts = [node.output[0] for node in model.graph.node if node.op_type == "Cast"]
    assert casts == ["lr.half", "big.float", "odd.half", "sr"], "Celu knows float32 only"
    actual = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"lr": LR.numpy()})[0]
    np.testing.assert_allclose(actual, expected, atol=2e-3)


def test_bytes_in_bytes_out(network: Network, graphs: Callable[[int], ModelProto], tmp_path: Path) -> None:
    path = tmp_path / "u.onnx"
    write_graph(Conversion(network, path, {}, FileOptions(io="uint8")), graphs(18))
    session = onnxruntime.InferenceSession(str(path))
    lr_u8 = (LR * 255).round().to(torch.uint8)
    (sr_u8,) = session.run(["output"], {"input": lr_u8.permute(0, 2, 3, 1).numpy()})
    assert sr_u8.dtype == np.uint8 and sr_u8.shape == (2, 28, 36, 3)
    exact = network(lr_u8.float() / 255).clamp(0, 1) * 255
    assert (torch.from_numpy(sr_u8).permute(0, 3, 1, 2).float() - exact).abs().max() <= 0.5 + 1e-3
    runtime = open_model(path)
    assert torch.equal(runtime.run(lr_u8.float() / 255).mul(255).round(), torch.from_numpy(sr_u8).permute(0, 3, 1, 2))


@pytest.mark.ci
def test_what_leaves_the_range_is_clamped_inside(network: Network, tmp_path: Path) -> None:
    bright = changed(network, "tail.bias", lambda bias: bias + torch.tensor([300.0, -300.0, 0.0]))
    file = export_file(bright, "onnx", tmp_path, FileOptions(io="uint8"))
    assert file.verdict == "passed" and str(file.path).endswith("small-uint8.onnx")
    assert file.facts["input"] == "input uint8 n x h x w x 3"
    sr = open_model(tmp_path / "small-uint8.onnx").run(LR)
    assert sr[:, 0].min() == 1 and sr[:, 1].max() == 0 and 0 < sr[:, 2].mean() < 1


@pytest.mark.ci
def test_bytes_of_another_size_fail_the_proof(
    network: Network, graphs: Callable[[int], ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one level is detected, although a file of bytes may round."""

    def convert(job: Conversion) -> dict[str, object]:
        graph = graphs(18)
        for tensor in graph.graph.initializer:
            if tensor.name == "tail.bias":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1.0), tensor.name))
        return dict(write_graph(job, graph))

    monkeypatch.setattr(to_onnx, "convert", convert)
    file = export_file(network, "onnx", tmp_path, FileOptions(io="uint8"))
    assert file.verdict == "failed" and "by 0.00" in str(file.reason)
    assert list(tmp_path.iterdir()) == []


def test_the_distance_of_bytes_is_that_of_what_was_rounded(network: Network) -> None:
    """Noise of a twelfth of a level gives 70 dB, whether the file rounds or not."""

    reference = TorchRuntime(network, label="network").run
    generator = torch.Generator().manual_seed(0)

    def noisy(lr: torch.Tensor) -> torch.Tensor:
        sr = reference(lr)
        return sr + torch.randn(sr.shape, generator=generator) * 10**-3.5

    def rounded(lr: torch.Tensor) -> torch.Tensor:
        return noisy(lr).clamp(0, 1).mul(255).round().div(255)

    inputs = [source for source in proof_inputs(network.descriptor) if source.photo]
    for io, file in (("float", noisy), ("uint8", rounded)):
        proof = verify(file, reference, inputs, Bounds(0.1), io=io)  # type: ignore[arg-type]
        assert proof.reason is None and proof.parity is not None and proof.parity.psnr == pytest.approx(70, abs=0.3)


@pytest.mark.ci
def test_all_choices_at_once(network: Network, tmp_path: Path) -> None:
    file = export_file(network, "fp16", tmp_path, FileOptions(lr_size=(16, 12), io="uint8"))
    assert file.verdict == "passed" and str(file.path).endswith("small-16x12-uint8.fp16.onnx")
    runtime = open_model(str(file.path))
    assert runtime.descriptor.fixed_size == (16, 12) and runtime.run(torch.rand(2, 3, 12, 16)).shape == (2, 3, 48, 64)


def test_profile_says_where_a_time_means_nothing(network: Network, tmp_path: Path) -> None:
    file = export_file(network, "bf16", tmp_path).path
    settings = ProfileSettings(lr_sizes=((8, 8),), seconds=0.1, memory=False, quality=False, threads=1)
    result = profile_models([file], settings=settings)
    assert [(row.runtime, row.precision) for row in result.rows] == [("onnxruntime", "bf16")]
    assert any("bf16 is computed in float32 here and rounded" in note for note in result.notes)


@pytest.mark.parametrize(
    ("spec", "casts"), [(SPEC, 4), (CompactSpec(width=8, depth=1, scale=2), 0)], ids=["shifted", "plain"]
)
def test_images_in_fp16(spec: Spec, casts: int, tmp_path: Path) -> None:
    """Input and output are float16; only the two mean shifts, which stay in float32, have casts around them."""
    network = build(spec, seed=0).requires_grad_(False)
    file = export_file(network, "fp16", tmp_path, FileOptions(io="fp16"))
    assert file.verdict == "passed" and file.path == tmp_path / "small-fp16io.fp16.onnx", file.reason
    assert file.parity is not None and file.parity.psnr is not None and file.parity.psnr >= 60
    assert file.facts["input"] == "input float16 n x 3 x h x w"
    model = onnx.load_model(str(file.path))
    kinds = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert kinds == [TensorProto.FLOAT16] * 2
    assert sum(node.op_type == "Cast" for node in model.graph.node) == casts
    assert "float16" in model.graph.input[0].doc_string
    session = onnxruntime.InferenceSession(str(file.path))
    (sr,) = session.run(None, {"input": LR.half().numpy()})
    assert sr.dtype == np.float16
    expected = network(LR)
    assert np.abs(sr - expected.numpy()).max() < 4e-3
    runtime = open_model(file.path)
    ours = runtime.run(LR)
    assert runtime.precision == "fp16" and ours.dtype == torch.float32
    assert torch.equal(ours, torch.from_numpy(sr).float())
    picture = srkd.upscale(file.path, LR)
    assert isinstance(picture, torch.Tensor) and (picture - expected.clamp(0, 1)).abs().max() < 6e-3


def test_the_rounding_of_the_image_is_emulated_too(network: Network, tmp_path: Path) -> None:
    """On a GPU the image itself has been rounded; so it is where half precision is emulated."""
    file = export_file(network, "fp16", tmp_path, FileOptions(io="fp16"))
    runtime = open_model(file.path, OpenOptions(emulate_target=True))
    assert runtime.emulated
    ours = runtime.run(LR)
    assert torch.equal(ours, runtime.run(LR.half().float())) and torch.equal(ours, ours.half().float())


def test_an_output_in_fp16_needs_headroom(graphs: Callable[[int], ModelProto]) -> None:
    """The mean shift is added in float32, so only a float16 image can leave the range behind it."""
    assert "output" not in to_half(graphs(18), TensorProto.FLOAT16)
    assert "output" in to_half(graphs(18), TensorProto.FLOAT16, images=True)


def test_only_the_fp16_file_has_such_images(network: Network, tmp_path: Path) -> None:
    options = FileOptions(io="fp16")
    assert [name for name, row in FORMATS.items() if row.unsupported_option(options) is None] == ["fp16"]
    file = export_file(network, "bf16", tmp_path, options)
    assert file.verdict == "unavailable" and list(tmp_path.iterdir()) == []
    assert file.reason == "ONNX with bf16 inside has no --io fp16: take --fp16"
