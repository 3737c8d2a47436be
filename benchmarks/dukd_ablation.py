"""DUKD's tables 3 and 4 at equal budget: `python -m benchmarks dukd_ablation --data BENCHMARKS`.

BENCHMARKS holds Set5/, Set14/ and B100/ (HR/ and LRbicX4/ in each). Table 4 takes DUKD apart: the student has a quarter
of its teacher's channels and starts at random, the teacher is the embedded EDSR. Table 3 has pairs of two kinds: the
embedded EDSR teaches a Compact student or, with `--hetero-teacher FILE` (ours, ONNX, or what spandrel knows), FILE and
the embedded EDSR teach the same EDSR student. Every finished run is kept: the command can be stopped and repeated.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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

SWITCHES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "scratch": ("Scratch", "scratch", ()),
    "logits": ("Logits-KD", "logits", ()),
    "fakd": ("FAKD", "fakd", ()),
    "zi": ("Zoom In", "dukd", ("zoom_out=off", "augment=false")),
    "zo": ("Zoom Out", "dukd", ("zoom_in=false", "zoom_out=on", "augment=false")),
    "zi-zo": ("Zoom In + Zoom Out", "dukd", ("zoom_out=on", "augment=false")),
    "zi-da": ("Zoom In + DA", "dukd", ("zoom_out=off",)),
    "zi-zo-da": ("Zoom In + Zoom Out + DA", "dukd", ("zoom_out=on",)),
}
"""Title, recipe and settings of the rows of table 4."""
TABLE_4 = {
    "t4-logits": Published((0.04, 0.02, 0.00)),
    "t4-fakd": Published((-0.26, -0.14, -0.07)),
    "t4-zi": Published((0.39, 0.26, 0.16)),
    "t4-zo": Published((0.42, 0.27, 0.16)),
    "t4-zi-zo": Published((0.43, 0.28, 0.17)),
    "t4-zi-da": Published((0.47, 0.30, 0.18)),
    "t4-zi-zo-da": Published((0.61, 0.36, 0.23)),
}
"""Published gains of table 4, EDSR 32/64 to EDSR 32/16; FAKD is DUKD's version, whose feature loss has no gradient."""
BENCHMARK = Benchmark(
    "What does each part of DUKD bring, and what does it teach a student of another kind?",
    minutes=240,
    arguments=("--data", "{sets}", "--hetero-teacher", "{checkpoints}/carn_m.pth"),
    small=("--data", "{sets}", "--steps", "2", "--seeds", "1", "--only", "table3", "--out", "runs/small/dukd"),
)
EMBEDDED, OTHER = Published((0.20, 0.11, 0.07), "EDSR to RCAN"), Published((0.19, 0.13, 0.08), "SwinIR to RCAN")
"""Published gains of table 3's students under DUKD."""
WIDTH = 0.25
COMPACT, EDSR = "compact:width=24,depth=8", "edsr:width=24,depth=16"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, out="runs/dukd-ablation")
    parser.add_argument("--only", choices=("table4", "table3"), help="one of the two tables; none: both")
    parser.add_argument("--width", type=float, default=WIDTH, help="of table 4's student, of the embedded teacher")
    parser.add_argument("--init", choices=("random", "inherit"), default="random", help="of table 4's students")
    parser.add_argument("--hetero-teacher", type=Path, metavar="FILE", help="a teacher of another kind, for table 3")
    parser.add_argument("--hetero-student", metavar="SPEC", help=f"of table 3; none: {COMPACT}, with FILE {EDSR}")
    options = parser.parse_args(arguments)
    budget, tables = budget_of(options), dict[str, Table]()
    if options.only != "table3":
        tables["table4"] = compared(table4(options.width, options.init), budget, options.data, TABLE_4)
    if options.only != "table4":
        pairs = table3(options.hetero_teacher, options.hetero_student)
        published = {row.name: OTHER if row.teacher else EMBEDDED for row in pairs if row.recipe == "dukd"}
        tables["table3"] = compared(pairs, budget, options.data, published)
    save("dukd_ablation", tables, seeds=seeds_of(budget), variant=options.variant)
    return 0


def table4(width: float, init: Start) -> list[Contender]:
    return [
        Contender(
            f"t4-{key}", recipe, title, width=width, init="random" if key == "scratch" else init, settings=settings
        )
        for key, (title, recipe, settings) in SWITCHES.items()
    ]


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
