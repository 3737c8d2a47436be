"""The runner for an Android phone: a stand-in for adb answers as the real one, with the output of real programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor.runtimes.table import RUNTIMES
from export.plan import runner_adb

LITERT = """\
INFO: STARTING!
INFO: Loaded model {file}
INFO: {delegate}
INFO: The input model file size (MB): 4.27635
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=91020 curr=90900 min=90100 max=93010 avg=90865.9 std=1180
INFO: Inference timings in us: Init: 5388, First inference: 101726, Warmup (avg): 92755.2, Inference (avg): {us}
"""
"""From the README of tensorflow/lite/tools/benchmark and logs of phones."""
WHOLE = "Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate."
PART = "Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ 2 kernels."
ONNX = """\
Setting intra_op_num_threads to 1
Session creation time cost: 0.217932 s
First inference time cost: 196 ms
Total inference time cost: 0.49481 s
Total inference requests: 5
Average inference time cost{total}: {ms} ms
Total inference run time: 0.494854 s
Number of inferences per second: 10.104
Avg CPU usage: 11 %
Peak working set size: 271122432 bytes
Min Latency: 0.0958204 s
Max Latency: 0.104 s
"""
"""From onnxruntime/test/perftest/performance_runner.h and documentation of perf_test; newer ones write "total"."""

ADB = """\
#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (here / "calls.txt").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
answers = json.loads((here / "answers.json").read_text())
text = " ".join(words)
for part, (code, out, err) in answers.items():
    if part in text:
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
"""
CONNECTED = "List of devices attached\nR5CX10\tdevice\n\n"


class FakePhone:
    """A folder of a plan, and an adb on the PATH that answers from a table: part of the call → (code, out, err)."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.folder, self.answers = folder / "plan", {"getprop ro.product.model": (0, "SM-S931B\n", "")}
        suffix, program = (".tflite", "benchmark_model") if runtime == "litert" else (".onnx", "onnxruntime_perf_test")
        self.folder.mkdir()
        entries = [{"name": name, "fixed": f"{name}{suffix}"} for name in ("small", "large")]
        assert RUNTIMES[runtime].phone_program == program
        plan = {"id": "p1", "program": program, "threads": 2, "candidates": entries}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        (self.folder / "run_adb.py").write_bytes(Path(runner_adb.__file__).read_bytes())
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "adb").write_text(ADB.format(python=sys.executable))
        (self.bin / "adb").chmod(0o755)
        self.program = folder / program
        self.program.write_bytes(b"")
        (folder / "libonnxruntime.so").write_bytes(b"")
        self.answer("devices", CONNECTED)

    def answer(self, part: str, out: str = "", code: int = 0, err: str = "") -> None:
        # The latest answer goes first; a time belongs to the program's call alone, which merges its errors.
        self.answers = {part: (code, out, err), **{key: value for key, value in self.answers.items() if key != part}}

    def run(self, *words: str, program: Path | None = None) -> subprocess.CompletedProcess[str]:
        (self.bin / "answers.json").write_text(json.dumps(self.answers))
        command = [sys.executable, "-I", str(self.folder / "run_adb.py"), "--program", str(program or self.program)]
        environment = {**os.environ, "PATH": str(self.bin)}
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=environment)

    def stops(self, words: str, *options: str, program: Path | None = None) -> None:
        done = self.run(*options, program=program)
        line = done.stderr.strip()
        assert done.returncode == 1 and line.startswith("run_adb.py: ") and "\n" not in line and words in line, line
        assert not (self.folder / "measured.json").exists()

    def measured(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "measured.json").read_text()))

    @property
    def calls(self) -> list[str]:
        return [" ".join(json.loads(line)) for line in (self.bin / "calls.txt").read_text().splitlines()]


@pytest.fixture
def litert(tmp_path: Path) -> FakePhone:
    phone = FakePhone(tmp_path, "litert")
    phone.answer("--graph=small", LITERT.format(file="small", us="1500.5", delegate=WHOLE))
    phone.answer("--graph=large", LITERT.format(file="large", us="9.08659e+04", delegate=WHOLE))
    return phone


@pytest.fixture
def onnx(tmp_path: Path) -> FakePhone:
    phone = FakePhone(tmp_path, "onnxruntime")
    phone.answer("2>&1", ONNX.format(total="", ms="62.2935"))
    phone.answer("large.onnx 2>&1", ONNX.format(total=" total", ms="98.961997"))
    return phone


