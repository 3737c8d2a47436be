"""ONNX Runtime: device names, tensors in device memory, rounded results, and weights in a second file."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.base.errors import SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.models.networks.base import Network
from compressor.runtimes.onnx_providers import CPU, CUDA, select_providers
from compressor.runtimes.onnx_runtime import OnnxRuntime
from compressor.runtimes.table import OpenOptions, torch_device_for
from srkd.options.values import DEVICE

LR = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))


def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an ONNX Runtime built for NVIDIA's GPUs."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])


@pytest.mark.parametrize("device", ["warp", "cuda:x", "cpu:0", "openvino", ""])
def test_a_device_that_means_nothing(device: str) -> None:
    with pytest.raises(UsageError, match=rf"'{device}'.* cpu and cuda"):
        select_providers(device)


def test_a_provider_that_is_not_installed_is_named_with_the_command(exported: Path) -> None:
    with pytest.raises(SrkdError, match="pip install onnxruntime-gpu;") as caught:
        OnnxRuntime(exported, OpenOptions(device="cuda"))
    assert "\n" not in str(caught.value)


class Session:
    """A session of a simulated ONNX Runtime with other providers; it computes on the CPU."""

    real = onnxruntime.InferenceSession

    def __init__(self, model: Any, options: Any, providers: list[tuple[str, dict[str, str]]], **others: Any) -> None:
        self.providers = providers
        self.inner = Session.real(model, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_session_is_opened_with_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, exported: Path, network: Network
) -> None:
    with_cuda(monkeypatch)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    runtime = open_model(exported, OpenOptions(device="cuda:1"))
    providers = runtime._session.providers  # type: ignore[attr-defined]
    assert providers == [(CUDA, {"device_id": "1", "use_tf32": "0"}), (CPU, {})] and runtime.device == "cuda:1"
    torch.testing.assert_close(runtime.run(LR), network(LR), atol=1e-6, rtol=0)


def test_a_provider_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    class Fallen(Session):
        def get_providers(self) -> list[str]:
            return [CPU]

    with_cuda(monkeypatch)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(SrkdError, match="CUDAExecutionProvider did not"):
        OnnxRuntime(exported, OpenOptions(device="cuda"))


def test_bound_tensors_give_the_same(exported: Path, network: Network) -> None:
    """Tested on the CPU, with the calls used for a GPU."""
    runtime = OnnxRuntime(exported)
    plain = runtime.run(LR)
    runtime._gpu = torch.device("cpu")
    assert torch.equal(runtime.run(LR), plain)
    assert torch.equal(runtime.run(LR.transpose(2, 3)), OnnxRuntime(exported).run(LR.transpose(2, 3)))
    with pytest.raises(SrkdError, match=r"small: ONNX Runtime .*\(2, 3, 7, 9\)"):
        runtime._scale = 2
        runtime.run(LR)


@pytest.mark.parametrize(("word", "torchs"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("openvino:GPU", "cpu")])
def test_where_torch_stands_beside_it(word: str, torchs: str) -> None:
    assert torch_device_for(word) == torchs and DEVICE.read(word) == word


def image_model(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray[Any, Any]], kind: int, shape: list[object]
) -> Path:
    """Write a model with input `x` and output `y`, images of an element type and shape."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 22)])
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))
    return path


