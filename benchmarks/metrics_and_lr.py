"""Our metrics, low-resolution images and networks against published ones: `python -m benchmarks metrics_and_lr`.

DIR of --data holds `benchmarks/SET/{HR,LRbicX*}`, `reference/RCAN-Set5-SR/x*` and `checkpoints/carn_m.pth`, DIR of
--golden `archs/`; one of them lies beside the other as `data/` and `golden/` if it is not named. What they do not hold
is left out. Ends with 1 if any figure is outside its tolerance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from benchmarks import golden_networks
from benchmarks.evidence import Benchmark, Cell, Column, Table, save
from compressor.base.choices import Border
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import Protocol, psnr_y, ssim_y
from compressor.images.resize import downscale_u8, mod_crop
from compressor.images.sets import ImageSet, find_sets
from compressor.inference.evaluate import EvaluationSettings, evaluate
from compressor.inference.open import open_model
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import OpenOptions

BENCHMARK = Benchmark(
    "Are metrics, low-resolution images and networks those that published figures come from?",
    minutes=6,
    arguments=("--golden", "{golden}"),
    small=("--golden", "{golden}", "--only", "rcan"),
)

SCALES = (2, 3, 4)
DB, SSIM = 0.005, 0.0003
LR_BORDER: dict[str, Border] = {"Set5": "mirror", "Set14": "mirror", "B100": "clamp", "Urban100-20": "clamp"}
"""Border by which the stored LR images of each set were made."""

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
"""PSNR and SSIM of bicubic on 8-bit RGB LR images, all images as RGB, recomputed from SelfExSR's benchmark images."""

RCAN = {2: 38.27, 3: 34.74, 4: 32.63}
"""Zhang et al., 'Image super-resolution using very deep residual channel attention networks', 2018: Set5."""

CARN_M = {("Set5", 2): 37.678, ("Set5", 3): 34.058, ("Set5", 4): 31.883, ("Set14", 4): 28.417, ("B100", 4): 27.453}
"""PSNR of the published CARN-M checkpoint by this protocol, on stored LR images."""


@dataclass(frozen=True)
class Row:
    """A measured figure with the expected one; without a tolerance it is only for comparison."""

    title: str
    measured: float
    expected: float
    tolerance: float | None

    @property
    def holds(self) -> bool:
        return self.tolerance is None or abs(self.measured - self.expected) <= self.tolerance

    @property
    def cells(self) -> dict[str, Cell]:
        return {
            "figure": self.title,
            "measured": self.measured,
            "expected": self.expected,
            "difference": self.measured - self.expected,
            "tolerance": self.tolerance,
            "holds": None if self.tolerance is None else self.holds,
        }


def _set(data: Path, name: str, scale: int) -> ImageSet | None:
    folder = data / "benchmarks" / name
    return find_sets(folder, scale=scale)[0] if folder.is_dir() else None


def lr_rows(data: Path) -> Iterator[Row]:
    """Yield the percentage of samples equal to the stored LR images, by both borders; the set's own must give 100."""
    for name, own in LR_BORDER.items():
        for scale in SCALES:
            images = _set(data, name, scale)
            if images is None or images.pairs[0].lr is None:
                continue
            for border in get_args(Border):
                equal = total = 0
                for pair in images.pairs:
                    assert pair.lr is not None
                    lr_u8 = downscale_u8(mod_crop(read_rgb_u8(pair.hr), scale), scale, border=border)
                    equal += int((lr_u8 == read_rgb_u8(pair.lr)).sum())
                    total += lr_u8.numel()
                yield Row(
                    f"{name} x{scale} LR, border {border}", 100 * equal / total, 100, 0 if border == own else None
                )


def bicubic_rows(data: Path) -> Iterator[Row]:
    """Yield the scores of bicubic, on stored LR images or else on images made by both borders."""
    for (name, scale), (psnr, ssim) in BICUBIC.items():
        images = _set(data, name, scale)
        if images is None:
            continue
        borders: list[Border] = [LR_BORDER[name]] if images.pairs[0].lr is not None else list(get_args(Border))
        for border in borders:
            settings = EvaluationSettings(scale, Protocol(lr_border=border))
            result = evaluate([], [images], settings).models["bicubic"][name]
            how = "stored" if result.lr == "stored" else f"LR {border}"
            yield Row(f"bicubic {name} x{scale} PSNR ({how})", result.psnr_y, psnr, DB)
            yield Row(f"bicubic {name} x{scale} SSIM ({how})", result.ssim_y, ssim, SSIM)


