"""Times the files beside it on an Android phone: `python run_adb.py --program DIR/benchmark_model [--gpu]`.

Runs here, with Python and adb alone. The program is LiteRT's `benchmark_model` for .tflite files, or ONNX Runtime's
`onnxruntime_perf_test` for .onnx files, built for the phone; libraries (.so) beside it are copied, too. It writes
measured.json, which `srkd plan --measured` reads.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = "/data/local/tmp/srkd-plan"
ROUNDS = 3
PATIENCE = 300
"""Seconds after which a call of adb is given up."""
TFLITE_TIME = re.compile(r"Inference timings in us: .*Inference \(avg\): ([0-9.]+(?:e[+-]?\d+)?)")
"""Written by benchmark_model: tensorflow/lite/tools/benchmark/README.md."""
ONNX_TIME = re.compile(r"Average inference time cost(?: total)?: ([0-9.]+(?:e[+-]?\d+)?) ms")
"""Written by onnxruntime_perf_test: onnxruntime/test/perftest/performance_runner.h; "total" in newer ones."""
WHOLLY = "the model graph will be completely executed by the delegate"
"""Written by benchmark_model if the GPU runs all: tensorflow/lite/tools/benchmark/benchmark_tflite_model.cc."""
STATES = {
    "unauthorized": "is not authorised: allow USB debugging on its screen, and run this again",
    "offline": "is offline: connect it again",
}


class Stop(Exception):
    """An error of one line."""


def main() -> None:
    here = Path(__file__).resolve().parent
    plan = json.loads((here / "plan.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="benchmark_model or onnxruntime_perf_test")
    parser.add_argument("--threads", type=int, default=plan["threads"] or 4)
    parser.add_argument("--runs", type=int, default=50, help="images in each of three rounds")
    parser.add_argument("--gpu", action="store_true", help="benchmark_model: on the phone's GPU")
    parser.add_argument("--provider", default="cpu", help="onnxruntime_perf_test: cpu, xnnpack, nnapi, qnn")
    parser.add_argument("--serial", help="the phone, if several are connected")
    options = parser.parse_args()
    try:
        measured = measure(here, plan, options)
    except Stop as stop:
        sys.exit(f"run_adb.py: {stop}")
    (here / "measured.json").write_text(json.dumps(measured, indent=2), encoding="utf-8")
    say(f"wrote {here / 'measured.json'}")


def measure(here: Path, plan: dict[str, Any], options: argparse.Namespace) -> dict[str, object]:
    """The contents of measured.json."""
    needed = str(plan["program"])
    of_tflite = needed == "benchmark_model"
    require_program(options, needed)
    phone = find_phone(options.serial)
    machine = ", ".join(filter(None, (adb(phone, "shell", f"getprop ro.{key}").strip() for key in PROPERTIES)))
    files: dict[str, str] = {entry["name"]: entry["fixed"] for entry in plan["candidates"]}
    push(phone, options.program, [here / file for file in files.values()])
    times: dict[str, list[float]] = {name: [] for name in files}
    rows: dict[str, dict[str, object]] = {}
    for number in range(ROUNDS):
        for name in list(files) if number % 2 == 0 else list(files)[::-1]:
            if name in rows:
                continue
            text = adb(phone, "shell", command_of(Path(files[name]).name, options, of_tflite), check=False)
            result = read_ms(text, of_tflite, options.gpu)
            if isinstance(result, str):
                rows[name] = {"failed": result}
                say(f"{name} failed: {result}")
            else:
                times[name].append(result)
    if not any(name not in rows for name in files):
        raise Stop(f"no file could be timed: {next(iter(rows.values()))['failed']}")
    for name, values in times.items():
        if name not in rows:
            ms = statistics.median(values)
            rows[name] = {"ms": ms, "low": min(values), "high": max(values)}
            say(f"{name:20} {ms:9.2f} ms {1000 / ms:9.2f} FPS")
    where = "GPU" if options.gpu else "CPU" if of_tflite else options.provider
    return {
        "schema": "srkd.plan-measured/1",
        "plan": plan["id"],
        "threads": options.threads,
        "provider": where,
        "machine": f"{machine or phone}, {needed}, {where}",
        "rows": rows,
    }


def require_program(options: argparse.Namespace, needed: str) -> None:
    if not options.program.is_file():
        raise Stop(f"--program {options.program} is not a file: give {needed}, built for the phone")
    if needed not in options.program.name:
        raise Stop(f"--program {options.program.name} is not {needed}, which times the files of this plan")
    if options.gpu and needed != "benchmark_model":
        raise Stop("--gpu is for benchmark_model: plan with --runtime litert")


def push(phone: str, program: Path, files: list[Path]) -> None:
    """Copy the program, the libraries beside it and the files to the phone."""
    adb(phone, "shell", f"mkdir -p {FOLDER}")
    for path in (program, *sorted(program.parent.glob("*.so")), *files):
        adb(phone, "push", str(path), f"{FOLDER}/{path.name}")
    adb(phone, "shell", f"chmod 755 {FOLDER}/{shlex.quote(program.name)}")


PROPERTIES = ("product.manufacturer", "product.model", "soc.model")


def command_of(file: str, options: argparse.Namespace, of_tflite: bool) -> str:
    program = shlex.quote(f"./{options.program.name}")
    if of_tflite:
        words = f"--graph={shlex.quote(file)} --num_threads={options.threads} --num_runs={options.runs}"
        words += f" --use_gpu={'true' if options.gpu else 'false'}"
    else:
        words = f"-I -m times -r {options.runs} -x {options.threads} -e {shlex.quote(options.provider)}"
        words += f" {shlex.quote(file)}"
    return f"cd {FOLDER} && LD_LIBRARY_PATH=. {program} {words} 2>&1"


def read_ms(text: str, of_tflite: bool, gpu: bool) -> float | str:
    """The milliseconds of an image in a program's output; in words why there are none."""
    found = (TFLITE_TIME if of_tflite else ONNX_TIME).search(text)
    if gpu and found is not None and WHOLLY not in text:
        return "the GPU runs only a part of it, or none"
    if found is None or float(found[1]) <= 0:
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it wrote nothing")
        return f"no time in its output: {last[:200]}"
    return float(found[1]) / 1000 if of_tflite else float(found[1])


