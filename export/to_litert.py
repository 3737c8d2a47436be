"""LiteRT's .tflite, as phones run it: N,H,W,C in and out, any size where the network has none in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.models.checkpoints.save import save_network
from compressor.runtimes.base import Runtime
from compressor.runtimes.litert_runtime import LiteRtRuntime
from export.conversion import CannotConvert, Conversion


def convert(job: Conversion) -> Mapping[str, object]:
    """The converter runs in a process of its own (`litert_worker`)."""
    arch = job.network.spec.arch
    with tempfile.TemporaryDirectory(prefix="srkd-") as name:
        folder = Path(name)
        save_network(job.network, folder / "weights.safetensors")
        order = {
            "weights": str(folder / "weights.safetensors"),
            "path": str(job.path),
            "answer": str(folder / "answer.json"),
            "lr_size": job.choices.lr_size,
            "io": job.choices.io,
            "metadata": dict(job.metadata),
        }
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        answer = _answer(folder, arch)
    if "needs_size" in answer:
        raise CannotConvert(
            f"{arch} has operations that LiteRT knows for one image size only ({answer['needs_size']}): "
            "choose one, as in --static 128x128"
        )
    if "error" in answer:
        raise SrkdError(f"LiteRT's converter cannot convert {arch}: {answer['error'][:300]}")
    facts: dict[str, object] = answer["facts"]
    return {"litert_torch": installed_version("litert-torch"), **facts}


def _answer(folder: Path, arch: str) -> dict[str, Any]:
    done = subprocess.run(  # noqa: S603 - this interpreter, a module of ours, a path of ours
        [sys.executable, "-m", "export.litert_worker", str(folder / "order.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    answer = folder / "answer.json"
    if answer.is_file():
        told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return told
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
    raise SrkdError(f"LiteRT's converter ended with status {done.returncode} on {arch}: {last[:300]}")


def open_runtime(path: Path) -> Runtime:
    return LiteRtRuntime(path)
