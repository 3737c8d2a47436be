"""Time of a training step against the field's loops: `python -m benchmarks training_speed [--recipes scratch,csd]`.

Ways to make the same step, a few of each in turns, so that ratios hold although the machine is shared:

- field, png and memory: the official trainer's loop (benchmarks/field_practice.py), from files and from memory;
- srkd: the loop of `srkd compress`, in the precision and layout that it chooses itself;
- step: forward, backward, Adam and average on the same tensors, without data, guard and logging;
- data: srkd's batches alone.

EDSR students and teachers; weights are random. φ is VGG-19 in both loops.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, add_variant_option, save
from benchmarks.field_practice import THROUGH_VGG, FieldLoop, write_pngs
from benchmarks.own_practice import OwnLoop
from benchmarks.turns import in_turns
from compressor.base.memory import keep_freed_memory
from compressor.models.networks.base import Network, Spec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.students.students import cut_student, parse_student
from compressor.teachers.teacher import Teacher
from recipes.terms.perceptual import VGG19
from recipes.terms.phi import resolve_phi

BENCHMARK = Benchmark(
    "How much faster is a training step than the field's?",
    minutes=45,
    small=(
        *("--teacher", "edsr:width=16,depth=3,scale=4", "--student", "edsr:width=8,depth=3,scale=4"),
        *("--batch", "2", "--lr-patch", "16", "--rounds", "1", "--steps", "1", "--recipes", "logits,facd,dukd"),
    ),
)
COLUMNS = (
    Column("recipe", "recipe"),
    Column("batch", "batch"),
    Column("png", "field, PNG files, ms", ".1f"),
    Column("memory", "field, in memory, ms", ".1f"),
    Column("srkd", "srkd, ms", ".1f"),
    Column("over png", "faster than PNG"),
    Column("over memory", "faster than in memory"),
    Column("over step", "over the bare step"),
    Column("data", "share of data", ".1%"),
)

RECIPES = ("scratch", "logits", "ds", "fakd", "lfd", "csd", "facd", "hkdsr", "clsd", "dukd", "dckd")
SOURCES: tuple[Literal["png", "memory"], ...] = ("png", "memory")
ROUNDS = 7
SMALL, USUAL = (4, 32), (16, 48)
"""Batch and LR patch of recipes that compute VGG-19 of images in HR size, and of all others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="edsr:width=48,depth=16,scale=4")
    parser.add_argument("--student", default="edsr:width=24,depth=16,scale=4")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--batch", type=int, help="16; 4 through VGG-19")
    parser.add_argument("--lr-patch", type=int, help="48; 32 through VGG-19")
    parser.add_argument("--steps", type=int, default=2, help="steps of each way in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--device", default="cpu")
    add_variant_option(parser)
    options = parser.parse_args()
    if options.device == "cpu":
        keep_freed_memory()
    teacher, student = (edsr_spec(text) for text in (options.teacher, options.student))
    rows = []
    for recipe in options.recipes.split(","):
        rows.append(row(recipe, teacher, student, options))
        print(rows[-1], file=sys.stderr, flush=True)
    caption = (
        f"{options.teacher} to {options.student}, {options.device}, {torch.get_num_threads()} thread(s); median and "
        f"range of {options.rounds} rounds."
    )
    save("training_speed", Table(COLUMNS, rows, caption), variant=options.variant)


def edsr_spec(text: str) -> EDSRSpec:
    spec = parse_student(text, scale=None)
    if not isinstance(spec, EDSRSpec):
        raise SystemExit(f"{text}: the field's loop is written for EDSR")
    return spec


def row(recipe: str, teacher: EDSRSpec, student: EDSRSpec, options: argparse.Namespace) -> Row:
    default_batch, default_patch = SMALL if recipe in THROUGH_VGG else USUAL
    batch, lr_patch = options.batch or default_batch, options.lr_patch or default_patch
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        pngs = write_pngs(folder / "png", scale=student.scale)
        fields = {
            source: FieldLoop(
                recipe, teacher, student, pngs, data=source, batch=batch, lr_patch=lr_patch, device=device
            )
            for source in SOURCES
        }
        own = own_loop(recipe, teacher, student, folder, batch, lr_patch, device)
        ways: dict[str, Callable[[int], None]] = {name: loop.run for name, loop in fields.items()}
        ways |= {"srkd": own.run, "step": own.step_alone, "data": own.data}
        seconds = in_turns(
            {name: partial(run, options.steps) for name, run in ways.items()}, options.rounds, device=device
        )

    ms: dict[str, Cell] = {name: 1e3 * statistics.median(seconds[name]) / options.steps for name in (*SOURCES, "srkd")}
    faster: dict[str, Cell] = {f"over {source}": ratio(seconds[source], seconds["srkd"]) for source in SOURCES}
    return {
        "recipe": f"{recipe} ({own.mode.precision})",
        "batch": f"{batch} of {lr_patch}x{lr_patch}",
        **ms,
        **faster,
        "over step": ratio(seconds["srkd"], seconds["step"], 3),
        "data": statistics.median(a / b for a, b in zip(seconds["data"], seconds["srkd"], strict=True)),
    }


def ratio(above: Sequence[float], below: Sequence[float], digits: int = 2) -> str:
    """Return the median and range of the rounds' ratios; the ways of a round ran one after the other."""
    each = sorted(a / b for a, b in zip(above, below, strict=True))
    return f"{statistics.median(each):.{digits}f} ({each[0]:.{digits}f} to {each[-1]:.{digits}f})"


def own_loop(
    recipe: str, teacher: Spec, student: Spec, folder: Path, batch: int, lr_patch: int, device: torch.device
) -> OwnLoop:
    network: Network | None = None if recipe in ("scratch", "ds", "clsd") else build(teacher, seed=1)
    settings: tuple[str, ...] = ()
    phi = None
    if recipe in THROUGH_VGG:
        torch.manual_seed(10)
        torch.save(VGG19().state_dict(), folder / "vgg19.pth")
        settings, phi = ((f"{recipe}.phi=vgg19",), resolve_phi("vgg19", folder / "vgg19.pth"))
    return OwnLoop(
        student,
        None if network is None else Teacher(network),
        recipe,
        folder / "run",
        batch=batch,
        lr_patch=lr_patch,
        device=device,
        settings=settings,
        student=cut_student(network, student) if network is not None and recipe == "csd" else None,
        phi=phi,
    )
