"""Which network can be had in which format, as docs/formats.md says: `python -m benchmarks.formats_table`.

Each network is exported to each format that this machine has what it takes for, compared with the network as `srkd
export` does it, opened and timed against torch, all in turns. A format that refuses a network at any size is tried at
one size. Rows of formats that are not installed here stay as the page has them. `--format NAME` measures these only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from compressor.assets import embedded_student
from compressor.base.context import no_progress
from compressor.base.files import atomic_path
from compressor.base.machine import cpu_model
from compressor.images.sample import sample_photo
from compressor.inference.open import open_model
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.runtimes.torch_runtime import TorchRuntime
from export.conversion import FileOptions
from export.exporting import FileReport, Source, export_model
from export.formats import FORMATS
from export.profile.timing import take_turns

PAGE = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
SIDE = 64
"""LR pixels a side: of the images that are timed, and of files that take one size."""

SPECS: Mapping[str, Spec | None] = {
    "EDSR 16/24": None,
    "RCAN 3/4/32": RCANSpec(width=32, groups=3, depth=4, hidden=4),
    "CARN 32": CARNSpec(width=32),
    "CARN-M 32": CARNMSpec(width=32),
    "Compact 8/32": CompactSpec(width=32, depth=8),
    "SwinIR 4/30": SwinIRSpec(width=30, depths=(2, 2), heads=(3, 3), features=32),
}
"""×4 networks of a student's size; the first is the embedded student, the others have random weights."""

COLUMNS = ("network", "format", "verdict", "sizes", "MB", "largest difference", "PSNR", "runs in", "ms", "over torch")


@dataclass(frozen=True)
class Cells:
    """One row: a network in a format."""

    network: str
    format: str
    verdict: str
    figures: tuple[str, ...] = ("-",) * (len(COLUMNS) - 3)

    def line(self) -> str:
        return "| " + " | ".join((self.network, self.format, self.verdict, *self.figures)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", action="append", choices=list(FORMATS), help="measure these and keep the others")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each file")
    parser.add_argument("--to", type=Path, default=PAGE)
    options = parser.parse_args()
    wanted = [name for name in options.format or FORMATS if FORMATS[name].missing_requirement() is None]
    kept = {key: line for key, line in documented(options.to).items() if key[1] not in wanted}
    rows = dict(kept)
    for name in SPECS:
        for row in measured(name, network_of(name), wanted, options.seconds):
            rows[name, row.format] = row.line()
    with atomic_path(options.to) as temporary:
        temporary.write_text(page(rows), encoding="utf-8")
    print(options.to.read_text(encoding="utf-8"))
    return 0


def network_of(name: str) -> Network:
    spec = SPECS[name]
    return load_checkpoint(embedded_student()).network if spec is None else build(spec, seed=0)


def measured(name: str, network: Network, formats: Sequence[str], seconds: float) -> list[Cells]:
    """All formats of one network: exported, then timed in turns with torch."""
    lr = sample_photo(SIDE, SIDE, channels=network.descriptor.channels)
    torch_runtime = TorchRuntime(network, label=name)
    with tempfile.TemporaryDirectory(prefix="srkd-formats-") as folder:
        reports = {row: exported(network, row, Path(folder) / row) for row in formats}
        runtimes = {
            row: open_model(report.path)
            for row, report in reports.items()
            if report.path is not None and report.verdict == "passed"
        }
        calls = [partial(runtime.run, lr) for runtime in (torch_runtime, *runtimes.values())]
        reference, *timings = take_turns(calls, seconds_each=seconds, progress=no_progress)
    eager = reference.percentile(50)
    found = [Cells(name, "torch eager", "reference", ("any", "-", "-", "-", "torch, fp32", f"{eager:.1f}", "1.00x"))]
    milliseconds = {row: timing.percentile(50) for row, timing in zip(runtimes, timings, strict=True)}
    for row, report in reports.items():
        runs_in = f"{runtimes[row].name}, {runtimes[row].precision}" if row in runtimes else "-"
        found.append(cells(name, report, runs_in, milliseconds.get(row), eager))
        print(found[-1].line(), file=sys.stderr, flush=True)
    return found


def exported(network: Network, row: str, folder: Path) -> FileReport:
    """At any size, or at one where that is refused."""
    (report,) = export_model(network, Source("model"), [row], folder).files
    if report.path is None and report.verdict == "unavailable":
        one_size = FileOptions(lr_size=(SIDE, SIDE))
        (fixed,) = export_model(network, Source("model"), [row], folder, options=one_size).files
        report = fixed if fixed.path is not None else report
    return report


def cells(name: str, report: FileReport, runs_in: str, milliseconds: float | None, eager: float) -> Cells:
    if report.path is None:
        return Cells(name, report.format, f"no: {report.reason}".replace("|", "/"))
    parity = report.parity
    psnr = "-" if parity is None else "equal" if parity.psnr is None else f"{parity.psnr:.1f} dB"
    sizes = f"{SIDE}x{SIDE} only" if f"-{SIDE}x{SIDE}" in report.path.name else "any"
    return Cells(
        name,
        report.format,
        "works" if report.verdict == "passed" else report.verdict,
        (
            sizes,
            f"{(report.bytes or 0) / 1e6:.2f}",
            "-" if parity is None else f"{parity.max_abs:.1e}",
            psnr,
            runs_in,
            "-" if milliseconds is None else f"{milliseconds:.1f}",
            "-" if milliseconds is None else f"{eager / milliseconds:.2f}x",
        ),
    )


def documented(page_file: Path) -> dict[tuple[str, str], str]:
    """The rows that the page has."""
    lines = page_file.read_text(encoding="utf-8").splitlines() if page_file.is_file() else []
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(("| network", "| ---"))]
    split = [(line, line.strip("| ").split(" | ")) for line in rows]
    return {(parts[0], parts[1]): line for line, parts in split}


def page(rows: Mapping[tuple[str, str], str]) -> str:
    ordered: Iterable[str] = (
        rows[name, row] for name in SPECS for row in ("torch eager", *FORMATS) if (name, row) in rows
    )
    threads = torch.get_num_threads()
    return "\n".join(
        (
            "# Networks × formats",
            "",
            "Generated by `python -m benchmarks.formats_table`; do not edit.",
            "",
            "Students at ×4. Each file was compared with its network as in `srkd export`: on photos, black, white,",
            "noise and odd sizes (PSNR: on photos, peak 1). *any*: any batch and image size. The time is that of one",
            f"image of {SIDE}x{SIDE} on {cpu_model()}, {threads} thread(s), the median of files and torch taking turns,"
            " in the",
            "given precision; *over torch* compares with torch in fp32, channels last. The order differs on phones.",
            "*unproved*: written here, but such files do not run on this system. Not run by us: "
            + ", ".join(f"`--{row.name}`" for row in FORMATS.values() if not row.tested)
            + ".",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|" + " --- |" * len(COLUMNS),
            *ordered,
            "",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
