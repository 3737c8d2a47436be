"""Our metrics, low-resolution images and networks against published ones: `python -m benchmarks.metrics_and_lr`.

DIR holds `benchmarks/SET/{HR,LRbicX*}`, `reference/RCAN-Set5-SR/x*` and `checkpoints/carn_m.pth`; beside it lies
`golden/`. What DIR does not hold is left out. Ends with 1 if any figure is outside its tolerance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from benchmarks import golden_networks
from compressor.base.choices import Border
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import Protocol, psnr_y, ssim_y
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import ImageSet, find_sets
from compressor.inference.evaluate import EvaluationSettings, evaluate
from compressor.inference.open import open_model
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import OpenOptions

SCALES = (2, 3, 4)
DB, SSIM = 0.005, 0.0003
TITLE_WIDTH = 60
LR_BORDER: dict[str, Border] = {"Set5": "mirror", "Set14": "mirror", "B100": "clamp", "Urban100-20": "clamp"}
"""The border that made the stored LR images of each set."""

BICUBIC = {
    ("Set5", 2): (33.682, 0.9305),
    ("Set5", 3): (30.405, 0.8690),
    ("Set5", 4): (28.431, 0.8113),
    ("Set14", 2): (30.330, 0.8700),
    ("Set14", 3): (27.634, 0.7760),
    ("Set14", 4): (26.092, 0.7050),
    ("B100", 2): (29.565, 0.8436),
    ("B100", 3): (27.211, 0.7392),
    ("B100", 4): (25.963, 0.6682),
}
"""Bicubic on 8-bit RGB low-resolution images, all images as RGB, recomputed from the SelfExSR benchmark images."""

RCAN = {2: 38.27, 3: 34.74, 4: 32.63}
"""Zhang et al., 'Image super-resolution using very deep residual channel attention networks', 2018: Set5."""

CARN_M = {("Set5", 2): 37.678, ("Set5", 3): 34.058, ("Set5", 4): 31.883, ("Set14", 4): 28.417, ("B100", 4): 27.453}
"""The published CARN-M checkpoint by this protocol, on stored LR images."""


@dataclass(frozen=True)
class Row:
    """One figure beside the one it should be."""

    title: str
    found: float
    expected: float
    tolerance: float
    style: str = ".3f"

    @property
    def holds(self) -> bool:
        return abs(self.found - self.expected) <= self.tolerance

    def __str__(self) -> str:
        difference = f"{self.found - self.expected:+10.4f}" if self.expected else f"{'':10}"
        figures = f"{self.found:10{self.style}} {self.expected:10{self.style}} {difference}"
        return f"{self.title:{TITLE_WIDTH}} {figures}  {'' if self.holds else f'OUTSIDE {self.tolerance:g}'}"


def _set(data: Path, name: str, scale: int) -> ImageSet | None:
    folder = data / "benchmarks" / name
    return find_sets(folder, scale=scale)[0] if folder.is_dir() else None


def lr_rows(data: Path) -> Iterator[Row]:
    """Percentage of samples equal to the stored LR images, by both borders; only the set's own must be 100."""
    for name, own in LR_BORDER.items():
        for scale in SCALES:
            found = _set(data, name, scale)
            if found is None or found.pairs[0].lr is None:
                continue
            for border in get_args(Border):
                equal = total = 0
                for pair in found.pairs:
                    assert pair.lr is not None
                    made = downscale_u8(mod_crop(read_rgb_u8(pair.hr), scale), scale, border=border)
                    equal += int((made == read_rgb_u8(pair.lr)).sum())
                    total += made.numel()
                slack = 0 if border == own else 100
                yield Row(f"{name} x{scale} LR, border {border}", 100 * equal / total, 100, slack, ".4f")


def bicubic_rows(data: Path) -> Iterator[Row]:
    """Stored LR images where there are any, otherwise made by both borders."""
    for (name, scale), (psnr, ssim) in BICUBIC.items():
        found = _set(data, name, scale)
        if found is None:
            continue
        borders: list[Border] = [LR_BORDER[name]] if found.pairs[0].lr is not None else list(get_args(Border))
        for border in borders:
            settings = EvaluationSettings(scale, Protocol(lr_border=border))
            result = evaluate([], [found], settings).models["bicubic"][name]
            how = "stored" if result.lr == "stored" else f"LR {border}"
            yield Row(f"bicubic {name} x{scale} PSNR ({how})", result.psnr_y, psnr, DB)
            yield Row(f"bicubic {name} x{scale} SSIM ({how})", result.ssim_y, ssim, SSIM, ".4f")


def rcan_rows(data: Path) -> Iterator[Row]:
    """RCAN's own output images."""
    for scale, published in RCAN.items():
        folder = data / "reference" / "RCAN-Set5-SR" / f"x{scale}"
        found = _set(data, "Set5", scale)
        if found is None or not folder.is_dir():
            continue
        psnrs, ssims = [], []
        for pair in found.pairs:
            hr = mod_crop(read_rgb_u8(pair.hr), scale)[None] / 255
            sr = read_rgb_u8(folder / f"{pair.stem}_RCAN_x{scale}.png")[None] / 255
            psnrs.append(float(psnr_y(sr, hr, border=scale)))
            ssims.append(float(ssim_y(sr, hr, border=scale)))
        yield Row(f"RCAN's images, Set5 x{scale} PSNR", sum(psnrs) / len(psnrs), published, DB)
        if scale == 4:
            yield Row("RCAN's images, Set5 x4 SSIM", sum(ssims) / len(ssims), 0.9002, SSIM, ".4f")


def carn_rows(data: Path) -> Iterator[Row]:
    """The published CARN-M."""
    checkpoint = data / "checkpoints" / "carn_m.pth"
    if not checkpoint.is_file():
        return
    models: dict[int, Runtime] = {scale: open_model(checkpoint, OpenOptions(scale=scale)) for scale in SCALES}
    for (name, scale), expected in CARN_M.items():
        found = _set(data, name, scale)
        if found is not None:
            model = models[scale]
            result = evaluate([model], [found], EvaluationSettings(scale)).models[model.label][name]
            yield Row(f"CARN-M {name} x{scale} PSNR ({result.lr})", result.psnr_y, expected, DB)


def golden_rows(golden: Path, data: Path) -> Iterator[Row]:
    """Networks against the official code's outputs: largest absolute difference."""
    if (golden / "archs").is_dir():
        checkpoints = data / "checkpoints"
        for row in golden_networks.rows(golden, checkpoints if (checkpoints / "carn_m.pth").is_file() else None):
            yield Row(f"{row.case} {row.file} {row.output}", row.max_abs, 0, golden_networks.TOLERANCE, ".1e")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="default: golden/ beside --data")
    options = parser.parse_args()
    golden = options.golden or options.data.resolve().parent / "golden"
    tables: dict[str, Iterator[Row]] = {
        "low-resolution images, % of samples equal": lr_rows(options.data),
        "bicubic, the reference row of every table": bicubic_rows(options.data),
        "published outputs": rcan_rows(options.data),
        "a published network": carn_rows(options.data),
        "networks, largest difference from the official outputs": golden_rows(golden, options.data),
    }
    outside = printed = 0
    for title, rows in tables.items():
        print(f"\n{title}\n{'':{TITLE_WIDTH}} {'found':>10} {'expected':>10} {'differs':>10}")
        for row in rows:
            print(row, flush=True)
            printed += 1
            outside += not row.holds
    print(f"\n{printed} figures, {outside} outside their tolerance")
    return 1 if outside or not printed else 0


if __name__ == "__main__":
    sys.exit(main())
