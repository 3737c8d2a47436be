"""Batches a second of the data path alone, beside a plain DataLoader over PNG files as the field writes it.

    python -m benchmarks data_path [--data DIR] [--batches 3] [--rounds 3]

Rows: srkd's store; a DataLoader of two workers that decodes whole HR and LR files for each sample; the same over
sub-images, as BasicSR prepares them. All give float batches, cropped at random and turned. They take turns in one
process; figures are medians over the rounds. Without --data: PNG files of 2040x1356, mosaics of the embedded photos.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.evidence import Benchmark, Column, Row, Table, save
from benchmarks.field_practice import SUB_IMAGE, field_loader, write_pngs
from compressor.base.machine import usable_cores
from compressor.data.batches import Batches
from compressor.data.decode import decode_all
from compressor.images.files import read_rgb_u8
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import embedded_photos, find_sets, list_images

BENCHMARK = Benchmark(
    "How fast are batches made, beside a DataLoader over PNG files?",
    minutes=6,
    small=("--batches", "1", "--rounds", "1"),
)

BATCH, PATCH, SCALE = 16, 48, 4
OURS = "srkd"
AHEAD = 4
"""Batches that two workers prepare in advance (torch's default: two each)."""

WIDTH, HEIGHT = 2040, 1356
"""The size of most pictures of DIV2K."""
COLUMNS = (
    Column("way", "data path"),
    Column("ms", "ms a batch", ",.1f"),
    Column("fastest", "fastest turn", ",.1f"),
    Column("slowest", "slowest turn", ",.1f"),
    Column("rate", "batches/s", ".2f"),
    Column("srkd", "srkd is times as fast", ".1f"),
)


@dataclass(frozen=True)
class Way:
    name: str
    next_batch: Callable[[], object]
    ahead: int = 0

    def milliseconds(self, batches: int) -> float:
        """Return the time of a batch, after those prepared in advance are used up; wait until the workers are idle."""
        for _ in range(self.ahead):
            self.next_batch()
        start = time.perf_counter()
        for _ in range(batches):
            self.next_batch()
        each = (time.perf_counter() - start) / batches
        time.sleep(each * (self.ahead + 1) if self.ahead else 0)
        return 1e3 * each


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of HR images; none: mosaics of the embedded photos")
    parser.add_argument(
        "--batches", type=int, default=3, help="batches a turn; srkd, which is quicker, gives 50 a turn"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        each = ways(photos(options.data, Path(work)), Path(work))
        times: dict[str, list[float]] = {way.name: [] for way in each}
        for turn in range(options.rounds + 1):
            for way in each:
                spent = way.milliseconds(options.batches if way.ahead else 50)
                if turn:  # the first starts the workers
                    times[way.name].append(spent)
        # Deleting the iterators ends the workers.
        del each
    caption = (
        f"Batches of {BATCH} patches, LR {PATCH}×{PATCH}, ×{SCALE}, as floats; {torch.get_num_threads()} thread(s), "
        f"{usable_cores()} cores; the median of {options.rounds} turns."
    )
    save("data_path", Table(COLUMNS, rows(times), caption))
    return 0


def rows(times: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row per way, from the milliseconds of its turns."""
    medians = {name: statistics.median(turns) for name, turns in times.items()}
    return [
        {
            "way": name,
            "ms": medians[name],
            "fastest": min(turns),
            "slowest": max(turns),
            "rate": 1e3 / medians[name],
            "srkd": None if name == OURS else medians[name] / medians[OURS],
        }
        for name, turns in times.items()
    ]


def photos(data: Path | None, work: Path) -> list[Path]:
    """Return HR images: those of `data`, or embedded photos extended by mirroring to the size of DIV2K's."""
    if data is not None:
        return list_images(data)
    (work / "mosaics").mkdir()
    for name, path in embedded_photos("train").items():
        pixels = read_rgb_u8(path).permute(1, 2, 0).numpy()
        beyond = ((0, HEIGHT - pixels.shape[0]), (0, WIDTH - pixels.shape[1]), (0, 0))
        Image.fromarray(np.pad(pixels, beyond, "symmetric")).save(work / "mosaics" / f"{name}.png")
    return list_images(work / "mosaics")


def ways(paths: list[Path], work: Path) -> list[Way]:
    whole = write_whole(paths, work / "whole")
    parts = write_pngs(work / "parts", scale=SCALE, photos=paths)
    pairs = find_sets(whole / "HR", scale=SCALE, lr=whole / "LR")[0].pairs
    batches = Batches.for_store(
        decode_all(pairs, scale=SCALE).select(lr_patch=PATCH), batch=BATCH, lr_patch=PATCH, seed=0
    )
    steps = iter(range(10**9))
    each = [Way(OURS, lambda: batches.at(next(steps)))]
    for name, folder in (("PNG, whole", whole), (f"PNG, {SUB_IMAGE}x{SUB_IMAGE}", parts)):
        loaded = iter(field_loader(folder, scale=SCALE, lr_patch=PATCH, batch=BATCH, length=10**5))
        each.append(Way(f"2 workers, {name}", loaded.__next__, AHEAD))
    return each


def write_whole(paths: list[Path], folder: Path) -> Path:
    """Write HR/ and LR/ as PNG files of whole pictures; return the folder."""
    for kind in ("HR", "LR"):
        (folder / kind).mkdir(parents=True)
    for path in paths:
        hr_u8 = mod_crop(read_rgb_u8(path), SCALE)
        for kind, image in (("HR", hr_u8), ("LR", downscale_u8(hr_u8, SCALE))):
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / kind / f"{path.stem}.png")
    return folder


if __name__ == "__main__":
    sys.exit(main())