@pytest.mark.ci
def test_benchmark_model_of_litert(litert: FakePhone) -> None:
    done = litert.run("--runs", "7", "--gpu")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    measured = litert.measured()
    assert measured["schema"] == "srkd.plan-measured/1" and measured["plan"] == "p1"
    assert {name: row["ms"] for name, row in measured["rows"].items()} == pytest.approx(
        {"small": 1.5005, "large": 90.8659}
    )
    assert "SM-S931B" in measured["machine"] and "benchmark_model, GPU" in measured["machine"]
    timed = [call for call in litert.calls if "--graph=" in call]
    assert [call.split("--graph=")[1].split(".")[0] for call in timed] == [
        *("small", "large"),
        *("large", "small"),
        *("small", "large"),
    ]
    assert all("--num_threads=2 --num_runs=7 --use_gpu=true" in call and "-s R5CX10 shell" in call for call in timed)


def test_perf_test_of_onnx_runtime_old_and_new(onnx: FakePhone) -> None:
    done = onnx.run("--provider", "xnnpack", "--threads", "3")
    assert done.returncode == 0, done.stderr
    rows = onnx.measured()["rows"]
    assert (rows["small"]["ms"], rows["large"]["ms"]) == (62.2935, 98.961997)
    timed = [call for call in onnx.calls if "2>&1" in call]
    assert all("-I -m times -r 50 -x 3 -e xnnpack" in call for call in timed)
    assert any("push" in call and "libonnxruntime.so" in call for call in onnx.calls)


def test_a_file_that_the_phone_cannot_run_leaves_the_others(litert: FakePhone) -> None:
    litert.answer("--graph=large", "ERROR: Failed to allocate tensors!\nERROR: Benchmarking failed.\n", 1)
    assert litert.run().returncode == 0
    rows = litert.measured()["rows"]
    assert rows["large"] == {"failed": "no time in its output: ERROR: Benchmarking failed."} and rows["small"]["ms"] > 0


def test_a_gpu_that_runs_a_part_is_no_time_of_the_gpu(litert: FakePhone) -> None:
    litert.answer("--graph=large", LITERT.format(file="large", us="900", delegate=PART))
    assert litert.run("--gpu").returncode == 0
    assert "only a part" in litert.measured()["rows"]["large"]["failed"]


def test_no_time_at_all_is_one_line(onnx: FakePhone) -> None:
    onnx.answer("onnx 2>&1", "sh: ./onnxruntime_perf_test: not executable: 64-bit ELF file\n", 126)
    onnx.stops("no file could be timed: no time in its output: sh: ./onnxruntime_perf_test: not executable")


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("List of devices attached\n\n", "no phone is connected"),
        ("List of devices attached\nR5CX10\tunauthorized\n", "R5CX10 is not authorised: allow USB debugging"),
        ("List of devices attached\nR5CX10\toffline\n", "R5CX10 is offline"),
        ("List of devices attached\nR5CX10\tdevice\nR5CX11\tdevice\n", "several phones are connected (R5CX10, R5CX11)"),
    ],
)
def test_a_phone_that_cannot_be_used_is_one_line(litert: FakePhone, listed: str, words: str) -> None:
    litert.answer("devices", listed)
    litert.stops(words)


def test_one_of_several_phones_is_chosen_by_its_number(litert: FakePhone) -> None:
    litert.answer("devices", "List of devices attached\nR5CX10\tdevice\nR5CX11\tdevice\n")
    litert.stops("--serial X is not connected", "--serial", "X")
    assert litert.run("--serial", "R5CX11").returncode == 0
    assert all(call.startswith("-s R5CX11 ") for call in litert.calls if "push" in call)


def test_what_cannot_begin_is_one_line(litert: FakePhone, tmp_path: Path) -> None:
    litert.stops("is not a file: give benchmark_model", program=tmp_path / "nowhere")
    other = tmp_path / "onnxruntime_perf_test"
    other.write_bytes(b"")
    litert.stops("is not benchmark_model", program=other)
    litert.answer("push", "", 1, "adb: error: failed to copy: remote No space left on device\n")
    litert.stops("adb push", "--threads", "1")
    (litert.bin / "adb").unlink()
    litert.stops("adb is not on the PATH")
