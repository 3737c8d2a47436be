"""Times the ONNX files beside it on this machine, in turns: `python run.py [--threads 2] [--seconds 1]`.

It needs onnxruntime and numpy alone, reads plan.json, and writes measured.json, which `srkd plan --measured` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROUNDS = 10


def main() -> None:
    here = Path(__file__).resolve().parent
    plan = json.loads((here / "plan.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=plan["environment"]["threads"] or 0, help="0: all")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each file")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="execution provider of ONNX Runtime")
    options = parser.parse_args()
    width, height = plan["environment"]["lr_size"]
    lr = np.random.default_rng(0).random((1, plan["channels"], height, width), dtype=np.float32)
    calls: dict[str, Callable[[], object]] = {}
    rows: dict[str, dict[str, object]] = {}
    for name, shape in plan["shapes"].items():
        try:
            calls[name] = open_file(here / shape["file"], options, lr)
        except Exception as error:  # noqa: BLE001, one file that this device cannot run leaves the others
            rows[name] = {"failed": " ".join(str(error).split())}
            print(f"{name} failed: {error}", flush=True)
    for name, rounds in take_turns(calls, options.seconds).items():
        medians = sorted(float(np.median(times)) for times in rounds)
        ms = float(np.median(np.concatenate(rounds)))
        rows[name] = {"ms": ms, "low": medians[1], "high": medians[-2]}
        print(f"{name:20} {ms:9.2f} ms {1000 / ms:9.2f} FPS", flush=True)
    measured = {
        "schema": "srkd.plan-measured/1",
        "plan": plan["id"],
        "threads": options.threads,
        "provider": options.provider,
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "rows": rows,
    }
    (here / "measured.json").write_text(json.dumps(measured, indent=2), encoding="utf-8")
    print(f"wrote {here / 'measured.json'}")


def open_file(path: Path, options: argparse.Namespace, lr: Any) -> Callable[[], object]:
    """A call that runs one image."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, options.threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=[options.provider])
    name = session.get_inputs()[0].name
    session.run(None, {name: lr})
    return lambda: session.run(None, {name: lr})


def take_turns(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[list[float]]]:
    """The milliseconds of each call by round; all calls take a turn in each round, in alternating order."""
    rounds: dict[str, list[list[float]]] = {name: [] for name in calls}
    for number in range(ROUNDS):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            calls[name]()
            times, until = rounds[name], time.perf_counter() + seconds / ROUNDS
            times.append([timed(calls[name])])
            while time.perf_counter() < until:
                times[-1].append(timed(calls[name]))
    return rounds


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