def rcan_rows(data: Path) -> Iterator[Row]:
    """Yield the scores of RCAN's own output images."""
    for scale, published in RCAN.items():
        folder = data / "reference" / "RCAN-Set5-SR" / f"x{scale}"
        images = _set(data, "Set5", scale)
        if images is None or not folder.is_dir():
            continue
        psnrs, ssims = [], []
        for pair in images.pairs:
            hr = mod_crop(read_rgb_u8(pair.hr), scale)[None] / 255
            sr = read_rgb_u8(folder / f"{pair.stem}_RCAN_x{scale}.png")[None] / 255
            psnrs.append(float(psnr_y(sr, hr, border=scale)))
            ssims.append(float(ssim_y(sr, hr, border=scale)))
        yield Row(f"RCAN's images, Set5 x{scale} PSNR", sum(psnrs) / len(psnrs), published, DB)
        if scale == 4:
            yield Row("RCAN's images, Set5 x4 SSIM", sum(ssims) / len(ssims), 0.9002, SSIM)


def carn_rows(data: Path) -> Iterator[Row]:
    """Yield the scores of the published CARN-M."""
    checkpoint = data / "checkpoints" / "carn_m.pth"
    if not checkpoint.is_file():
        return
    models: dict[int, Runtime] = {scale: open_model(checkpoint, OpenOptions(scale=scale)) for scale in SCALES}
    for (name, scale), expected in CARN_M.items():
        images = _set(data, name, scale)
        if images is not None:
            model = models[scale]
            result = evaluate([model], [images], EvaluationSettings(scale)).models[model.label][name]
            yield Row(f"CARN-M {name} x{scale} PSNR ({result.lr})", result.psnr_y, expected, DB)


def golden_rows(golden: Path, data: Path) -> Iterator[Row]:
    """Yield the largest absolute difference between each network and the official code's outputs."""
    if (golden / "archs").is_dir():
        checkpoints = data / "checkpoints"
        for row in golden_networks.rows(golden, checkpoints if (checkpoints / "carn_m.pth").is_file() else None):
            yield Row(f"{row.case} {row.file} {row.output}", row.max_abs, 0, golden_networks.TOLERANCE)


def printed(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows and print each figure as it is measured."""
    for row in rows:
        print(f"{row.title}: {row.measured:g}", file=sys.stderr, flush=True)
        yield row


FORMS = {"lr": ".4f", "bicubic": ".4f", "rcan": ".4f", "carn": ".3f", "golden": ".1e"}
CAPTIONS = {
    "lr": "Percentage of samples equal to the stored LR images; a set's own border has to make all of them.",
    "bicubic": "Bicubic, the reference row of every table: Y-PSNR in dB and SSIM.",
    "rcan": "RCAN's own output images.",
    "carn": "The published CARN-M.",
    "golden": "The largest difference of networks from the official outputs, where images lie in [0,1].",
}


def table(name: str, rows: Sequence[Row]) -> Table:
    """Return the table of measured and expected figures, with the number within tolerance."""
    form = FORMS[name]
    columns = [
        Column("figure", "figure"),
        Column("measured", "measured", form),
        Column("expected", "expected", form),
        Column("difference", "differs by", f"+{form}"),
        Column("tolerance", "tolerance", "g"),
        Column("holds", "within"),
    ]
    bound = [row for row in rows if row.tolerance is not None]
    count = f"{sum(row.holds for row in bound)} of {len(bound)} within their tolerance."
    return Table(columns, [row.cells for row in rows], f"{CAPTIONS[name]} {count}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: data/ beside --golden")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="default: golden/ beside --data")
    parser.add_argument("--only", default=",".join(CAPTIONS), help="tables by name, with commas between")
    options = parser.parse_args(arguments)
    beside: Path | None = options.data or options.golden
    if beside is None:
        parser.error("--data or --golden is needed")
    data = options.data or beside.resolve().parent / "data"
    golden = options.golden or beside.resolve().parent / "golden"
    sources: Mapping[str, Callable[[], Iterator[Row]]] = {
        "lr": partial(lr_rows, data),
        "bicubic": partial(bicubic_rows, data),
        "rcan": partial(rcan_rows, data),
        "carn": partial(carn_rows, data),
        "golden": partial(golden_rows, golden, data),
    }
    if unknown := [name for name in options.only.split(",") if name not in sources]:
        parser.error(f"--only {unknown[0]}: the tables are {', '.join(sources)}")
    rows = {name: list(printed(sources[name]())) for name in options.only.split(",")}
    if not any(rows.values()):
        raise SystemExit(f"--data {data}, --golden {golden}: neither holds anything to compare with")
    save("metrics_and_lr", {name: table(name, of_table) for name, of_table in rows.items() if of_table})
    every = [row for of_table in rows.values() for row in of_table]
    return 0 if all(row.holds for row in every) else 1


if __name__ == "__main__":
    sys.exit(main())
