"""Engine files: their header, damaged files, and engines built for another machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from compressor.base.context import Context
from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.runtimes.tensorrt.device import open_device
from compressor.runtimes.tensorrt.engine_file import ALIGNMENT, EngineHeader, Machine, read_engine, write_engine
from compressor.runtimes.tensorrt.engines import build_engine, cache_folder, current_machine, engine_name, usable_engine
from compressor.runtimes.tensorrt.installation import import_tensorrt
from compressor.runtimes.tensorrt.profiles import dynamic_profile
from srkd.options.models import open_runtime
from srkd.options.verbs import RuntimeOptions
from tests.support.nvidia import Nvidia, needs_linux, nvidia, small_onnx

H200 = Machine("11.4.0.106", "NVIDIA H200", "9.0", "13.0 (580.65.06)")
HEADER = EngineHeader(H200, "fp16", dynamic_profile(3, 1, 1), "small.fp16.onnx", "ab" * 32, {"srkd.scale": "2"})


def test_a_header_says_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    write_engine(path, HEADER, b"plan of TensorRT")
    file = read_engine(path)
    assert (file.header, file.plan) == (HEADER, b"plan of TensorRT")
    # The plan can be extracted without srkd: docs/tensorrt.md describes how.
    assert path.read_bytes()[ALIGNMENT:] == b"plan of TensorRT"
    long = dataclasses.replace(HEADER, metadata={"srkd.scores": "x" * 9000})
    write_engine(path, long, b"plan")
    assert read_engine(path).header == long and path.stat().st_size == 3 * ALIGNMENT + 4


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
        (lambda content: content.replace(b'"small.fp16.onnx"', b'"../mall.fp16.onn"'), "is not a plain file name"),
        (lambda content: content.replace(b'"min": [1', b'"min": [9'), "its header cannot be used: sizes"),
        (lambda content: b"", "is empty"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "x.engine"
    write_engine(path, HEADER, b"plan of TensorRT")
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    with pytest.raises(SrkdError, match=message) as caught:
        read_engine(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("field", ["tensorrt", "gpu", "capability", "driver"])
def test_what_is_otherwise_is_told(field: str) -> None:
    other = dataclasses.replace(H200, **{field: "other"})
    (difference,) = H200.differences(other)
    assert "other" in difference and H200.differences(H200) == []


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Nvidia]:
    with nvidia(tmp_path) as machine:
        yield machine


def built_engine(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx = small_onnx(folder / "small.onnx")
    trt, device = import_tensorrt(), open_device()
    path = folder / engine_name(onnx.name, "fp32", current_machine(trt, device))
    build_engine(onnx, path, "fp32", dynamic_profile(3, 1, 1, ((16, 16), (32, 32))), trt, device)
    return path


def used(path: Path) -> tuple[Path, list[str]]:
    """Return the engine that is actually run for this one, and the notes to the user."""
    notes: list[str] = []
    file = usable_engine(path, import_tensorrt(), open_device(), Context(note=notes.append))
    return file.path, notes


OTHERS: list[dict[str, str]] = [{"gpu": "NVIDIA L4|8|9"}, {"driver": "12080"}, {"trt": "10.16.1.11"}]


@needs_linux
@pytest.mark.parametrize(
    "other",
    [OTHERS[0], *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS[1:])],
    ids=["gpu", "driver", "library"],
)
def test_an_engine_of_another_machine_is_built_anew(gpu: Nvidia, tmp_path: Path, other: dict[str, str]) -> None:
    path = built_engine(tmp_path / "out")
    assert used(path) == (path, [])
    before = path.read_bytes()
    gpu.is_(**other)
    rebuilt, notes = used(path)
    assert len(notes) == 1 and "was built for another machine" in notes[0] and f"building {rebuilt}" in notes[0]
    # The driver is not part of the name: with the same GPU and library the name is the same, but the earlier engine is
    # unusable.
    assert (rebuilt == path) == ("driver" in other) and (path.read_bytes() == before) == (rebuilt != path)
    header = read_engine(rebuilt).header
    assert header is not None and header.machine == current_machine(import_tensorrt(), open_device())
    gpu.forget_calls()
    again, notes = used(path)
    assert again == rebuilt and gpu.calls("built") == []
    assert notes == ([] if rebuilt == path else [notes[0]]) and not any("building" in line for line in notes)
    lr = torch.rand(1, 3, 9, 9)
    assert open_model(path).run(lr).shape == (1, 3, 18, 18)


@needs_linux
def test_an_engine_that_cannot_be_built_anew_is_refused_with_the_command(gpu: Nvidia, tmp_path: Path) -> None:
    path = built_engine(tmp_path / "out")
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
def test_an_engine_in_eight_bits_is_made_anew_by_its_own_flag(gpu: Nvidia, tmp_path: Path) -> None:
    other = dataclasses.replace(H200, gpu="NVIDIA L4")
    header = dataclasses.replace(HEADER, machine=other, precision="int8", onnx="small.int8-trt.onnx")
    write_engine(tmp_path / "x.engine", header, b"plan")
    with pytest.raises(
        SrkdError, match=r"small\.int8-trt\.onnx.* srkd export MODEL --trt-int8 --sizes 256x256,512x512"
    ):
        open_model(tmp_path / "x.engine")


@needs_linux
def test_a_folder_that_may_not_be_written_has_its_engines_in_the_cache(
    gpu: Nvidia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = built_engine(tmp_path / "out")
    gpu.is_(gpu="NVIDIA L4|8|9")
    monkeypatch.setattr("compressor.runtimes.tensorrt.engines.os.access", lambda path, mode: False)
    rebuilt, _ = used(path)
    assert rebuilt.parent == cache_folder() and {file.name for file in path.parent.iterdir()} == {
        "small.onnx",
        path.name,
    }


@needs_linux
@pytest.mark.slow
def test_another_network_of_that_name_is_not_taken_for_it(gpu: Nvidia, tmp_path: Path) -> None:
    path = built_engine(tmp_path / "out")
    gpu.is_(gpu="NVIDIA L4|8|9")
    rebuilt, _ = used(path)
    header = read_engine(rebuilt).header
    assert header is not None
    write_engine(rebuilt, dataclasses.replace(header, onnx_sha256="0" * 64), b"another network")
    again, notes = used(path)
    assert again == rebuilt and "building" in notes[0] and read_engine(again).plan != b"another network"


@needs_linux
def test_building_anew_is_told_to_whoever_opens_a_model(gpu: Nvidia, tmp_path: Path) -> None:
    path = built_engine(tmp_path / "out")
    gpu.is_(gpu="NVIDIA L4|8|9")
    notes: list[str] = []
    open_runtime(path, RuntimeOptions(), Context(note=notes.append))
    assert len(notes) == 1 and "building" in notes[0] and "GPU NVIDIA H200 (9.0), here NVIDIA L4 (8.9)" in notes[0]
