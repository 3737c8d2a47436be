"""Measured properties of each network: `python -m benchmarks networks_table --golden DIR`.

DIR holds `archs/<case>/` with outputs of the official code, and published checkpoints lie in ../data/checkpoints of
it, benchmark sets in ../data/benchmarks; without --golden that column is not measured. Takes about a minute.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.evidence import Benchmark, Column, Table, save
from benchmarks.golden_networks import TOLERANCE, Row, rows
from benchmarks.published_counts import COMPACT_PARAMS, HR_720P, OFFICIAL, PUBLISHED, RRDBNET, SCALES, SPANF3_PARAMS
from compressor.images.files import read_rgb_u8
from compressor.images.sets import embedded_photos
from compressor.inference.tiling import UNBOUNDED_OVERLAP, run_tiled
from compressor.models.checkpoints.convert import state_in_dialect
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Spec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.cost import cost
from compressor.models.networks.registry import NETWORKS, architecture, build
from compressor.models.students.students import build_student
from compressor.runtimes.onnx_runtime import OnnxRuntime
from export.convert.to_onnx import convert
from export.formats.conversion import Conversion
from srkd import evaluate
from tests.support.slices import lively, run, zero_masked

BENCHMARK = Benchmark(
    "Is each network that of its authors?",
    minutes=2,
    arguments=("--golden", "{golden}"),
)

WIDTHS = (0.29, 0.5, 0.7)
COMPACT_FILE = "realesr-animevideov3_rezipped.pth"
ODD_SIZES = ((1, 1), (2, 13), (7, 13), (17, 33), (11, 9))
TILE = 24
SMALL: dict[str, Spec] = {name: architecture(name).small for name in NETWORKS}
"""A small network of each kind with random weights, which is quick to measure."""

COLUMNS = (
    Column("network", "network"),
    Column("names", "reads and writes the names of"),
    Column("golden", "equals the official outputs"),
    Column("counts", "counts to the last digit"),
    Column("slices", "slices"),
    Column("onnx", "ONNX at odd sizes"),
    Column("tiles", "tiles"),
)


def dialects(arch: str) -> str:
    """Return the code bases whose files a network reads: a small one written in their names reads back bit for bit."""
    names = []
    with tempfile.TemporaryDirectory() as folder:
        for dialect in architecture(arch).dialects:
            network = build(SMALL[arch], seed=0)
            path = Path(folder) / f"{dialect.name}.pth"
            torch.save(state_in_dialect(network, dialect)[0], path)
            options = {"res_scale": 1.0} if "res_scale" in network.spec.to_dict() else {}
            back = load_checkpoint(path, arch_options=options)
            if back.dialect == dialect.name and back.network.fingerprint() == network.fingerprint():
                names.append(dialect.name)
    return ", ".join(names)


def counts(arch: str) -> str:
    """Return how many published parameters and MACs (rounded ones to their last digit) a network matches."""
    matches = [
        cost(published.at(scale)).params == params
        for published in PUBLISHED
        if published.spec.arch == arch
        for scale, params in zip(SCALES, published.params, strict=True)
    ]
    for spec, params, macs, macs_720p in OFFICIAL:
        if spec.arch == arch:
            counted = cost(spec)
            matches += [counted.params == params, counted.macs == macs]
            matches.append(cost(spec, HR_720P[spec.scale]).macs == macs_720p)
    matches += [cost(spec).params == params for spec, params in SPANF3_PARAMS.items() if spec.arch == arch]
    matches += [cost(spec).params == params for spec, (params, _) in RRDBNET.items() if spec.arch == arch]
    if arch == "compact":
        matches.append(cost(CompactSpec(4, width=64, depth=16)).params == COMPACT_PARAMS)
    return f"{sum(matches)} of {len(matches)}"


def slices(arch: str) -> str:
    """Return the largest difference between narrower students and the teacher with the dropped channels zeroed."""
    worst = 0.0
    for scale in SCALES:
        teacher = lively(replace(SMALL[arch], scale=scale))
        for width in WIDTHS:
            student = build_student(teacher, width=width)
            worst = max(worst, float((run(student) - run(zero_masked(teacher, student))).abs().max()))
    return f"≤ {_rounded_up(worst)}"


def onnx_parity(arch: str) -> str:
    """Return the largest difference between ONNX Runtime and the network, at odd sizes."""
    network, worst = lively(SMALL[arch]), 0.0
    with tempfile.TemporaryDirectory() as folder:
        convert(Conversion(network, Path(folder) / "network.onnx", {}))
        runtime = OnnxRuntime(Path(folder) / "network.onnx")
        for height, width in ODD_SIZES:
            lr = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
            with torch.no_grad():
                worst = max(worst, float((runtime.run(lr) - network(lr)).abs().max()))
    return f"≤ {_rounded_up(worst)}"


def tiles(arch: str) -> str:
    """Return how exact tiling is; for networks without a receptive radius the difference along the seams."""
    network = build(SMALL[arch], seed=0)
    photo = read_rgb_u8(next(iter(embedded_photos("val").values())))[:, :64, :80].float().div(255)[None]

    def evaluate(lr: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            sr: torch.Tensor = network(lr)
        return sr

    radius = network.descriptor.receptive_radius
    tiled = run_tiled(evaluate, photo, network.descriptor, tile=TILE)
    apart = float((tiled.sr - evaluate(photo)).abs().max())
    if radius is not None:
        return f"exactly (≤ {_rounded_up(apart)})"
    return f"seam {tiled.seam:.1e}, {apart:.1e} from the whole, at an overlap of {UNBOUNDED_OVERLAP}"


def golden(outputs: Sequence[Row], arch: str, shared: Path | None) -> str:
    """Return how many outputs of the official code a network matches, and the largest difference."""
    if arch == "compact" and shared is not None:
        return published_compact(shared)
    if not architecture(arch).dialects:
        return "srkd's own"
    own = [row for row in outputs if row.arch == arch]
    if not own:
        return "not measured"
    equal = sum(row.equal for row in own)
    return f"{equal} of {len(own)} within {TOLERANCE:g} (≤ {_rounded_up(max(row.max_abs for row in own))})"


def published_compact(shared: Path) -> str:
    """Return the score of the published weights, as no outputs of Compact's official code are published."""
    scored = evaluate(shared / "data" / "checkpoints" / COMPACT_FILE, data=shared / "data" / "benchmarks" / "Set5")
    (score,) = (score for name, sets in scored.models.items() if name != "bicubic" for score in sets.values())
    psnr = score.psnr_y
    return f"its definition; published weights score {psnr:.2f} dB on Set5"


def _rounded_up(value: float) -> str:
    """Return a bound of one digit, so that the rounding of a machine does not change the page."""
    for exponent in range(-8, 1):
        if value <= 10.0**exponent:
            return f"1e{exponent:+03d}"
    return f"{value:.1g}"


def table(outputs: Sequence[Row], shared: Path | None) -> Table:
    """Return the table, with a row per network."""
    table_rows = [
        {
            "network": arch,
            "names": dialects(arch),
            "golden": golden(outputs, arch, shared),
            "counts": counts(arch),
            "slices": slices(arch),
            "onnx": onnx_parity(arch),
            "tiles": tiles(arch),
        }
        for arch in NETWORKS
    ]
    return Table(COLUMNS, table_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="the folder that holds archs/")
    options = parser.parse_args()
    outputs: list[Row] = []
    golden_folder: Path | None = options.golden
    shared: Path | None = None
    if golden_folder is not None:
        shared = golden_folder.resolve().parent
        outputs = list(rows(golden_folder, shared / "data" / "checkpoints"))
    save("networks_table", table(outputs, shared))
