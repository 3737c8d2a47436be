"""A first run of an ncnn network in a process of its own, because ncnn may crash on what a converter wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compressor.base.errors import SrkdError

LONGEST_SECONDS = 600


def try_run(path: Path, blobs: tuple[str, str], shapes: Sequence[tuple[int, int, int]]) -> None:
    """Load `path` and run noise of each (C, H, W) from one blob to the other; one line where that fails."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "export.ncnn_trial"],
            input=json.dumps([str(path), blobs, shapes]),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SrkdError(f"ncnn took over {LONGEST_SECONDS} s to run it on {shapes}") from error
    if done.returncode < 0:
        raise SrkdError(f"ncnn crashes on it (signal {-done.returncode})")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise SrkdError(f"ncnn does not run it: {lines[-1][:300]}")


def _main() -> int:
    """In the other process."""
    import ncnn

    name, (given, taken), shapes = json.load(sys.stdin)
    net = ncnn.Net()
    if net.load_param(name) or net.load_model(str(Path(name).with_suffix(".bin"))):
        return 1
    for shape in shapes:
        extractor = net.create_extractor()
        image = np.random.default_rng(0).random(shape, dtype=np.float32)
        extractor.input(given, ncnn.Mat(image).clone())
        failed, out = extractor.extract(taken)
        if failed or not np.array(out).size:
            sys.stderr.write(f"it fails on {shape} with {failed}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
