"""Times the ONNX files beside it on this machine, in turns: `python run.py [--threads 2] [--seconds 1]`.

It needs onnxruntime and numpy alone, reads plan.json and photo.npy, and writes measured.json, which `srkd plan
--measured` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROUNDS, LEAST_ROUNDS = 20, 8


def main() -> None:
    here = Path(__file__).resolve().parent
    plan = json.loads((here / "plan.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=plan["threads"] or 0, help="0: as ONNX Runtime chooses")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each file")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of ONNX Runtime")
    options = parser.parse_args()
    lr = np.load(here / "photo.npy").astype(np.float32) / 255
    calls: dict[str, Callable[[], object]] = {}
    rows: dict[str, dict[str, object]] = {}
    for entry in plan["candidates"]:
        try:
            calls[entry["name"]] = open_file(here / entry["file"], options, lr)
        except Exception as error:  # noqa: BLE001, one file that this device cannot run leaves the others
            rows[entry["name"]] = {"failed": " ".join(str(error).split())}
            say(f"{entry['name']} failed: {error}")
    for name, times in take_turns(calls, options.seconds).items():
        medians = sorted(float(np.median(turn)) for turn in times)
        cut = 3 if len(medians) >= ROUNDS else 0
        ms = float(np.median([value for turn in times for value in turn]))
        rows[name] = {"ms": ms, "low": medians[cut], "high": medians[-1 - cut]}
        say(f"{name:20} {ms:9.2f} ms {1000 / ms:9.2f} FPS")
    measured = {
        "schema": "srkd.plan-measured/1",
        "plan": plan["id"],
        "threads": options.threads,
        "provider": options.provider,
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "onnxruntime": onnxruntime.__version__,
        "rows": rows,
    }
    (here / "measured.json").write_text(json.dumps(measured, indent=2), encoding="utf-8")
    say(f"wrote {here / 'measured.json'}")


def open_file(path: Path, options: argparse.Namespace, lr: Any) -> Callable[[], object]:
    """A call that runs one image."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if options.threads:
        settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=[options.provider])
    name = session.get_inputs()[0].name
    session.run(None, {name: lr})
    return lambda: session.run(None, {name: lr})


def take_turns(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[list[float]]]:
    """The milliseconds of each call by round; all calls take a turn in each round, in alternating order."""
    repeats = {name: max(1, min(100, round(seconds / ROUNDS / timed(call)))) for name, call in calls.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in calls}
    began = time.perf_counter()
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() - began > seconds * len(calls):
            break
        order = list(calls) if number % 2 == 0 else list(calls)[::-1]
        for name in order:
            if repeats[name] > 1:
                calls[name]()
            rounds[name].append([1000 * timed(calls[name]) for _ in range(repeats[name])])
    return rounds


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
