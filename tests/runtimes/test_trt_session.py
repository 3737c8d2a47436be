"""Open engines, on doubles of TensorRT, of torch's CUDA and of pycuda: sizes, buffers, streams, graphs, errors."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from compressor.base.errors import MissingExtra, SrkdError, UsageError
from compressor.inference.open import open_model
from compressor.inference.super_resolve import super_resolve
from compressor.models.networks.base import Descriptor
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.tensorrt import installation
from compressor.runtimes.tensorrt.device import open_device
from compressor.runtimes.tensorrt.engine_file import read_engine
from compressor.runtimes.tensorrt.engines import build_engine
from compressor.runtimes.tensorrt.installation import import_tensorrt
from compressor.runtimes.tensorrt.profiles import OptimizationProfile, dynamic_profile, static_profile
from compressor.runtimes.tensorrt.session import Session
from compressor.runtimes.tensorrt_runtime import TensorRTRuntime
from tests.support.nvidia import Nvidia, needs_linux, nvidia, small_onnx

pytestmark = needs_linux
SIZES = dynamic_profile(Descriptor(2), ((16, 12), (24, 20)))


def assert_enlarged(sr: torch.Tensor, folder: Path, lr: torch.Tensor) -> None:
    """Assert that an image is what the network of small.onnx makes of `lr`."""
    (weights,) = onnx.load_model(str(folder / "small.onnx")).graph.initializer
    kernels = torch.from_numpy(numpy_helper.to_array(weights).copy()).float()
    expected = torch.nn.functional.pixel_shuffle(torch.nn.functional.conv2d(lr, kernels, padding=1), 2)
    torch.testing.assert_close(sr, expected, atol=1e-5, rtol=0)


def engine(folder: Path, profile: OptimizationProfile = SIZES, **kind: tuple[int, int]) -> Path:
    path = folder / "small.engine"
    small_onnx(folder / "small.onnx", half=TensorProto.FLOAT16, **kind)
    build_engine(folder / "small.onnx", path, "fp16", profile, import_tensorrt(), open_device())
    return path


def test_an_engine_enlarges_what_it_is_given(gpu: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path))
    assert (runtime.name, runtime.device, runtime.precision) == ("tensorrt", "cuda:0", "fp16")
    assert (runtime.descriptor.scale, runtime.descriptor.max_size) == (2, (24, 20))
    generator = torch.Generator().manual_seed(1)
    # Larger and smaller again, several at once, the same size four times with different pixels.
    shapes = [(1, 5, 7), (1, 20, 24), (1, 2, 2), (3, 9, 8), *[(1, 10, 10)] * 4]
    for batch, height, width in shapes:
        lr = torch.rand(batch, 3, height, width, generator=generator)
        assert_enlarged(runtime.run(lr), tmp_path, lr)


def test_a_torch_without_cuda_runs_it_by_pycuda(tmp_path: Path) -> None:
    with nvidia(tmp_path, torch_cuda=False) as machine:
        runtime = open_model(engine(tmp_path))
        lr = torch.rand(1, 3, 8, 8)
        for run in range(3):
            assert_enlarged(runtime.run(lr * run), tmp_path, lr * run)
        machine.is_(fault="cuda memory")
        with pytest.raises(SrkdError, match=r"CUDA: an allocation of .*out of memory"):
            runtime.run(torch.rand(1, 3, 20, 20))


def test_a_torch_without_cuda_asks_for_pycuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with nvidia(tmp_path, torch_cuda=False):
        monkeypatch.setitem(sys.modules, "pycuda", None)
        with pytest.raises(MissingExtra, match=r"pycuda \(this torch was built without CUDA\)"):
            open_device()


def test_results_are_the_callers_own(gpu: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path))
    first, second = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    result = runtime.run(first)
    before = result.clone()
    runtime.run(second)
    assert torch.equal(result, before)


def test_a_size_that_comes_again_is_replayed_as_a_graph(gpu: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path))
    device = sys.modules["double_device"]
    gpu.forget_calls()
    device.counts.update(replays=0, captures=0)
    lr = torch.rand(1, 3, 8, 8)
    for run in range(4):
        assert_enlarged(runtime.run(lr * run), tmp_path, lr * run)
    # Once directly, once to be recorded; then TensorRT is not called any more.
    assert len(gpu.calls("execute_async_v3")) == 2 and device.counts == {"captures": 1, "replays": 3}
    assert len(device.graphs) == 1
    runtime.run(lr[..., :5])
    assert not device.graphs
    runtime.run(lr)
    assert len(gpu.calls("execute_async_v3")) == 4 and device.counts["replays"] == 3


def test_where_no_graph_can_be_had_every_run_is_asked_for(gpu: Nvidia, tmp_path: Path) -> None:
    gpu.is_(fault="no capture")
    runtime = open_model(engine(tmp_path))
    lr = torch.rand(1, 3, 8, 8)
    for _ in range(3):
        assert_enlarged(runtime.run(lr), tmp_path, lr)
    assert not sys.modules["double_device"].graphs


def test_all_memory_is_given_back(gpu: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    device = sys.modules["double_device"]
    before = len(device.memory)
    session = Session(import_tensorrt(), open_device(), read_engine(path)[1], "small")
    for side in (4, 20, 8, 8, 8):
        session.run(torch.zeros(1, 3, side, side))
    assert len(device.memory) == before + 2 and len(device.graphs) == 1
    del session
    gc.collect()
    assert len(device.memory) == before and not device.graphs


def test_pictures_beyond_the_largest_are_cut(gpu: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path))
    lr = torch.rand(1, 3, 50, 31)
    tiled = super_resolve(runtime, lr, overlap=2)
    assert tiled.tile is not None and tiled.tile <= 16
    assert_enlarged(tiled.sr, tmp_path, lr)
    with pytest.raises(UsageError, match="1x1 to 24x20, not 31x50"):
        runtime.run(lr)
    with pytest.raises(UsageError, match=r"at most 24x20, .* 16 pixels"):
        super_resolve(runtime, lr)


def test_an_engine_of_one_size(gpu: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path, static_profile(3, (16, 12)), fixed=(16, 12)))
    assert (runtime.descriptor.fixed_size, runtime.descriptor.max_size) == ((16, 12), None)
    lr = torch.rand(1, 3, 30, 20)
    assert_enlarged(super_resolve(runtime, lr, overlap=2).sr, tmp_path, lr)


def test_an_engine_that_srkd_did_not_write(gpu: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    plain = tmp_path / "trtexec.engine"
    plain.write_bytes(read_engine(path)[1])
    runtime = open_model(plain)
    assert (runtime.precision, dict(runtime.metadata), runtime.descriptor.scale) == ("as built", {}, 2)
    lr = torch.rand(1, 3, 8, 8)
    assert_enlarged(runtime.run(lr), tmp_path, lr)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("execute", r"TensorRT failed on \(1, 3, 1, 1\): \[executionContext\] Error Code 1: Cuda Runtime"),
        ("no room", r"not enough memory on NVIDIA H200 to run it: out of memory"),
        ("three tensors", r"has 2 inputs and 1 outputs: a super-resolution model has one each"),
        ("half input", r"lr is HALF; engines here take and give float32"),
        ("cuda memory", r"CUDA: an allocation of 12 bytes failed: .*out of memory"),
    ],
)
def test_what_goes_wrong_is_one_line(gpu: Nvidia, tmp_path: Path, fault: str, message: str) -> None:
    path = engine(tmp_path)
    gpu.is_(fault=fault)
    with pytest.raises(SrkdError, match=message) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("cuda:1", SrkdError, "device cuda:1: the number of NVIDIA GPUs here is 1"),
        ("mps", UsageError, "device 'mps': runtime tensorrt runs on cuda"),
    ],
)
def test_devices(gpu: Nvidia, tmp_path: Path, device: str, error: type[SrkdError], message: str) -> None:
    path = engine(tmp_path)
    with pytest.raises(error, match=message):
        open_model(path, OpenOptions(device=device))
    assert open_model(path, OpenOptions(device="cuda:0")).device == "cuda:0"


def test_no_gpu(gpu: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    gpu.is_(gpus="0")
    with pytest.raises(SrkdError, match=r"CUDA: .*(No CUDA GPUs|no CUDA-capable device)"):
        open_model(path)


def test_without_a_driver_nothing_native_is_called(gpu: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    gpu.forget_calls()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installation, "DRIVER", "libcuda-that-is-not-there.so.1")
        with pytest.raises(SrkdError, match="libcuda-that"):
            TensorRTRuntime(path)
    assert gpu.calls() == []
