"""Milliseconds a picture as NTIRE's organisers time efficient networks: `python -m benchmarks ntire_timing`.

Every network enlarges each picture ten times in PyTorch after a warm-up, by the device's own events where it has them;
the mean over all is its runtime, beside that of team 00's SPAN, the challenge's baseline in 2025. --baseline is its
file; else a SPAN of its shape is built, which takes as long (NTIRE 2025 Challenge on Efficient Super-Resolution, arXiv
2504.10686).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.crops import lr_of
from benchmarks.evidence import Benchmark, Cell, Column, Table, add_variant_option, save
from compressor.base.machine import machine_facts
from compressor.images.files import read_rgb_u8
from compressor.images.resize import mod_crop
from compressor.images.sets import embedded_photos
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import build
from compressor.models.students.students import parse_student
from compressor.runtimes.torch_runtime import TorchRuntime
from export.timing.stopwatch import timer_for

BENCHMARK = Benchmark(
    "How fast are srkd's sizes as NTIRE's organisers time networks, beside the baseline of 2025?",
    minutes=6,
    arguments=("--baseline", "{checkpoints}/team00_SPAN.pth"),
    small=("--side", "96", "--repeats", "1", "--variant", "small"),
)
FIRST, BASELINE, SCALE = "team 00's SPAN", "span:width=28,depth=6,scale=4", 4
NETWORKS = ("span-s", "plain-s", "compact:width=32,depth=8", "compact:width=24,depth=8")
COLUMNS = (
    Column("network", "network"),
    Column("params", "parameters", ",d"),
    Column("macs", "multiply-adds an LR pixel", ",d"),
    Column("ms", "ms a picture", ".1f"),
    Column("ratio", "of the baseline's time", ".2f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="file of team 00's SPAN")
    parser.add_argument("--pictures", type=Path, help="folder of HR pictures (the embedded photos)")
    parser.add_argument("--side", type=int, help="crop their LR images to this side")
    parser.add_argument("--repeats", type=int, default=10, help="runs of each picture")
    parser.add_argument("--device", default="cpu", help="device of torch")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16")
    add_variant_option(parser)
    options = parser.parse_args()
    files = sorted(options.pictures.iterdir()) if options.pictures else list(embedded_photos("val").values())
    whole = [lr_of(mod_crop(read_rgb_u8(file), SCALE), SCALE, None, file.stem) for file in files]
    pictures = [lr[..., : options.side, : options.side].to(options.device) for lr in whole]
    rows = list(rows_of(pictures, options))
    machine = machine_facts()
    where = f"{torch.get_num_threads()} threads of {machine['cpu']}" if options.device == "cpu" else str(machine["gpu"])
    about = (
        f"{len(pictures)} pictures, each {options.repeats} times after a warm-up, ×{SCALE}, PyTorch in "
        f"{options.precision}, {where}; sizes of srkd with random weights."
    )
    save("ntire_timing", Table(COLUMNS, rows, about), variant=options.variant)
    return 0


def rows_of(pictures: list[torch.Tensor], options: argparse.Namespace) -> Iterator[dict[str, Cell]]:
    """Yield a row for each network; networks take turns within a picture, so that a busy machine is busy for all."""
    networks = {FIRST: load_checkpoint(options.baseline).network if options.baseline else built(BASELINE)}
    networks |= {name: built(f"{name},scale={SCALE}" if ":" in name else name) for name in NETWORKS}
    runtimes = {
        name: TorchRuntime(network, label=name, device=options.device, precision=options.precision)
        for name, network in networks.items()
    }
    timer, times = timer_for(options.device), {name: list[float]() for name in runtimes}
    for picture in pictures:
        for name, runtime in runtimes.items():
            runtime.run(picture)
            times[name] += timer(partial(runtime.run, picture), options.repeats)
    means = {name: sum(taken) / len(taken) for name, taken in times.items()}
    for name, network in networks.items():
        counted = cost(network, (64, 64))
        yield {
            "network": name,
            "params": counted.params,
            "macs": counted.macs // 64**2,
            "ms": means[name],
            "ratio": means[name] / means[FIRST],
        }


def built(spec: str) -> Network:
    return build(parse_student(spec), seed=0).eval()


if __name__ == "__main__":
    sys.exit(main())
