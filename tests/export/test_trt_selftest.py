"""`srkd doctor --trt`: the self-test on a machine with a GPU (simulated by a double), and on one without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor.runtimes.tensorrt import installation
from export.writing import trt_selftest
from srkd.cli.main import cli
from tests.support.nvidia import Nvidia, needs_linux, nvidia

pytestmark = [needs_linux, pytest.mark.usefixtures("quick_int8")]


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvidia]:
    monkeypatch.setattr(trt_selftest, "RUNS", 3)
    with nvidia(tmp_path) as machine:
        yield machine


@pytest.mark.ci
def test_each_precision_is_built_run_compared_and_timed(gpu: Nvidia) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--trt", "--json"])
    assert done.exit_code == 0, done.output
    output = json.loads(done.stdout)
    report = output["tensorrt"]
    assert output["schema"] == "srkd.doctor/1" and report["obstacle"] is None
    assert report["machine"]["gpu"] == "NVIDIA H200" and report["machine"]["tensorrt"] == "11.4.0.106"
    trials = {trial["precision"]: trial for trial in report["trials"]}
    assert list(trials) == ["fp32", "tf32", "fp16", "bf16", "int8"]
    for trial in trials.values():
        assert trial["passed"] and trial["graph"] and trial["milliseconds"] > 0 and trial["build_seconds"] > 0
        assert trial["typed_by"] == "the ONNX file"
    assert trials["fp32"]["parity"]["max_abs"] <= 1e-5 < trials["fp16"]["parity"]["max_abs"] < 0.1
    assert trials["int8"]["parity"]["max_abs"] == 0, "the double computes the file that it was built from"
    assert [call[1] for call in gpu.calls("built")] == [[], ["TF32"], ["TF32"], ["TF32"], ["TF32"]]


@pytest.mark.slow
def test_what_fails_is_told_and_does_not_stop_the_rest(gpu: Nvidia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_selftest, "BOUNDS", {name: trt_selftest.BOUNDS[name] for name in ("fp32", "tf32")})
    gpu.is_(trt="10.16.1.11", fault="drift")
    done = CliRunner().invoke(cli, ["doctor", "--trt"])
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert "TensorRT 10.16.1.11, NVIDIA H200 (9.0), driver 13.0" in done.stdout
    assert done.stdout.count("failed") == 2 and "builder flags" in done.stdout
    assert "fp32: " in done.stderr
    gpu.is_(fault="crash in build")
    done = CliRunner().invoke(cli, ["doctor", "--trt"])
    assert done.exit_code == 1 and "tf32: tiny.onnx" in done.stderr


def test_without_a_driver_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "DRIVER", "libcuda-that-is-not-there.so.1")
    done = CliRunner().invoke(cli, ["doctor", "--trt"])
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.startswith("srkd: TensorRT was not tried: ") and "libcuda-that" in done.stderr
    assert CliRunner().invoke(cli, ["doctor", "--trt", "--csv"]).stdout == ""
    assert not trt_selftest.self_test().ok


def test_no_gpu_behind_the_driver(gpu: Nvidia) -> None:
    gpu.is_(gpus="0")
    done = CliRunner().invoke(cli, ["doctor", "--trt"])
    assert done.exit_code == 1 and "No CUDA GPUs" in done.stderr


def test_the_doctor_says_that_a_driver_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "DRIVER", "libcuda-that-is-not-there.so.1")
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    formats = {piece["name"]: piece for piece in json.loads(done.stdout)["formats"]}
    for name, piece in formats.items():
        if name.startswith("trt"):
            assert not piece["ready"] and piece["command"] is None and "libcuda-that" in piece["remark"]
    assert formats["onnx"]["ready"] and any(name.startswith("trt") for name in formats)
