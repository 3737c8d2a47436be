"""ncnn, through pnnx: a traced copy of the network becomes a text of layers (.param) and their weights (.bin).

Blobs are called `data` and `output`, as the common upscalers built on ncnn want them; images are float RGB in [0,1].
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compressor.base.errors import SrkdError
from compressor.base.machine import installed_version
from compressor.runtimes.ncnn_runtime import INPUT, OUTPUT, NcnnRuntime, checksum
from export.conversion import CannotConvert, Conversion
from export.ncnn_trial import try_run

if TYPE_CHECKING:
    from compressor.models.networks.base import Network
    from compressor.runtimes.base import Runtime

LONGEST_SECONDS = 600
PNNX_BLOBS = {"in0": INPUT, "out0": OUTPUT}


def convert(job: Conversion) -> Mapping[str, object]:
    """Write `path` and the weights beside it. Without a chosen size the network is shown to pnnx at two, and takes
    any."""
    shapes = _shapes(job)
    network = job.network.for_size(*shapes[0][1:])
    if network is not job.network and job.choices.lr_size is None:
        raise CannotConvert(f"ncnn takes {network.spec.arch} at one size only, because of its windows: --static 64x64")
    with tempfile.TemporaryDirectory(prefix="srkd-pnnx-") as temporary:
        folder = Path(temporary)
        _trace(network, shapes[0], folder / "traced.pt")
        _run_pnnx(folder, shapes, job.network.spec.arch)
        text = (folder / "made.param").read_text(encoding="utf-8")
        _require_ncnn_layers(text, job.network.spec.arch)
        job.path.write_text(with_blob_names(text), encoding="utf-8")
        job.path.with_suffix(".bin").write_bytes((folder / "made.bin").read_bytes())
    try_run(job.path, (INPUT, OUTPUT), shapes)
    return {
        "pnnx": installed_version("pnnx"),
        "ncnn": installed_version("ncnn"),
        "layers": len(text.splitlines()) - 2,
        "blobs": f"{INPUT}, {OUTPUT}",
        "crc32": checksum(job.path),
    }


def open_runtime(path: Path) -> Runtime:
    return NcnnRuntime(path)


def _shapes(job: Conversion) -> list[tuple[int, int, int]]:
    """(C, H, W) of the examples: one for a fixed size, two that differ in both sides for any size."""
    descriptor = job.network.descriptor
    if job.choices.lr_size is not None:
        width, height = job.choices.lr_size
        return [(descriptor.channels, height, width)]
    step = descriptor.size_multiple
    side = -(-max(20, descriptor.min_size) // step) * step
    return [(descriptor.channels, side + more * step, side + (more + 4) * step) for more in (0, 7)]


def _trace(network: Network, shape: tuple[int, int, int], path: Path) -> None:
    example = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # Of sizes that become constants: the second example shows whether they did.
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path))


def _run_pnnx(folder: Path, shapes: list[tuple[int, int, int]], arch: str) -> None:
    """In a process and a folder of its own: it prints, leaves seven files where it stands, and crashes on some
    networks."""
    import pnnx

    names = [f"inputshape{number}" for number in ("", "2")]
    told = [f"{name}=[1,{','.join(map(str, shape))}]" for name, shape in zip(names, shapes, strict=False)]
    try:
        done = subprocess.run(  # noqa: S603 - pnnx's own program, on a file made here
            [pnnx.EXEC_PATH, "traced.pt", *told, "fp16=0", "ncnnparam=made.param", "ncnnbin=made.bin"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SrkdError(f"pnnx took over {LONGEST_SECONDS} s to convert {arch}") from error
    except OSError as error:
        raise SrkdError(f"pnnx cannot be started ({error}): pip install --force-reinstall pnnx") from error
    written = (folder / "made.param").is_file() and (folder / "made.bin").is_file()
    if done.returncode or not written:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise CannotConvert(f"pnnx cannot convert {arch}: {lines[-1].removeprefix('what():').strip()[:300]}")


def _require_ncnn_layers(text: str, arch: str) -> None:
    """What pnnx finds no ncnn layer for it writes down under torch's name, `Tensor.reshape`, and goes on."""
    foreign = sorted({kind for kind in (line.split()[0] for line in _layers(text)) if not re.fullmatch(r"\w+", kind)})
    if foreign:
        raise CannotConvert(f"pnnx finds no ncnn layer for {', '.join(foreign)} of {arch}")


def _layers(text: str) -> list[str]:
    return [line for line in text.splitlines()[2:] if line.strip()]


def with_blob_names(text: str) -> str:
    """The network with its first and last blob called as callers expect. A line holds type, name, number of inputs
    and of outputs, their blobs, and parameters."""
    lines = text.splitlines()[:2]
    for line in _layers(text):
        kind, name, inputs, outputs, *rest = line.split()
        blobs = int(inputs) + int(outputs)
        if kind == "Input":
            name = INPUT
        renamed = [PNNX_BLOBS.get(blob, blob) for blob in rest[:blobs]]
        lines.append(" ".join([f"{kind:<24}", f"{name:<24}", inputs, outputs, *renamed, *rest[blobs:]]))
    return "\n".join(lines) + "\n"
