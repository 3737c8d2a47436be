"""Retrain the embedded teacher: `python -m benchmarks.embedded_teacher --photos PHOTOS --labels-by DCTLSA_x4.pt`.

Five runs of `srkd compress --recipe scratch`, packed as fp16. The first learns from the photographs themselves. The
others continue from it with labels of a much stronger network: each photograph is downscaled by 3, 4, 6 and 8, for the
last run also by 5 and 7, and that network's enlargement of the small image is the HR image. The last run starts from
the average of the two before it. `--pack RUN` packs a finished run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from compressor.assets import FOLDER
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import to_u8
from compressor.images.resize import imresize
from compressor.images.sets import list_images
from compressor.inference.open import open_model
from compressor.inference.super_resolve import super_resolve
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.runtimes.base import Runtime

STUDENT = "edsr:width=48,depth=16,scale=4"
SETTINGS = ("batch=8", "lr_patch=32", "rate=5e-4", "decay=cosine", "precision=bf16")
FIRST_STEPS, SECOND_STEPS, THIRD_STEPS, LAST_STEPS = 13_000, 17_000, 5_200, 2_900
SMALLER, SMALLER_AT_LAST = (3, 4, 6, 8), (5, 7)
TILE, OVERLAP = 192, 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="photographs whose licence allows what the weights are for")
    parser.add_argument("--labels-by", type=Path, help="the x4 network that labels, any file that srkd can load")
    parser.add_argument("--out", type=Path, default=Path("runs/teacher"))
    parser.add_argument("--pack", type=Path, help="a finished run to pack, without training")
    parser.add_argument("--to", type=Path, default=FOLDER / "teacher.safetensors")
    options = parser.parse_args()
    if options.pack is not None:
        pack(options.pack, options.to)
        return 0
    if options.photos is None or options.labels_by is None:
        parser.error("--photos FOLDER and --labels-by FILE are needed to train, or --pack RUN to pack a finished run")
    out: Path = options.out
    compress("--data", options.photos, "--steps", FIRST_STEPS, "--out", out / "first")
    labelled = out / "labelled"
    label(options.photos, open_model(options.labels_by), labelled, SMALLER)
    pairs = ("--data", labelled / "HR", "--lr-images", labelled / "LR")
    compress(*pairs, "--steps", SECOND_STEPS, "--seed", 11, "--init-from", out / "first", "--out", out / "second")
    compress(*pairs, "--steps", THIRD_STEPS, "--seed", 13, "--init-from", out / "second", "--out", out / "third")
    compress(*pairs, "--steps", LAST_STEPS, "--seed", 14, "--init-from", out / "third", "--out", out / "fourth")
    average((out / "third", out / "fourth"), out / "average.safetensors")
    label(options.photos, open_model(options.labels_by), labelled, SMALLER_AT_LAST)
    start = ("--init-from", out / "average.safetensors")
    compress(*pairs, "--steps", LAST_STEPS, "--seed", 15, *start, "--out", out / "fifth")
    pack(out / "fifth", options.to)
    return 0


def compress(*arguments: object) -> None:
    """Run `srkd compress` from scratch with the common settings."""
    settings = [word for setting in SETTINGS for word in ("--set", f"schedule.{setting}")]
    options = ["--recipe", "scratch", "--student", STUDENT, *(str(argument) for argument in arguments)]
    subprocess.run([sys.executable, "-m", "srkd", "compress", *options, *settings], check=True)


@torch.no_grad()
def label(photos: Path, network: Runtime, folder: Path, smaller: Sequence[int]) -> None:
    """Write downscaled photographs to LR/ and their enlargements by `network` to HR/."""
    for name in ("LR", "HR"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in list_images(photos):
        hr_u8 = read_rgb_u8(path)
        for divisor in smaller:
            lr_u8 = imresize(hr_u8.float(), 1 / divisor).round().clamp(0, 255).to(torch.uint8)
            sr = super_resolve(network, lr_u8.float()[None] / 255, tile=TILE, overlap=OVERLAP).sr
            _write(lr_u8, folder / "LR" / f"{path.stem}_{divisor}.png")
            _write(to_u8(sr)[0], folder / "HR" / f"{path.stem}_{divisor}.png")


def average(runs: Sequence[Path], path: Path) -> None:
    """Write the mean of the runs' weights, tensor by tensor."""
    networks = [load_checkpoint(run / "student.safetensors").network for run in runs]
    states = [network.state_dict() for network in networks]
    networks[0].load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    save_network(networks[0], path, metadata={})


def _write(image_u8: torch.Tensor, path: Path) -> None:
    Image.fromarray(image_u8.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()).save(path)


def pack(run: Path, target: Path) -> None:
    """Write the run's averaged weights as fp16 safetensors, with the run's scores in the header."""
    loaded = load_checkpoint(run / "student.safetensors")
    keys = ("srkd.recipe", "srkd.source_sha256", "srkd.protocol", "srkd.scores")
    metadata = {key: loaded.header[key] for key in keys if key in loaded.header}
    save_network(loaded.network, target, metadata=metadata, dtype=torch.float16)
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    print(f"wrote {target}: {target.stat().st_size:,} bytes, {facts['preset']['schedule']['steps']:,} steps")


if __name__ == "__main__":
    sys.exit(main())
