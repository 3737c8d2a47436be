"""`srkd upscale` beside whole images: `python -m benchmarks upscale_speed [--data SETS] [--threads N]`.

Speed and memory: a photo of 1920x1080 through the embedded student, whole through ONNX Runtime and eager torch in fp32,
and by `srkd upscale`, with `--exact` and by default. Each run is a separate process, whose peak memory includes
everything, also the image of 7680x4320; the rows take turns. The clock starts after a first small image and covers
opening the model and rounding to 8 bit, not files.

Agreement: bf16 against fp32, over every LR image of the sets in --data as a whole: the smallest PSNR and the largest
difference in 8-bit steps, for each --model. The samples by which srkd chooses bf16 are parts of these images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from benchmarks.training_speed import ratio
from compressor.assets import embedded_student
from compressor.base.machine import peak_resident_bytes
from compressor.base.memory import keep_freed_memory
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import psnr, to_u8
from compressor.images.sets import embedded_photos, find_sets
from compressor.inference import lower_precision
from compressor.inference.lower_precision import PrecisionChoice
from compressor.inference.open import open_model
from compressor.inference.super_resolve import super_resolve
from compressor.runtimes.table import OpenOptions
from compressor.runtimes.torch_runtime import TorchRuntime

SIZE = (1920, 1080)
BENCHMARK = Benchmark(
    "How fast is `srkd upscale`, and how near is bf16 to fp32?",
    minutes=30,
    arguments=("--data", "{sets}", "--model", str(embedded_student()), "{checkpoints}/carn_m.pth"),
    small=("--rounds", "1"),
)
ROUNDS = 3


def whole(runtime: str) -> Callable[[Path, Tensor], Tensor]:
    """Return a function that runs a whole image in a runtime."""
    return lambda model, lr: open_model(model, OpenOptions(runtime=runtime)).run(lr)


def eager(model: Path, lr: Tensor) -> Tensor:
    """Run a whole image as common scripts do, by calling the network."""
    network = srkd.load(model).network
    assert network is not None
    with torch.no_grad():
        sr: Tensor = network.eval()(lr)
    return sr


def by_srkd(*, exact: bool) -> Callable[[Path, Tensor], Tensor]:
    """Return a function that enlarges an image as `srkd upscale` does."""

    def enlarge(model: Path, lr: Tensor) -> Tensor:
        keep_freed_memory()
        selected = PrecisionChoice(open_model(model), exact=exact).select(lr)
        return super_resolve(selected.runtime, lr).sr

    return enlarge


ROWS: Mapping[str, Callable[[Path, Tensor], Tensor]] = {
    "whole, ONNX Runtime fp32": whole("onnxruntime"),
    "whole, eager torch fp32": eager,
    "srkd upscale --exact": by_srkd(exact=True),
    "srkd upscale": by_srkd(exact=False),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="sets whose LR images bf16 is compared on")
    parser.add_argument("--model", type=Path, nargs="+", default=[embedded_student()], help="checkpoints to compare")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--row", nargs=2, metavar=("ROW", "MODEL"), help="run one row, print its JSON, and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.row is not None:
        print(json.dumps(run_row(options.row[0], Path(options.row[1]))))
        return 0
    tables = {"speed": speed(options.threads, options.rounds)}
    if options.data is not None:
        tables["bf16"] = agreement(options.model, options.data)
    save("upscale_speed", tables)
    return 0


def photo() -> Tensor:
    """Return an embedded photo at SIZE."""
    first = next(iter(embedded_photos("train").values()))
    with Image.open(first) as image:
        large = image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(large).copy()).permute(2, 0, 1)[None].float().div(255)


def run_row(name: str, model: Path) -> dict[str, float]:
    lr = photo()
    ROWS[name](model, lr[..., :64, :64])  # the first call of a library is slower than all later ones
    start = time.perf_counter()
    to_u8(ROWS[name](model, lr))
    return {"seconds": time.perf_counter() - start, "bytes": peak_resident_bytes()}


def speed(threads: int, rounds: int) -> Table:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = embedded_student()
        exported = srkd.export(checkpoint, out=folder).files[0].path
        for number in range(rounds):
            for name in ROWS:
                model = exported if "ONNX" in name else checkpoint
                command = [sys.executable, "-m", "benchmarks.upscale_speed", "--threads", str(threads), "--row"]
                done = subprocess.run([*command, name, str(model)], capture_output=True, text=True, check=True)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}: {name} {results[name][-1]['seconds']:.1f} s", file=sys.stderr)
    base = [result["seconds"] for result in results["whole, ONNX Runtime fp32"]]
    columns = (
        Column("way", ""),
        Column("seconds", "seconds"),
        Column("gigabytes", "peak memory, GB", ".1f"),
        Column("ratio", "times as fast as whole in ONNX Runtime"),
    )
    rows: list[Row] = []
    for name, runs in results.items():
        seconds = [result["seconds"] for result in runs]
        cells: dict[str, Cell] = {
            "way": name,
            "seconds": f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
            "gigabytes": max(result["bytes"] for result in runs) / 1e9,
            "ratio": ratio(base, seconds),
        }
        rows.append(cells)
    return Table(columns, rows, f"The embedded student, {SIZE[0]}x{SIZE[1]}, {threads} thread(s), {rounds} rounds.")


def agreement(models: Sequence[Path], data: Path) -> Table:
    """Compare whole images in bf16 and fp32, also small ones, which normally stay in fp32."""
    lower_precision.LEAST_LR_PIXELS = 0
    rows: list[Row] = []
    for model in models:
        exact = open_model(model, OpenOptions(scale=4))
        assert isinstance(exact, TorchRuntime)
        choice, worst, largest, selected, images = PrecisionChoice(exact), float("inf"), 0, 0, 0
        for image_set in find_sets(data, scale=exact.descriptor.scale):
            for pair in image_set.pairs:
                if pair.lr is None:
                    continue
                lr = read_rgb_u8(pair.lr)[None].float().div(255)
                images += 1
                if min(lr.shape[-2:]) < lower_precision.SAMPLE or choice.select(lr).runtime is exact:
                    continue
                selected += 1
                one, other = (to_u8(super_resolve(runtime, lr).sr) for runtime in (exact, exact.in_bf16()))
                worst = min(worst, float(psnr(other, one)))
                largest = max(largest, int((one.int() - other.int()).abs().max()))
        rows.append({"model": model.stem, "images": images, "bf16": selected, "db": worst, "largest": largest})
    columns = (
        Column("model", "model"),
        Column("images", "images"),
        Column("bf16", "in bf16"),
        Column("db", "least PSNR to fp32, dB", ".1f"),
        Column("largest", "largest difference"),
    )
    return Table(columns, rows, "Whole images in bf16 beside fp32, small ones too.")


if __name__ == "__main__":
    sys.exit(main())
