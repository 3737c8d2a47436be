"""Engine files: their header, what is damaged, and what was built for another machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.runtimes.tensorrt.cuda import open_cuda
from compressor.runtimes.tensorrt.engine_file import ALIGNMENT, EngineFacts, Machine, read_engine, write_engine
from compressor.runtimes.tensorrt.engines import build_engine, engine_name, folder, machine_here, usable_engine
from compressor.runtimes.tensorrt.library import tensorrt
from compressor.runtimes.tensorrt.shapes import dynamic_shapes
from srkd.models import open_runtime
from srkd.verb_options import RuntimeOptions
from tests.support.nvidia import Nvidia, needs_linux, nvidia, small_onnx

H200 = Machine("11.4.0.106", "NVIDIA H200", "9.0", "13.0 (580.65.06)")
FACTS = EngineFacts(H200, "fp16", dynamic_shapes(3, 1, 1), "small.fp16.onnx", "ab" * 32, {"srkd.scale": "2"})


def test_a_header_says_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    write_engine(path, FACTS, b"plan of TensorRT")
    file = read_engine(path)
    assert (file.facts, file.plan) == (FACTS, b"plan of TensorRT")
    # What TensorRT wrote can be had back without srkd: docs/tensorrt.md tells how.
    assert path.read_bytes()[ALIGNMENT:] == b"plan of TensorRT"
    long = dataclasses.replace(FACTS, metadata={"srkd.scores": "x" * 9000})
    write_engine(path, long, b"plan")
    assert read_engine(path).facts == long and path.stat().st_size == 3 * ALIGNMENT + 4


def cut(content: bytes) -> bytes:
    return content[:-1]


def changed(content: bytes) -> bytes:
    return content[:-1] + b"!"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged: what follows its header is not what was written"),
        (changed, "is damaged: what follows its header is not what was written"),
        (lambda content: content[:10], r"is damaged: its header ends at byte \d+ of 10"),
        (lambda content: content[:3000], r"is damaged: its header ends at byte 4096 of 3000"),
        (lambda content: content[:8] + b"\xff" * 8 + content[16:], "is damaged: its header ends at byte"),
        (lambda content: content.replace(b'"tensorrt"', b'"tensorru"'), "its header cannot be used: no 'tensorrt'"),
        (lambda content: content.replace(b"{", b"[", 1), "its header cannot be used: "),
        (lambda content: content.replace(b"engine/1", b"engine/9"), "schema 'srkd.engine/9' is not"),
        (lambda content: content.replace(b'"small.fp16.onnx"', b'"../mall.fp16.onn"'), "is no plain file name"),
        (lambda content: content.replace(b'"min": [1', b'"min": [9'), "its header cannot be used: sizes"),
        (lambda content: b"", "is empty"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "x.engine"
    write_engine(path, FACTS, b"plan of TensorRT")
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    with pytest.raises(SrkdError, match=message) as caught:
        read_engine(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("field", ["tensorrt", "gpu", "capability", "driver"])
def test_what_is_otherwise_is_told(field: str) -> None:
    other = dataclasses.replace(H200, **{field: "other"})
    (told,) = H200.differences(other)
    assert "other" in told and H200.differences(H200) == []


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Nvidia]:
    with nvidia(tmp_path) as machine:
        yield machine


def built(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx = small_onnx(folder / "small.onnx")
    trt, cuda = tensorrt(), open_cuda()
    path = folder / engine_name(onnx.name, "fp32", machine_here(trt, cuda))
    build_engine(onnx, path, "fp32", dynamic_shapes(3, 1, 1, ((16, 16), (32, 32))), trt, cuda)
    return path


def used(path: Path) -> tuple[Path, list[str]]:
    """The engine that is run for this one, and what a person was told."""
    told: list[str] = []
    file = usable_engine(path, tensorrt(), open_cuda(), announce=told.append)
    return file.path, told


OTHERS: list[dict[str, str]] = [{"gpu": "NVIDIA L4|8|9"}, {"driver": "12080"}, {"trt": "10.16.1.11"}]


@needs_linux
@pytest.mark.parametrize("other", OTHERS, ids=["gpu", "driver", "library"])
def test_an_engine_of_another_machine_is_built_anew(gpu: Nvidia, tmp_path: Path, other: dict[str, str]) -> None:
    path = built(tmp_path / "out")
    assert used(path) == (path, [])
    before = path.read_bytes()
    gpu.is_(**other)
    renewed, told = used(path)
    assert len(told) == 1 and "was built for another machine" in told[0] and f"building {renewed}" in told[0]
    # The driver is not in the name: the same GPU and library make the same name, and the engine of before is of no use.
    assert (renewed == path) == ("driver" in other) and (path.read_bytes() == before) == (renewed != path)
    facts = read_engine(renewed).facts
    assert facts is not None and facts.machine == machine_here(tensorrt(), open_cuda())
    gpu.forget_calls()
    again, told = used(path)
    assert again == renewed and gpu.calls("built") == []
    assert told == ([] if renewed == path else [told[0]]) and not any("building" in line for line in told)
    lr = torch.rand(1, 3, 9, 9)
    assert open_model(path).run(lr).shape == (1, 3, 18, 18)


@needs_linux
def test_an_engine_that_cannot_be_built_anew_is_refused_with_the_command(gpu: Nvidia, tmp_path: Path) -> None:
    path = built(tmp_path / "out")
    gpu.is_(gpu="NVIDIA L4|8|9")
    onnx = tmp_path / "out" / "small.onnx"
    onnx.write_bytes(onnx.read_bytes() + b"\x00")
    gpu.forget_calls()
    with pytest.raises(SrkdError, match=r"it was built from: srkd export MODEL --trt-fp32 --sizes 16x16,32x32, with"):
        open_model(path)
    onnx.unlink()
    with pytest.raises(SrkdError) as caught:
        open_model(path)
    assert "GPU NVIDIA H200 (9.0), here NVIDIA L4 (8.9)" in str(caught.value) and "--trt" in str(caught.value)
    assert "is not beside it" in str(caught.value) and "\n" not in str(caught.value)
    assert "--trt-fp32 --sizes 16x16,32x32" in str(caught.value)
    assert gpu.calls("built", "deserialize") == []


@needs_linux
def test_a_folder_that_may_not_be_written_has_its_engines_in_the_cache(
    gpu: Nvidia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = built(tmp_path / "out")
    gpu.is_(gpu="NVIDIA L4|8|9")
    monkeypatch.setattr("compressor.runtimes.tensorrt.engines.os.access", lambda place, mode: False)
    renewed, _ = used(path)
    assert renewed.parent == folder() and {file.name for file in path.parent.iterdir()} == {"small.onnx", path.name}


@needs_linux
def test_another_network_of_that_name_is_not_taken_for_it(gpu: Nvidia, tmp_path: Path) -> None:
    path = built(tmp_path / "out")
    gpu.is_(gpu="NVIDIA L4|8|9")
    renewed, _ = used(path)
    facts = read_engine(renewed).facts
    assert facts is not None
    write_engine(renewed, dataclasses.replace(facts, onnx_sha256="0" * 64), b"another network")
    again, told = used(path)
    assert again == renewed and "building" in told[0] and read_engine(again).plan != b"another network"


@needs_linux
def test_building_anew_is_told_to_whoever_opens_a_model(gpu: Nvidia, tmp_path: Path) -> None:
    path = built(tmp_path / "out")
    gpu.is_(gpu="NVIDIA L4|8|9")
    told: list[str] = []
    open_runtime(path, RuntimeOptions(), Context(note=told.append))
    assert len(told) == 1 and "building" in told[0] and "GPU NVIDIA H200 (9.0), here NVIDIA L4 (8.9)" in told[0]