def two_convolutions(path: Path, gain: float, kind: int) -> Path:
    """Write a model that multiplies by `gain` and back, in half precision inside and float32 outside."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = {
        "up": np.full((3, 3, 1, 1), gain, np.float32).astype(dtype),
        "down": np.full((3, 3, 1, 1), 1 / (9 * gain), np.float32).astype(dtype),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=kind),
        helper.make_node("Conv", ["half", "up"], ["large"]),
        helper.make_node("Conv", ["large", "down"], ["small"]),
        helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
    ]
    return image_model(path, nodes, weights, TensorProto.FLOAT, ["n", 3, "h", "w"])


def test_an_overflow_of_fp16_is_seen_where_results_are_rounded(tmp_path: Path) -> None:
    lr = LR + 0.5
    expected = lr.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    fine = two_convolutions(tmp_path / "fine.onnx", 100.0, TensorProto.FLOAT16)
    rounded = OnnxRuntime(fine, OpenOptions(emulate_target=True))
    assert rounded.emulated and rounded.precision == "fp16"
    assert 1e-5 < (rounded.run(lr) - expected).abs().max() < 2e-3
    far = two_convolutions(tmp_path / "far.onnx", 60_000.0, TensorProto.FLOAT16)
    # ONNX Runtime on a CPU stays in float32, where 60,000 times 1.5 does not overflow.
    assert OnnxRuntime(far).run(lr).isfinite().all()
    assert OnnxRuntime(far, OpenOptions(emulate_target=True)).run(lr).isinf().all()


def test_bf16_runs_on_a_cpu_rounded(tmp_path: Path) -> None:
    runtime = open_model(two_convolutions(tmp_path / "b.onnx", 60_000.0, TensorProto.BFLOAT16))
    assert runtime.precision == "bf16" and runtime.emulated  # type: ignore[attr-defined]
    assert 1e-4 < (runtime.run(LR) - LR.mean(1, keepdim=True)).abs().max() < 2e-2


def test_a_file_of_fp16_images(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "half"], ["y"])]
    weights = {"half": np.full((1, 1, 1, 1), 0.5, np.float16)}
    path = image_model(tmp_path / "h.onnx", nodes, weights, TensorProto.FLOAT16, ["n", 3, "h", "w"])
    for rounded, gpu in product((False, True), (None, torch.device("cpu"))):
        runtime = OnnxRuntime(path, OpenOptions(emulate_target=rounded))
        runtime._gpu = gpu
        sr = runtime.run(LR)
        assert sr.dtype == torch.float32
        torch.testing.assert_close(sr, LR / 2, atol=5e-4, rtol=0)


def test_a_file_of_bytes_takes_and_gives_floats_here(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    runtime = open_model(image_model(tmp_path / "u.onnx", nodes, {}, TensorProto.UINT8, ["n", "h", "w", 3]))
    assert runtime.descriptor.channels == 3 and runtime.descriptor.fixed_size is None
    torch.testing.assert_close(runtime.run(LR), (LR * 255).round() / 255, atol=1e-6, rtol=0)
    fixed = image_model(tmp_path / "f.onnx", nodes, {}, TensorProto.UINT8, [1, 7, 9, 3])
    assert open_model(fixed).descriptor.fixed_size == (9, 7)
    assert open_model(fixed).run(LR).shape == LR.shape


def test_bytes_in_and_floats_out_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    values = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", "h", "w", 3])]
    values.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "h", "w", 3]))
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), ir_version=8)
    model.opset_import[0].version = 18
    onnx.save_model(model, str(tmp_path / "odd.onnx"))
    with pytest.raises(SrkdError, match=r"uint8\) and returns tensor\(float"):
        open_model(tmp_path / "odd.onnx")


def split(exported: Path, tmp_path: Path) -> tuple[Path, Path]:
    path = tmp_path / "split.onnx"
    onnx.save_model(
        onnx.load_model(str(exported)), str(path), save_as_external_data=True, location="w.bin", size_threshold=0
    )
    return path, tmp_path / "w.bin"


def gone(path: Path, beside: Path) -> None:
    beside.unlink()


def truncated(path: Path, beside: Path) -> None:
    beside.write_bytes(beside.read_bytes()[:-100])


def elsewhere(path: Path, beside: Path) -> None:
    moved = beside.rename(path.parents[1] / "moved.bin")
    model = onnx.load_model(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = f"../{moved.name}" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("harm", [gone, truncated, elsewhere])
def test_weights_in_a_second_file(
    exported: Path, network: Network, tmp_path: Path, harm: Callable[[Path, Path], None]
) -> None:
    path, beside = split(exported, tmp_path)
    torch.testing.assert_close(open_model(path).run(LR), network(LR), atol=1e-6, rtol=0)
    harm(path, beside)
    with pytest.raises(SrkdError, match=r"split\.onnx.* its weights in ") as caught:
        open_model(path)
    assert "\n" not in str(caught.value)
