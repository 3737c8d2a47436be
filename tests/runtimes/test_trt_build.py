"""Calls of TensorRT's builder, 10.x and 11.x, recorded by a double."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto

from compressor.base.errors import MissingExtra, SrkdError
from compressor.models.networks.base import Descriptor
from compressor.runtimes.tensorrt.build import build_plan
from compressor.runtimes.tensorrt.device import open_device
from compressor.runtimes.tensorrt.engine_file import read_engine
from compressor.runtimes.tensorrt.engines import build_engine, current_machine, machine_tag
from compressor.runtimes.tensorrt.installation import import_tensorrt
from compressor.runtimes.tensorrt.profiles import OptimizationProfile, dynamic_profile, static_profile
from tests.support.nvidia import Nvidia, needs_linux, small_onnx

pytestmark = needs_linux
PLAIN = Descriptor(2)


def half_onnx(path: Path, **kind: tuple[int, int]) -> Path:
    return small_onnx(path, half=TensorProto.FLOAT16, **kind)


def build(
    folder: Path, precision: str = "fp16", onnx: Path | None = None, profile: OptimizationProfile | None = None
) -> dict[str, object]:
    """Build a plan in this process."""
    source = onnx or half_onnx(folder / "small.onnx")
    return build_plan(import_tensorrt(), source, folder / "plan", precision, profile or dynamic_profile(PLAIN))


@pytest.mark.parametrize(
    ("version", "precision", "flags", "typed_by_file"),
    [("10.0.1", "fp16", ["FP16"], False), ("10.16.1.11", "bf16", ["BF16"], False), ("11.4.0.106", "int8", [], True)],
)
def test_precision_in_the_form_that_the_version_wants(
    gpu: Nvidia, tmp_path: Path, version: str, precision: str, flags: list[str], typed_by_file: bool
) -> None:
    gpu.is_(trt=version)
    facts = build(tmp_path, precision)
    assert gpu.calls("built") == [["built", flags, typed_by_file]]
    assert facts["tensorrt"] == version and (tmp_path / "plan").stat().st_size > 0
    assert facts["typed_by"] == ("the ONNX file" if typed_by_file else "builder flags")


def test_profiles(gpu: Nvidia, tmp_path: Path) -> None:
    eights = Descriptor(2, min_size=8, size_multiple=8)
    build(tmp_path, profile=dynamic_profile(eights, ((320, 184), (640, 360))))
    fixed = half_onnx(tmp_path / "fixed.onnx", fixed=(32, 24))
    build(tmp_path, onnx=fixed, profile=static_profile(3, (32, 24)))
    assert gpu.calls("set_shape") == [
        ["set_shape", "lr", [1, 3, 8, 8], [1, 3, 184, 320], [1, 3, 360, 640]],
        ["set_shape", "lr", [1, 3, 24, 32], [1, 3, 24, 32], [1, 3, 24, 32]],
    ]
    assert dynamic_profile(Descriptor(2, channels=1)).largest == (1, 1, 512, 512)
    sevens = dynamic_profile(Descriptor(2, min_size=5, size_multiple=7))
    assert sevens.shapes == ((1, 3, 7, 7), (1, 3, 252, 252), (1, 3, 511, 511))
    for sizes, message in (
        (((320, 180), (640, 360)), r"size 320x180: this network takes multiples of 8, from 8x8"),
        (((320, 184), (160, 360)), r"sizes 8x8,320x184,160x360: each must be at least as large as the one before"),
    ):
        with pytest.raises(SrkdError, match=message):
            dynamic_profile(eights, sizes)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("parse", r"TensorRT cannot read small.onnx: No importer .* op: Swirl \(node 'body/swirl', Swirl\)"),
        ("build", r"TensorRT cannot build small.onnx: \[optimizer\] Error Code 10: could not find any implementation$"),
        ("profile", r"TensorRT does not take the sizes 1x1,256x256,512x512"),
    ],
)
def test_a_build_that_fails_is_one_line_and_leaves_nothing(
    gpu: Nvidia, tmp_path: Path, fault: str, message: str
) -> None:
    gpu.is_(fault=fault)
    out = tmp_path / "out"
    out.mkdir()
    onnx = half_onnx(tmp_path / "small.onnx")
    with pytest.raises(SrkdError, match=message) as caught:
        build_engine(onnx, out / "x.engine", "fp16", dynamic_profile(PLAIN), import_tensorrt(), open_device())
    assert "\n" not in str(caught.value) and list(out.iterdir()) == []


def test_an_engine_says_what_it_was_built_for(gpu: Nvidia, tmp_path: Path) -> None:
    gpu.is_(gpu="NVIDIA GeForce RTX 4090|8|9", driver="12080")
    trt, device = import_tensorrt(), open_device()
    profile = dynamic_profile(PLAIN)
    facts = build_engine(half_onnx(tmp_path / "x.onnx"), tmp_path / "x.engine", "bf16", profile, trt, device)
    assert facts["gpu"] == "NVIDIA GeForce RTX 4090" and str(facts["driver"]).startswith("12.8")
    header, _ = read_engine(tmp_path / "x.engine")
    assert header is not None and header.machine == current_machine(trt, device)
    assert (header.machine.tensorrt, header.machine.capability, header.precision) == ("11.4.0.106", "8.9", "bf16")
    assert header.profile == profile
    assert machine_tag(header.machine) == "trt11.4.0.106-geforce-rtx-4090-sm89"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("raise ModuleNotFoundError(\"No module named 'tensorrt'\", name='tensorrt')", "pip install 'srkd.tensorrt.'"),
        ("import tensorrt_of_nobody", "TensorRT cannot be imported: No module named 'tensorrt_of_nobody'"),
        ("raise ImportError('libnvonnxparser.so.11: cannot open')", r"cannot load its libraries \(libnvonnxparser"),
        ("__version__ = '8.6.1'", "TensorRT 8.6.1 is too old, 10.0 is the oldest supported"),
    ],
)
def test_installations_that_will_not_do(gpu: Nvidia, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tensorrt.py").write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path / "broken")
        with pytest.raises(SrkdError, match=message) as caught:
            import_tensorrt()
    assert isinstance(caught.value, MissingExtra) == ("pip install 'srkd" in message)
