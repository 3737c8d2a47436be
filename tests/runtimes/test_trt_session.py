"""Open engines, on doubles of TensorRT, of torch's CUDA and of pycuda: sizes, buffers, streams, graphs, errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from compressor.base.errors import SrkdError, UsageError
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
ENGINES: dict[object, bytes] = {}


def expected(path: Path, lr: torch.Tensor) -> torch.Tensor:
    (weights,) = onnx.load_model(str(path)).graph.initializer
    convolved = torch.nn.functional.conv2d(
        lr, torch.from_numpy(numpy_helper.to_array(weights).copy()).float(), padding=1
    )
    return torch.nn.functional.pixel_shuffle(convolved, 2)


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tried(module_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share a cache within the module, so that an engine tried by one test is not tried in a child process again."""
    monkeypatch.setenv("SRKD_CACHE", str(module_cache))


@pytest.fixture
def untried(tried: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every engine be tried in a child process at its first opening."""
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=[True, False], ids=["torch", "pycuda"])
def gpu(request: pytest.FixtureRequest, tmp_path: Path, tried: None) -> Iterator[Nvidia]:
    with nvidia(tmp_path, torch_cuda=request.param) as machine:
        yield machine


@pytest.fixture
def with_torch(tmp_path: Path, tried: None) -> Iterator[Nvidia]:
    with nvidia(tmp_path) as machine:
        yield machine


def engine(folder: Path, profile: OptimizationProfile = SIZES, **kind: tuple[int, int]) -> Path:
    """Build an engine once in a child process, as always, then copy it."""
    path, key = folder / "small.engine", (profile, *kind.values())
    small_onnx(folder / "small.onnx", half=TensorProto.FLOAT16, **kind)
    trt, device = import_tensorrt(), open_device()
    if key in ENGINES:
        path.write_bytes(ENGINES[key])
    else:
        build_engine(folder / "small.onnx", path, "fp16", profile, trt, device)
        ENGINES[key] = path.read_bytes()
    return path


@pytest.mark.ci
def test_an_engine_enlarges_what_it_is_given(gpu: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    runtime = open_model(path)
    assert (runtime.name, runtime.device, runtime.precision) == ("tensorrt", "cuda:0", "fp16")
    assert (runtime.descriptor.scale, runtime.descriptor.max_size) == (2, (24, 20))
    generator = torch.Generator().manual_seed(1)
    # Larger and smaller again, several at once, the same size four times with different pixels.
    shapes = [(1, 5, 7), (1, 20, 24), (1, 2, 2), (3, 9, 8), *[(1, 10, 10)] * 4]
    for batch, height, width in shapes:
        lr = torch.rand(batch, 3, height, width, generator=generator)
        torch.testing.assert_close(runtime.run(lr), expected(tmp_path / "small.onnx", lr), atol=1e-5, rtol=0)


def test_results_are_the_callers_own(with_torch: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path))
    first, second = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    result = runtime.run(first)
    before = result.clone()
    runtime.run(second)
    assert torch.equal(result, before)


def test_a_size_that_comes_again_is_replayed_as_a_graph(with_torch: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path))
    assert isinstance(runtime, TensorRTRuntime)
    device = sys.modules["double_device"]
    with_torch.forget_calls()
    device.counts.update(replays=0, captures=0)
    lr = torch.rand(1, 3, 8, 8)
    for run in range(4):
        torch.testing.assert_close(
            runtime.run(lr * run), expected(tmp_path / "small.onnx", lr * run), atol=1e-5, rtol=0
        )
        assert runtime.session.uses_graph is (run > 0)
    # Once directly, once to be recorded; then TensorRT is not called any more.
    assert len(with_torch.calls("execute_async_v3")) == 2 and device.counts == {"captures": 1, "replays": 3}
    assert len(device.graphs) == 1
    runtime.run(lr[..., :5])
    assert not runtime.session.uses_graph and not device.graphs
    runtime.run(lr)
    assert len(with_torch.calls("execute_async_v3")) == 4 and device.counts["replays"] == 3


def test_where_no_graph_can_be_had_every_run_is_asked_for(gpu: Nvidia, tmp_path: Path) -> None:
    gpu.is_(fault="no capture")
    runtime = open_model(engine(tmp_path))
    lr = torch.rand(1, 3, 8, 8)
    for _ in range(3):
        torch.testing.assert_close(runtime.run(lr), expected(tmp_path / "small.onnx", lr), atol=1e-5, rtol=0)
    assert isinstance(runtime, TensorRTRuntime) and not runtime.session.uses_graph


def test_all_memory_is_given_back(with_torch: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    device = sys.modules["double_device"]
    before = len(device.memory)
    session = Session(import_tensorrt(), open_device(), read_engine(path).plan, "small")
    for side in (4, 20, 8, 8, 8):
        session.run(torch.zeros(1, 3, side, side))
    assert len(device.memory) == before + 2 and len(device.graphs) == 1
    session.close()
    assert len(device.memory) == before and not device.graphs


def test_pictures_beyond_the_largest_are_cut(with_torch: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path))
    lr = torch.rand(1, 3, 50, 31)
    tiled = super_resolve(runtime, lr, overlap=2)
    assert tiled.tile is not None and tiled.tile <= 16
    torch.testing.assert_close(tiled.sr, expected(tmp_path / "small.onnx", lr), atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="1x1 to 24x20, not 31x50"):
        runtime.run(lr)
    with pytest.raises(UsageError, match=r"at most 24x20, .* 16 pixels"):
        super_resolve(runtime, lr)


@pytest.mark.ci
def test_an_engine_of_one_size(with_torch: Nvidia, tmp_path: Path) -> None:
    runtime = open_model(engine(tmp_path, static_profile(3, (16, 12)), fixed=(16, 12)))
    assert (runtime.descriptor.fixed_size, runtime.descriptor.max_size) == ((16, 12), None)
    lr = torch.rand(1, 3, 30, 20)
    torch.testing.assert_close(
        super_resolve(runtime, lr, overlap=2).sr, expected(tmp_path / "small.onnx", lr), atol=1e-5, rtol=0
    )
    with pytest.raises(SrkdError, match=r"\[1, 3, 12, 16\].*\[1, 3, 8, 8\]"):
        engine(tmp_path, static_profile(3, (8, 8)), fixed=(16, 12))


def test_an_engine_that_srkd_did_not_write(with_torch: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    plain = tmp_path / "trtexec.engine"
    plain.write_bytes(read_engine(path).plan)
    runtime = open_model(plain)
    assert (runtime.precision, dict(runtime.metadata), runtime.descriptor.scale) == ("as built", {}, 2)
    lr = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(runtime.run(lr), expected(tmp_path / "small.onnx", lr), atol=1e-5, rtol=0)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("execute", r"TensorRT failed on \(1, 3, 1, 1\): \[executionContext\] Error Code 1: Cuda Runtime"),
        ("no room", r"not enough memory on NVIDIA H200 to run it: out of memory"),
        ("three tensors", r"has 2 inputs and 1 outputs: a super-resolution model has one each"),
        ("half input", r"lr is HALF; engines here take and give float32"),
        ("crash in deserialize", "small.engine could not be opened by TensorRT: .*SIGSEGV"),
    ],
)
def test_what_goes_wrong_is_one_line(
    with_torch: Nvidia, untried: None, tmp_path: Path, fault: str, message: str
) -> None:
    refused(with_torch, tmp_path, fault, message)


def test_no_memory_on_the_gpu_is_one_line(gpu: Nvidia, tmp_path: Path) -> None:
    refused(gpu, tmp_path, "cuda memory", r"CUDA: an allocation of 12 bytes failed: .*out of memory")


def refused(gpu: Nvidia, folder: Path, fault: str, message: str) -> None:
    path = engine(folder)
    gpu.is_(fault=fault)
    with pytest.raises(SrkdError, match=message) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.ci
def test_an_engine_is_tried_once_in_a_child_process(with_torch: Nvidia, untried: None, tmp_path: Path) -> None:
    """A successfully tried engine is not tried again on the same machine. Without srkd's header it fits any machine."""
    plain = tmp_path / "trtexec.engine"
    plain.write_bytes(read_engine(engine(tmp_path)).plan)
    processes = []
    for driver in ("13000", "13000", "12080"):
        with_torch.is_(driver=driver)
        with_torch.forget_calls()
        open_model(plain)
        processes.append(len({call[1] for call in with_torch.calls("deserialize")}))
    assert processes == [2, 1, 2]


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("cuda:1", SrkdError, "device cuda:1: there is 1 NVIDIA GPU here"),
        ("mps", UsageError, "device 'mps': an engine runs on an NVIDIA GPU"),
    ],
)
def test_devices(with_torch: Nvidia, tmp_path: Path, device: str, error: type[SrkdError], message: str) -> None:
    path = engine(tmp_path)
    with pytest.raises(error, match=message):
        open_model(path, OpenOptions(device=device))
    assert open_model(path, OpenOptions(device="cuda:0")).device == "cuda:0"


def test_no_gpu(gpu: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    gpu.is_(gpus="0")
    with pytest.raises(SrkdError, match=r"CUDA: .*(No CUDA GPUs|no CUDA-capable device)"):
        open_model(path)


def test_without_a_driver_nothing_native_is_called(with_torch: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    with_torch.forget_calls()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installation, "DRIVER", "libcuda-that-is-not-there.so.1")
        with pytest.raises(SrkdError, match="libcuda-that"):
            TensorRTRuntime(path)
        with pytest.raises(SrkdError, match="libcuda-that-is-not-there"):
            open_device()
    assert with_torch.calls() == []


def test_precision_and_scale_are_what_the_file_says(with_torch: Nvidia, tmp_path: Path) -> None:
    path = engine(tmp_path)
    with pytest.raises(UsageError, match="computes in fp16, not bf16"):
        open_model(path, OpenOptions(precision="bf16"))
    with pytest.raises(UsageError, match="is for scale 2, not 3"):
        open_model(path, OpenOptions(scale=3))
