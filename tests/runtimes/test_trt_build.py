"""What a builder of TensorRT is told, 10.x and 11.x, on a double that notes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto

from compressor.base.errors import MissingExtra, SrkdError, UsageError
from compressor.runtimes.tensorrt import library
from compressor.runtimes.tensorrt.apart import run_apart
from compressor.runtimes.tensorrt.build import BuildJob, build
from compressor.runtimes.tensorrt.cuda import open_cuda
from compressor.runtimes.tensorrt.engine_file import read_engine
from compressor.runtimes.tensorrt.engines import build_engine, engine_name, folder, machine_here
from compressor.runtimes.tensorrt.onnx_facts import onnx_facts
from compressor.runtimes.tensorrt.shapes import Shapes, dynamic_shapes, static_shapes
from tests.support.nvidia import Nvidia, needs_linux, nvidia, quantized_onnx, small_onnx

pytestmark = needs_linux

WEIGHTS = {
    "fp32": lambda path: small_onnx(path),
    "tf32": lambda path: small_onnx(path),
    "fp16": lambda path: small_onnx(path, half=TensorProto.FLOAT16),
    "bf16": lambda path: small_onnx(path, half=TensorProto.BFLOAT16),
    "int8": lambda path: quantized_onnx(path),
}


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Nvidia]:
    with nvidia(tmp_path) as machine:
        yield machine


def job(folder: Path, precision: str = "fp32", onnx: Path | None = None, shapes: Shapes | None = None) -> BuildJob:
    return BuildJob(
        str(onnx or WEIGHTS[precision](folder / "small.onnx")),
        str(folder / "plan"),
        precision,
        (shapes or dynamic_shapes(3, 1, 1)).to_dict(),
        str(folder / "kept" / "timing"),
    )


def silent(title: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize(
    ("version", "precision", "flags", "typed_by_file"),
    [
        ("10.0.1", "fp32", [], False),
        ("10.0.1", "tf32", ["TF32"], False),
        ("10.0.1", "fp16", ["FP16", "TF32"], False),
        ("10.16.1.11", "bf16", ["BF16", "TF32"], False),
        ("10.16.1.11", "int8", ["INT8", "TF32"], False),
        ("11.4.0.106", "fp32", [], True),
        ("11.4.0.106", "tf32", ["TF32"], True),
        ("11.4.0.106", "fp16", ["TF32"], True),
        ("11.4.0.106", "bf16", ["TF32"], True),
        ("11.4.0.106", "int8", ["TF32"], True),
    ],
)
def test_precision_in_the_form_that_the_version_wants(
    gpu: Nvidia, tmp_path: Path, version: str, precision: str, flags: list[str], typed_by_file: bool
) -> None:
    gpu.is_(trt=version)
    facts = build(library.tensorrt(), job(tmp_path, precision), silent)
    assert gpu.calls("built") == [["built", flags, typed_by_file]]
    assert facts["tensorrt"] == version and (tmp_path / "plan").stat().st_size > 0
    assert facts["typed_by"] == ("the ONNX file" if typed_by_file else "builder flags")


@pytest.mark.parametrize(
    ("asked", "held"), [("fp16", "fp32"), ("fp32", "fp16"), ("bf16", "fp16"), ("int8", "fp32"), ("fp32", "int8")]
)
def test_an_engine_is_not_called_what_its_file_is_not(gpu: Nvidia, tmp_path: Path, asked: str, held: str) -> None:
    onnx = WEIGHTS[held](tmp_path / "other.onnx")
    with pytest.raises(SrkdError, match=f"other.onnx holds {held}: an engine in {asked} is built from {asked}"):
        build(library.tensorrt(), job(tmp_path, asked, onnx), silent)
    assert gpu.calls() == []


def test_a_precision_that_there_is_not(gpu: Nvidia, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision 'int4' is not one of fp32, tf32, fp16, bf16, int8"):
        build(library.tensorrt(), job(tmp_path, "int4", small_onnx(tmp_path / "x.onnx")), silent)


def test_quantization_must_be_symmetric(tmp_path: Path) -> None:
    assert onnx_facts(quantized_onnx(tmp_path / "good.onnx")).precision == "int8"
    for wrong in ({"zero": 3}, {"kind": TensorProto.UINT8}):
        with pytest.raises(SrkdError, match="QuantizeLinear 'q' is not symmetric int8"):
            onnx_facts(quantized_onnx(tmp_path / "wrong.onnx", **wrong))


def test_profiles(gpu: Nvidia, tmp_path: Path) -> None:
    build(library.tensorrt(), job(tmp_path, shapes=dynamic_shapes(3, 8, 8, ((320, 184), (640, 360)))), silent)
    fixed = small_onnx(tmp_path / "fixed.onnx", fixed=(32, 24))
    build(library.tensorrt(), job(tmp_path, onnx=fixed, shapes=static_shapes(3, (32, 24))), silent)
    assert gpu.calls("set_shape") == [
        ["set_shape", "lr", [1, 3, 8, 8], [1, 3, 184, 320], [1, 3, 360, 640]],
        ["set_shape", "lr", [1, 3, 24, 32], [1, 3, 24, 32], [1, 3, 24, 32]],
    ]
    assert dynamic_shapes(1, 1, 1).largest == (1, 1, 512, 512)
    assert dynamic_shapes(3, 5, 7).to_dict() == {"min": [1, 3, 7, 7], "opt": [1, 3, 252, 252], "max": [1, 3, 511, 511]}
    for sizes, message in (
        (((320, 180), (640, 360)), r"size 320x180: this network takes multiples of 8, from 8x8"),
        (((320, 184), (160, 360)), r"sizes 8x8,320x184,160x360: each must be at least as large as the one before it"),
    ):
        with pytest.raises(SrkdError, match=message):
            dynamic_shapes(3, 8, 8, sizes)


def test_what_was_timed_is_kept_for_the_next_build(gpu: Nvidia, tmp_path: Path) -> None:
    trt = library.tensorrt()
    cache = tmp_path / "kept" / "timing"
    assert build(trt, job(tmp_path), silent)["timing_cache"] == "new"
    assert cache.read_bytes() == b"timings of 11.4.0.106"
    assert build(trt, job(tmp_path), silent)["timing_cache"] == "used"
    for useless in (b"damaged", b"timings of 10.3.0", b""):
        cache.write_bytes(useless)
        assert build(trt, job(tmp_path), silent)["timing_cache"] == "new"
        assert cache.read_bytes() == b"timings of 11.4.0.106"
    cache.unlink()
    cache.mkdir()  # A cache that cannot be written is no reason to lose an engine.
    assert build(trt, job(tmp_path), silent)["timing_cache"] == "new"
    assert cache.is_dir()


def test_progress_is_that_of_the_outermost_phase(gpu: Nvidia, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build(library.tensorrt(), job(tmp_path), lambda *event: seen.append(event))
    assert seen == [("Building Engine", done, 2) for done in (0, 1, 2)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "parse",
            r"TensorRT cannot read small.onnx: No importer .* op: Swirl \(node 'body/swirl', Swirl\)",
        ),
        ("build", r"TensorRT cannot build small.onnx: \[optimizer\] Error Code 10: could not find any implementation$"),
        ("profile", r"TensorRT does not take the sizes 1x1,256x256,512x512"),
        ("crash in build", r"small.onnx could not be built: TensorRT crashed \(SIGSEGV\); srkd itself is unharmed"),
        ("crash in parse", r"small.onnx could not be built: TensorRT crashed \(SIGSEGV\)"),
    ],
)
def test_a_build_that_fails_is_one_line_and_leaves_nothing(
    gpu: Nvidia, tmp_path: Path, fault: str, message: str
) -> None:
    gpu.is_(fault=fault)
    out = tmp_path / "out"
    out.mkdir()
    onnx = small_onnx(tmp_path / "small.onnx")
    with pytest.raises(SrkdError, match=message) as caught:
        build_engine(onnx, out / "x.engine", "fp32", dynamic_shapes(3, 1, 1), library.tensorrt(), open_cuda())
    assert "\n" not in str(caught.value) and list(out.iterdir()) == []


def test_an_engine_says_what_it_was_built_for(gpu: Nvidia, tmp_path: Path) -> None:
    gpu.is_(gpu="NVIDIA GeForce RTX 4090|8|9", driver="12080")
    trt, cuda = library.tensorrt(), open_cuda()
    shapes = dynamic_shapes(3, 1, 1)
    facts = build_engine(small_onnx(tmp_path / "x.onnx"), tmp_path / "x.engine", "tf32", shapes, trt, cuda)
    assert facts["gpu"] == "NVIDIA GeForce RTX 4090" and str(facts["driver"]).startswith("12.8")
    header = read_engine(tmp_path / "x.engine").facts
    assert header is not None and header.machine == machine_here(trt, cuda)
    assert (header.machine.tensorrt, header.machine.capability, header.precision) == ("11.4.0.106", "8.9", "tf32")
    assert (header.shapes, header.onnx, len(header.onnx_sha256)) == (shapes, "x.onnx", 64)
    name = "student.fp16.trt11.4.0.106-geforce-rtx-4090-sm89.engine"
    assert engine_name("student.fp16.onnx", "fp16", header.machine) == name
    assert engine_name("student.onnx", "tf32", header.machine) == name.replace("fp16", "tf32")
    assert [path.name for path in folder().iterdir()] == ["trt11.4.0.106-geforce-rtx-4090-sm89.timing"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("raise ModuleNotFoundError(\"No module named 'tensorrt'\", name='tensorrt')", "pip install 'srkd.tensorrt.'"),
        ("import tensorrt_of_nobody", "TensorRT cannot be imported: No module named 'tensorrt_of_nobody'"),
        ("raise ImportError('libnvonnxparser.so.11: cannot open')", r"cannot load its libraries \(libnvonnxparser"),
        ("__version__ = '8.6.1'", "TensorRT 8.6.1 is too old, 10.0 is the least"),
    ],
)
def test_installations_that_will_not_do(gpu: Nvidia, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tensorrt.py").write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path / "broken")
        with pytest.raises(SrkdError, match=message) as caught:
            library.tensorrt()
    assert isinstance(caught.value, MissingExtra) == ("pip install 'srkd" in message)


def test_the_other_process_is_gone_when_its_parent_gives_up(gpu: Nvidia, tmp_path: Path) -> None:
    def stop(title: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_apart("build", {**vars(job(tmp_path)), "device": 0}, "the build", stop)
    assert not (tmp_path / "plan").exists() or (tmp_path / "plan").stat().st_size > 0
