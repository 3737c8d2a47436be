"""Engine files: their header, damaged files, and engines built for another machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.base.errors import SrkdError
from compressor.inference.open import open_model
from compressor.models.networks.base import Descriptor
from compressor.runtimes.tensorrt.device import open_device
from compressor.runtimes.tensorrt.engine_file import ALIGNMENT, EngineHeader, Machine, read_engine, write_engine
from compressor.runtimes.tensorrt.engines import current_machine
from compressor.runtimes.tensorrt.installation import import_tensorrt
from compressor.runtimes.tensorrt.profiles import OptimizationProfile, dynamic_profile, static_profile
from tests.support.nvidia import Nvidia, needs_linux

PLAIN = Descriptor(2)
H200 = Machine("11.4.0.106", "NVIDIA H200", "9.0", "13.0 (580.65.06)")
HEADER = EngineHeader(H200, "fp16", dynamic_profile(PLAIN), {"srkd.scale": "2"})


def read_back(path: Path) -> tuple[EngineHeader, bytes]:
    """Read an engine file, and its header without the checksum."""
    header, plan = read_engine(path)
    return dataclasses.replace(header, plan_sha256=""), plan


def test_a_header_says_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    write_engine(path, HEADER, b"plan of TensorRT")
    assert read_back(path) == (HEADER, b"plan of TensorRT")
    # The plan can be extracted without srkd: docs/formats/tensorrt.md describes how.
    assert path.read_bytes()[ALIGNMENT:] == b"plan of TensorRT"
    long = dataclasses.replace(HEADER, metadata={"srkd.scores": "x" * 9000})
    write_engine(path, long, b"plan")
    assert read_back(path) == (long, b"plan") and path.stat().st_size == 3 * ALIGNMENT + 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "is damaged: what follows its header is not what was written"),
        (lambda content: content[:-1] + b"!", "is damaged: what follows its header is not what was written"),
        (lambda content: content[:3000], r"is damaged: its header ends at byte 4096 of 3000"),
        (lambda content: content.replace(b'"tensorrt"', b'"tensorru"'), "its header cannot be used: .*tensorrt"),
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


@needs_linux
@pytest.mark.parametrize(
    ("other", "difference", "precision", "profile", "command"),
    [
        (
            {"gpu": "NVIDIA L4|8|9"},
            "GPU NVIDIA H200 (9.0), here NVIDIA L4 (8.9)",
            "bf16",
            dynamic_profile(PLAIN, ((16, 16), (32, 32))),
            "--trt-bf16 --sizes 16x16,32x32,",
        ),
        ({"driver": "12080"}, "driver 13.0, here 12.8", "fp16", static_profile(3, (40, 24)), "--trt --static 40x24,"),
        (
            {"trt": "10.16.1.11"},
            "TensorRT 11.4.0.106, here 10.16.1.11",
            "int8",
            dynamic_profile(PLAIN),
            "--trt-int8 --sizes 256x256,512x512,",
        ),
    ],
    ids=["gpu", "driver", "library"],
)
def test_an_engine_of_another_machine_is_refused_with_the_command(
    gpu: Nvidia,
    tmp_path: Path,
    other: dict[str, str],
    difference: str,
    precision: str,
    profile: OptimizationProfile,
    command: str,
) -> None:
    """TensorRT never sees it: on another machine it may crash."""
    path = tmp_path / "x.engine"
    machine = current_machine(import_tensorrt(), open_device())
    write_engine(path, dataclasses.replace(HEADER, machine=machine, precision=precision, profile=profile), b"plan")
    gpu.is_(**other)
    with pytest.raises(SrkdError) as caught:
        open_model(path)
    assert f"was built for another machine ({difference}" in str(caught.value) and "\n" not in str(caught.value)
    assert f"srkd export MODEL {command} with the checkpoint" in str(caught.value)
    assert gpu.calls("deserialize") == []
