"""DUKD's tables 3 and 4 at equal budget: `python -m benchmarks dukd_ablation --data BENCHMARKS`.

BENCHMARKS holds Set5/, Set14/ and B100/ (HR/ and LRbicX4/ in each). Table 4 takes DUKD apart, with the embedded EDSR as
teacher: once the student has a quarter of its channels and starts at random, as in the paper, once it has half of them
and starts from a slice. Table 3 has pairs of two kinds: the embedded EDSR teaches a Compact student or, with
`--hetero-teacher FILE` (ours, ONNX, or what spandrel knows), FILE and the embedded EDSR teach the same student.
Every finished run is kept: the command can be stopped and repeated.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.equal_budget import (
    Contender,
    Published,
    Start,
    budget_of,
    compared,
    parser_of,
    seeds_of,
)
from benchmarks.evidence import Benchmark, Table, save


class Switch(NamedTuple):
    """A row of table 4 below its first, which has L1 alone: recipe, settings, and the published gains."""

    title: str
    recipe: str
    published: Published
    settings: tuple[str, ...] = ()


TABLE_4 = {
    "logits": Switch("Logits-KD", "logits", Published((0.04, 0.02, 0.00))),
    "fakd": Switch("FAKD", "fakd", Published((-0.26, -0.14, -0.07))),
    "zi": Switch("Zoom In", "dukd", Published((0.39, 0.26, 0.16)), ("zoom_out=off", "augment=false")),
    "zo": Switch("Zoom Out", "dukd", Published((0.42, 0.27, 0.16)), ("zoom_in=false", "zoom_out=on", "augment=false")),
    "zi-zo": Switch("Zoom In + Zoom Out", "dukd", Published((0.43, 0.28, 0.17)), ("zoom_out=on", "augment=false")),
    "zi-da": Switch("Zoom In + DA", "dukd", Published((0.47, 0.30, 0.18)), ("zoom_out=off",)),
    "zi-zo-da": Switch("Zoom In + Zoom Out + DA", "dukd", Published((0.61, 0.36, 0.23)), ("zoom_out=on",)),
}
"""Published: EDSR 32/64 to EDSR 32/16; FAKD is DUKD's version, whose feature loss has no gradient."""
BENCHMARK = Benchmark(
    "What does each part of DUKD bring, and what does it teach a student of another kind?",
    minutes=90,
    arguments=(
        *("--data", "{sets}", "--hetero-teacher", "{checkpoints}/DCTLSA_x4.pt"),
        *("--hetero-student", "compact:width=24,depth=8"),
    ),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--only", "table3", "--out", "runs/small/dukd"),
)
EMBEDDED, OTHER = Published((0.20, 0.11, 0.07), "EDSR to RCAN"), Published((0.19, 0.13, 0.08), "SwinIR to RCAN")
"""Published gains of table 3's students under DUKD."""
COMPACT, EDSR = "compact:width=24,depth=8", "edsr:width=24,depth=16"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, out="runs/dukd-ablation", steps=1200)
    parser.add_argument("--only", choices=("table4", "slice", "table3"), help="one of the three tables; none: all")
    parser.add_argument("--hetero-teacher", type=Path, metavar="FILE", help="a teacher of another kind, for table 3")
    parser.add_argument("--hetero-student", metavar="SPEC", help=f"of table 3; none: {COMPACT}, with FILE {EDSR}")
    options = parser.parse_args(arguments)
    pairs = table3(options.hetero_teacher, options.hetero_student)
    dukd = {row.name: OTHER if row.teacher else EMBEDDED for row in pairs if row.recipe == "dukd"}
    rows = {"table4": table4(), "slice": table4_from_slice()}
    plan = {name: (group, published_of(group)) for name, group in rows.items()} | {"table3": (pairs, dukd)}
    budget, tables = budget_of(options), dict[str, Table]()
    for name in plan if options.only is None else [options.only]:
        contenders, published = plan[name]
        tables[name] = compared(contenders, budget, options.data, published)
    save("dukd_ablation", tables, seeds=seeds_of(budget), variant=options.variant)
    return 0


def table4() -> list[Contender]:
    """Return the rows of table 4: a quarter of the teacher's channels, from random weights."""
    return _switches("t4", 0.25, "random", Contender("t4-scratch", "scratch", "Scratch", width=0.25, init="random"))


def table4_from_slice() -> list[Contender]:
    """Return the same rows for half of the channels, all from a slice, L1 alone too."""
    return _switches(
        "slice", 0.5, "inherit", Contender("slice-inherit", "inherit", "L1 from the slice", width=0.5, init="inherit")
    )


def _switches(prefix: str, width: float, start: Start, alone: Contender) -> list[Contender]:
    rows = [
        Contender(f"{prefix}-{key}", one.recipe, one.title, width=width, init=start, settings=one.settings)
        for key, one in TABLE_4.items()
    ]
    return [alone, *rows]


def published_of(rows: Sequence[Contender]) -> dict[str, Published]:
    """Return the published gain of each row below the first."""
    return {row.name: one.published for row, one in zip(rows[1:], TABLE_4.values(), strict=True)}


def table3(file: Path | None, student: str | None) -> list[Contender]:
    """Return the student alone, and taught by each teacher through its outputs."""
    spec = student or (COMPACT if file is None else EDSR)
    folder = "t3-" + re.sub(r"[^a-z0-9]+", "-", spec)
    teachers = [("embedded", "the embedded EDSR", None), *([] if file is None else [(file.stem, file.name, file)])]
    rows = [Contender(f"{folder}-scratch", "scratch", "Scratch", student=spec)]
    rows += [
        Contender(f"{folder}-{recipe}-{key}", recipe, f"{title}, {called}", student=spec, init="random", teacher=path)
        for key, called, path in teachers
        for recipe, title in (("logits", "Logits-KD"), ("dukd", "DUKD"))
    ]
    return rows


if __name__ == "__main__":
    sys.exit(main())
