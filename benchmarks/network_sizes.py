"""Parameters and multiply-accumulates of the usual shapes of each network: `python -m benchmarks network_sizes`.

All are counted at ×4, beside what papers print for the same counting: DUKD's table 1 (which counts one operation more
for each pooled element and five for each element of a LayerNorm), or the table of CARN's code (for an output of
1280×720). Takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.evidence import Benchmark, Column, Row, Table, save
from compressor.models.networks.cost import cost
from compressor.models.students.students import parse_student
from tests.support.published_counts import CARN_720P, COUNTED, HR_720P

BENCHMARK = Benchmark("How large are the usual shapes of each network?", minutes=0.2)
SCALE = 4


@dataclass(frozen=True)
class Shape:
    """A spec as `--student` takes it, what it is known as, and its name in DUKD's table 1 if it is there."""

    spec: str
    role: str
    name: str = ""


SHAPES: Mapping[str, Sequence[Shape]] = {
    "edsr": (
        Shape(
            "edsr:width=256,depth=32,res_scale=0.1",
            "the teacher in DUKD's, CSD's, FAKD's and CLSD's tables",
            "EDSR 32/256",
        ),
        Shape("edsr:width=64,depth=32,res_scale=0.1", "the student of DUKD and CSD", "EDSR 32/64"),
        Shape("edsr:width=64,depth=16", "EDSR-baseline, the student in FAKD's and CLSD's tables"),
        Shape("edsr:width=48,depth=16", "srkd's embedded teacher"),
        Shape("edsr:width=24,depth=16", "srkd's embedded student"),
    ),
    "rcan": (
        Shape("rcan:groups=10,depth=20", "the teacher of DUKD, FAKD and HKDSR", "RCAN 10x20"),
        Shape("rcan:groups=10,depth=6", "the student of DUKD and FAKD", "RCAN 10x6"),
        Shape("rcan:groups=5,depth=5", "the student of HKDSR"),
    ),
    "carn": (Shape("carn", "64 channels"), Shape("carn_m", "64 channels in 4 groups")),
    "swinir": (
        Shape(
            "swinir:width=180,depths=6/6/6/6/6/6,heads=6/6/6/6/6/6", "SwinIR-M, the teacher of DUKD", "SwinIR C180 6x6"
        ),
        Shape("swinir:width=60,depths=6/6/6/6,heads=6/6/6/6", "the student of DUKD", "SwinIR C60 4x6"),
    ),
    "compact": (
        Shape("compact:width=64,depth=16", "realesr-animevideov3"),
        Shape("compact:width=64,depth=32", "realesr-general-x4v3"),
        Shape("compact:width=32,depth=8", "a student for a phone"),
    ),
    "span": (
        Shape("span:width=48", "SPAN, also of spanx4_ch48 and most community models"),
        Shape("span:width=52", "the default of traiNNer-redux"),
        Shape("span:width=28", "the winner of NTIRE 2024 and the baseline of 2026"),
    ),
    "rrdbnet": (
        Shape("rrdbnet:depth=23", "ESRGAN, RealESRGAN_x4plus, and most community models"),
        Shape("rrdbnet:depth=6", "RealESRGAN_x4plus_anime_6B"),
    ),
    "spanf3": (Shape("spanf3:width=64,depth=8", "b8f64 at ×4"), Shape("spanf3:width=48,depth=5", "b5f48 at ×4")),
}

COMPARABLE = {
    "edsr": "DUKD's table 1",
    "rcan": "GMAC with pooling; DUKD's table 1",
    "swinir": "GMAC with norms; DUKD's table 1",
    "carn": "GMAC to 1280×720; CARN's table",
}
"""Title of the column of published counts, by network, after ours that count the same."""


def main() -> None:
    argparse.ArgumentParser(description="Count the usual shapes of each network.").parse_args()
    save("network_sizes", {arch: table(arch, shapes) for arch, shapes in SHAPES.items()})


def table(arch: str, shapes: Sequence[Shape]) -> Table:
    columns = [Column("shape", "shape"), Column("params", f"parameters at ×{SCALE}", ",")]
    columns.append(Column("gmacs", "10⁹ multiply-accumulates (GMAC), 256×256 input", ",.1f"))
    *ours, published = COMPARABLE[arch].split("; ") if arch in COMPARABLE else [""]
    columns += [Column("comparable", title, ",.2f") for title in ours]
    columns += [Column("published", published, ",.6g")] if published else []
    return Table([*columns, Column("role", "what it is")], [row(shape) for shape in shapes])


def row(shape: Shape) -> Row:
    """Return the counts of a shape; `comparable` counts as the paper with the published number does."""
    spec = parse_student(shape.spec, scale=SCALE)
    counted = cost(spec)
    comparable = (cost(spec, HR_720P[SCALE]).macs if spec.arch in CARN_720P else counted.macs_plus) / 1e9
    dukd = next((one.gmacs_plus_x4 for one in COUNTED if one.name == shape.name), None)
    return {
        "name": shape.spec,
        "shape": f"`{shape.spec}`",
        "params": counted.params,
        "gmacs": counted.macs / 1e9,
        "comparable": comparable,
        "published": CARN_720P.get(spec.arch, dukd),
        "role": shape.role,
    }
