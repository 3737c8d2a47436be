"""What a student scores that is solved for: `python -m benchmarks.fitted_students --photos DIR --data DIR` writes
docs/fit-results.md.

DIR of --photos holds images that patches are drawn from, DIR of --data a benchmark set. Teachers are the embedded one
and those of --teacher FILE. Takes about three minutes for each teacher on two threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import srkd
from compressor.assets import embedded_teacher
from compressor.base.machine import machine_facts
from compressor.data.calibration import draw_calibration_patches
from compressor.data.prepare import DataChoice, prepare_data
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import psnr_y, to_u8
from compressor.images.resize import downscale_u8, upscale_bicubic
from compressor.images.sets import find_sets
from compressor.models.fitting.fit import fit
from compressor.models.fitting.patches import PATCH
from compressor.models.networks.base import ImageModel, Network
from compressor.models.students import build_student

PAGE = Path(__file__).resolve().parent.parent / "docs" / "fit-results.md"
CUTS = ({"width": 0.75}, {"width": 0.5}, {"width": 0.25}, {"depth": 0.5}, {"width": 0.5, "depth": 0.5})


def calibration_patches(photos: Path, scale: int, seed: int = 0) -> torch.Tensor:
    """Return patches as a run with these photos would draw them."""
    return draw_calibration_patches(prepare_data(DataChoice(photos), scale=scale, lr_patch=PATCH).train, seed=seed)


def scores(model: ImageModel | None, teacher: Network, data: Path) -> tuple[float, float]:
    """Return the mean Y-PSNR to the originals and to the teacher's images; of bicubic without a model."""
    to_original, to_teacher = [], []
    scale = teacher.spec.scale
    for pair in find_sets(data, scale=scale)[0].pairs:
        hr = read_rgb_u8(pair.hr)
        hr = hr[:, : hr.shape[1] // scale * scale, : hr.shape[2] // scale * scale]
        lr = (downscale_u8(hr, scale) if pair.lr is None else read_rgb_u8(pair.lr))[None].float() / 255
        with torch.no_grad():
            mine, its = (upscale_bicubic(lr, scale) if one is None else one(lr) for one in (model, teacher))
        mine, its = (to_u8(one).float() / 255 for one in (mine, its))
        to_original.append(float(psnr_y(mine, hr[None].float() / 255, border=scale)))
        to_teacher.append(float(psnr_y(mine, its, border=scale)))
    return sum(to_original) / len(to_original), sum(to_teacher) / len(to_teacher)


def rows(teacher: Network, label: str, photos: Path, data: Path) -> Iterator[str]:
    lr = calibration_patches(photos, teacher.spec.scale)
    yield f"| {label} | the teacher | | {scores(teacher, teacher, data)[0]:.2f} | | |"
    original, its = scores(None, teacher, data)
    yield f"| | bicubic | | {original:.2f} | {its:.2f} | |"
    for cut in CUTS:
        try:
            sliced = build_student(teacher, **cut)
        except srkd.SrkdError:
            continue  # CARN has no depth
        began = time.monotonic()
        student = fit(teacher, sliced.spec, lr)
        seconds = time.monotonic() - began
        before, after = scores(sliced, teacher, data), scores(student, teacher, data)
        shape = ", ".join(f"{name} {value:g}" for name, value in cut.items())
        yield f"| | {shape} | {before[0]:.2f} | {after[0]:.2f} | {after[1]:.2f} | {seconds:.0f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, action="append", default=[])
    parser.add_argument("--scale", type=int, default=4, help="of multi-scale files")
    options = parser.parse_args(arguments)
    facts = machine_facts()
    lines = [
        "# Students that are solved for: results",
        "",
        f"`python -m benchmarks.fitted_students` on {facts['cpu']}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}. Y-PSNR in dB on {options.data.name}, border {options.scale}; patches from "
        f"{options.photos.name}, no gradient ([how](fit.md)).",
        "",
        "| teacher | student | slice | fit | fit, to the teacher's image | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for path in (embedded_teacher(), *options.teacher):
        network = srkd.load(path, scale=None if path == embedded_teacher() else options.scale).require_network(
            "weights"
        )
        for line in rows(network, f"{path.stem} ({network.architecture})", options.photos, options.data):
            print(line, flush=True)
            lines.append(line)
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
