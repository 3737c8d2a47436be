"""ncnn, by pnnx: a traced network is converted to a text of layers (.param) and their weights (.bin).

Blobs are called `data` and `output`, as common upscalers based on ncnn expect; images are float RGB in [0,1].
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from compressor.base.child import run_in_child
from compressor.base.context import Progress
from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.runtimes.ncnn_runtime import INPUT, OUTPUT, checksum
from export.formats.conversion import CannotConvert, Conversion, example_size, require_size

TIMEOUT_SECONDS = 600
PNNX_BLOBS = {"in0": INPUT, "out0": OUTPUT}


def convert(job: Conversion) -> Mapping[str, object]:
    """Write `path` and the weights beside it. For any size, the network is converted with two example sizes."""
    require_size(job, "ncnn")
    shapes = _shapes(job)
    network = job.network.for_size(*shapes[0][1:])
    with tempfile.TemporaryDirectory(prefix="srkd-pnnx-") as temporary:
        folder = Path(temporary)
        example = torch.rand(1, *shapes[0], generator=torch.Generator().manual_seed(0))
        with warnings.catch_warnings(), torch.no_grad():
            # Warnings about sizes that become constants; the second example shows whether they did.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(folder / "traced.pt"))
        _run_pnnx(folder, shapes, job.network.spec.arch)
        text = (folder / "made.param").read_text(encoding="utf-8")
        # pnnx writes operations without an ncnn layer with torch's name, such as `Tensor.reshape`.
        kinds = {line.split()[0] for line in _layers(text)}
        unknown = sorted(kind for kind in kinds if not re.fullmatch(r"\w+", kind))
        if unknown:
            raise CannotConvert(f"pnnx has no ncnn layer for {', '.join(unknown)} of {job.network.spec.arch}")
        job.path.write_text(rename_blobs(text), encoding="utf-8")
        job.path.with_suffix(".bin").write_bytes((folder / "made.bin").read_bytes())
    try_run(job.path, (INPUT, OUTPUT), shapes)
    return {
        "pnnx": installed_version("pnnx"),
        "ncnn": installed_version("ncnn"),
        "layers": len(text.splitlines()) - 2,
        "blobs": f"{INPUT}, {OUTPUT}",
        "crc32": checksum(job.path),
    }


def try_run(path: Path, blobs: tuple[str, str], shapes: Sequence[Sequence[int]]) -> None:
    """Run a network from one blob to the other in a child process: ncnn may crash on a converted file."""
    run_in_child(
        "export.convert.to_ncnn:run_noise",
        {"path": str(path), "blobs": blobs, "shapes": shapes},
        what="ncnn does not run it",
        timeout_seconds=TIMEOUT_SECONDS,
        environment={"OMP_NUM_THREADS": "1"},
    )


def run_noise(progress: Progress, *, path: str, blobs: tuple[str, str], shapes: Sequence[Sequence[int]]) -> None:
    """Load a network and run it on noise of each (C, H, W); runs in the child process."""
    import ncnn

    net = ncnn.Net()
    if net.load_param(path) or net.load_model(str(Path(path).with_suffix(".bin"))):
        raise SrkdError("ncnn does not run it: it cannot be loaded")
    for shape in shapes:
        extractor = net.create_extractor()
        image = np.random.default_rng(0).random(shape, dtype=np.float32)
        extractor.input(blobs[0], ncnn.Mat(image).clone())
        code, out = extractor.extract(blobs[1])
        if code or not np.array(out).size:
            raise SrkdError(f"ncnn does not run it: it fails on {list(shape)} with {code}")


def _shapes(job: Conversion) -> list[tuple[int, int, int]]:
    """The examples' shapes (C, H, W): one for a fixed size, two that differ in both sides for any size."""
    descriptor = job.network.descriptor
    if job.options.lr_size is not None:
        width, height = job.options.lr_size
        return [(descriptor.channels, height, width)]
    width, height = example_size(job.network)
    return [(descriptor.channels, height + more, width + more) for more in (0, 7 * descriptor.size_multiple)]


def _run_pnnx(folder: Path, shapes: list[tuple[int, int, int]], arch: str) -> None:
    """Run pnnx in a process and folder of its own: it prints, leaves seven files, and crashes on some networks."""
    import pnnx

    names = [f"inputshape{number}" for number in ("", "2")]
    arguments = [f"{name}=[1,{','.join(map(str, shape))}]" for name, shape in zip(names, shapes, strict=False)]
    try:
        done = subprocess.run(  # noqa: S603 - pnnx's own program, on a file made here
            [pnnx.EXEC_PATH, "traced.pt", *arguments, "fp16=0", "ncnnparam=made.param", "ncnnbin=made.bin"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SrkdError(f"pnnx took over {TIMEOUT_SECONDS} s to convert {arch}") from error
    except OSError as error:
        raise SrkdError(f"pnnx cannot be started ({error}): pip install --force-reinstall pnnx") from error
    has_files = (folder / "made.param").is_file() and (folder / "made.bin").is_file()
    if done.returncode or not has_files:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise CannotConvert(f"pnnx cannot convert {arch}: {lines[-1].removeprefix('what():').strip()[:300]}")


def _layers(text: str) -> list[str]:
    return [line for line in text.splitlines()[2:] if line.strip()]


def rename_blobs(text: str) -> str:
    """The network with its first and last blob renamed as callers expect. A line holds type, name, number of
    inputs and of outputs, their blobs, and parameters."""
    lines = text.splitlines()[:2]
    for line in _layers(text):
        kind, name, inputs, outputs, *rest = line.split()
        blobs = int(inputs) + int(outputs)
        if kind == "Input":
            name = INPUT
        renamed = [PNNX_BLOBS.get(blob, blob) for blob in rest[:blobs]]
        lines.append(" ".join([f"{kind:<24}", f"{name:<24}", inputs, outputs, *renamed, *rest[blobs:]]))
    return "\n".join(lines) + "\n"