def find_phone(serial: str | None) -> str:
    """The serial number of the connected phone."""
    lines = adb(None, "devices").splitlines()
    states = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    if serial is None and len(states) > 1:
        raise Stop(f"several phones are connected ({', '.join(states)}): name one with --serial")
    if serial is not None and serial not in states:
        raise Stop(f"--serial {serial} is not connected; adb devices lists {', '.join(states) or 'none'}")
    if not states:
        raise Stop("no phone is connected: connect one with USB debugging allowed, until adb devices lists it")
    phone = serial or next(iter(states))
    if states[phone].strip() != "device":
        raise Stop(f"the phone {phone} {STATES.get(states[phone].strip(), 'is in state ' + states[phone])}")
    return phone


def adb(phone: str | None, *words: str, check: bool = True) -> str:
    """The output of a call of adb."""
    program = shutil.which("adb")
    if program is None:
        raise Stop("adb is not on the PATH: install Android's platform-tools")
    command = [program, *([] if phone is None else ["-s", phone]), *words]
    try:
        done = subprocess.run(  # noqa: S603 - the user's own adb
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        if not check:
            return f"no end after {PATIENCE} s"
        raise Stop(f"adb {words[0]} took more than {PATIENCE} s") from error
    if check and done.returncode != 0:
        raise Stop(f"adb {' '.join(words)[:80]} failed: {' '.join((done.stderr or done.stdout).split())[:200]}")
    return done.stdout if done.stdout.strip() or check else done.stderr


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
