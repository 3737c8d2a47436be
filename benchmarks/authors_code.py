"""A training step of the methods' authors, in their own code: `python -m benchmarks authors_code --clones DIR`.

DIR holds clones of their repositories, each in the folder that benchmarks/clones.py names; nothing of them is part of
srkd. Each recipe runs in a process of its own:

- both sides have the same EDSR with the same random weights, and the same batches;
- the losses of the first steps of both, in the units of images in [0,1], show that they compute the same;
- then rounds of a few steps of each in turns, so that ratios hold although the machine is shared: the authors' loop,
  which gets ready batches in memory, and the loop of `srkd compress` in fp32 and in bf16, which makes its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import clones
from benchmarks.clones import Authors, Clone, Setting
from benchmarks.evidence import ROOT, Benchmark, Column, Row, Table, add_variant_option, save
from benchmarks.field_practice import THROUGH_VGG
from benchmarks.own_practice import OwnLoop
from benchmarks.training_speed import SMALL, USUAL, edsr_spec, ratio
from benchmarks.turns import in_turns
from compressor.base.choices import Precision
from compressor.base.memory import keep_freed_memory
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import build, quantise
from compressor.models.students.students import cut_student, parse_student
from compressor.teachers.teacher import Teacher
from compressor.training.loop import Events, Trainer
from compressor.training.losses import Losses
from compressor.training.method import quantisation_of
from compressor.training.stage import with_other_stages
from compressor.training.state import State
from recipes.config.reading import load_preset
from recipes.terms.perceptual import VGG19
from recipes.terms.phi import resolve_phi

BENCHMARK = Benchmark(
    "How much faster is a training step than in the code of a method's authors?",
    minutes=30,
    arguments=("--clones", "{clones}"),
    small=(
        *("--clones", "{clones}", "--teacher", "edsr:width=16,depth=3,scale=4"),
        *("--student", "edsr:width=8,depth=3,scale=4"),
        *("--batch", "2", "--lr-patch", "16", "--rounds", "1", "--steps", "1"),
    ),
)
COLUMNS = (
    Column("recipe", "recipe"),
    Column("commit", "their commit"),
    Column("batch", "batch"),
    Column("authors", "authors, ms", ".1f"),
    Column("fp32", "srkd fp32, ms", ".1f"),
    Column("over fp32", "times as fast"),
    Column("bf16", "srkd bf16, ms", ".1f"),
    Column("over bf16", "times as fast"),
    Column("first", "first loss, authors and srkd"),
    Column("fifth", "fifth loss"),
    Column("apart", "largest difference of the five", ".0e"),
)
COMPARED_STEPS = 5
ROUNDS = 5
STEPS = 5
"""Steps of each way in a round: srkd's loop sets up its networks at the start of each, which a run does once."""
SEED = 10
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@dataclass(frozen=True)
class Comparison:
    """A recipe of srkd, the authors' loop, and what is known to differ between the two."""

    clones: tuple[Clone, ...]
    preset: str
    authors: Callable[[Setting, Path], Authors]
    networks: str
    differs: str
    settings: tuple[str, ...] = ()
    calibrates: bool = False
    own_networks: tuple[str, str] | None = None
    """Teacher and student, if their code has no EDSR."""
    package: str = ""
    """A package that its step uses and srkd does not."""

    @property
    def is_possible(self) -> bool:
        return not self.package or importlib.util.find_spec(self.package) is not None

    def note(self, recipe: str) -> str:
        """Return what a reader of the row must know."""
        addresses = " with ".join(f"{clone.address}@{clone.commit[:8]}" for clone in self.clones)
        changes = "; ".join(change for clone in self.clones for change in clone.changes)
        what = f"{addresses}, {self.networks}; srkd's recipe is `{self.preset}`"
        return f"- {recipe}: {what}. {self.differs} What was changed from outside to run it: {changes}."


BOTH = "the teacher and the student of the caption"
QUANTISED = "the student of the caption with 8 bits, and a float network of its size as its teacher"
LEVELS = (
    "In fp32 a feature between two levels may be rounded to either, by the order of a sum; in fp64 the images of both "
    "differed by 2e-8."
)
COMPARISONS = {
    "scratch": Comparison(
        (clones.BASICSR,),
        "scratch-paper",
        clones.scratch,
        "the student of the caption",
        "Its average of the weights is part of both steps.",
        settings=("schedule.ema=0.999",),
    ),
    "fakd": Comparison(
        (clones.FAKD,), "fakd-code", clones.fakd, BOTH, "Both compare the third features after the global skip."
    ),
    "csd": Comparison(
        (clones.CSD,),
        "csd-code",
        clones.csd,
        BOTH,
        "It permutes its negatives, which changes no sum; there are as many as patches.",
    ),
    "pams-calibration": Comparison(
        (clones.PAMS,),
        "pams-code",
        partial(clones.pams, calibrates=True),
        QUANTISED,
        f"The steps of its first epoch, in which the ranges follow the features. {LEVELS}",
        calibrates=True,
    ),
    "pams": Comparison(
        (clones.PAMS,),
        "pams-code",
        clones.pams,
        QUANTISED,
        f"The steps after its first epoch, here after one step of it in srkd, whose ranges both have. {LEVELS}",
    ),
    "dukd": Comparison(
        (clones.DUKD, clones.BASICSR),
        "dukd-code",
        partial(clones.dukd, seed=SEED),
        BOTH,
        "A step has two updates, whose losses are added here. Its teacher is not frozen, so that a backward pass "
        "computes gradients of the teacher, too, which nothing uses; srkd's is frozen.",
    ),
    "hkdsr": Comparison(
        (clones.HKDSR,),
        "hkdsr-code",
        clones.hkdsr,
        "an RCAN of 10 groups of 2 blocks with 48 channels and one of 5 groups with 24, at x2, as it has no EDSR",
        "The steps of its second stage, in which the student learns. Its code trains the mean shift of the student, "
        "too, which srkd keeps: all of the difference, as without it the losses differed by 1e-7.",
        package="pytorch_wavelets",
        own_networks=(
            "rcan:width=48,groups=10,depth=2,hidden=3,scale=2",
            "rcan:width=24,groups=5,depth=2,hidden=3,scale=2",
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=Path, required=True, metavar="DIR", help="folder of the authors' repositories")
    possible = [recipe for recipe, comparison in COMPARISONS.items() if comparison.is_possible]
    parser.add_argument("--recipes", default=",".join(possible), help="names separated by commas")
    parser.add_argument("--teacher", default="edsr:width=48,depth=16,scale=4")
    parser.add_argument("--student", default="edsr:width=24,depth=16,scale=4")
    parser.add_argument("--batch", type=int, help="16; 4 through VGG-19")
    parser.add_argument("--lr-patch", type=int, help="48; 32 through VGG-19")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each way in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", metavar="RECIPE", help="print the row of RECIPE and end")
    add_variant_option(parser)
    options = parser.parse_args()
    options.clones = options.clones.resolve()
    if options.one is not None:
        print(json.dumps(row(options.one, options)))
        return
    recipes = options.recipes.split(",")
    if unknown := [recipe for recipe in recipes if recipe not in COMPARISONS]:
        parser.error(f"--recipes {unknown[0]}: the recipes are {', '.join(COMPARISONS)}")
    for recipe in recipes:
        comparison = COMPARISONS[recipe]
        if not comparison.is_possible:
            parser.error(f"--recipes {recipe}: needs the package {comparison.package}")
        for clone in comparison.clones:
            clone.root(options.clones)
    rows = []
    for recipe in recipes:
        rows.append(row_apart(recipe))
        print(rows[-1], file=sys.stderr, flush=True)
    caption = (
        f"{options.teacher} to {options.student}, cpu, {torch.get_num_threads()} thread(s); median and range of "
        f"{options.rounds} rounds. The authors' loops get ready batches; srkd's make theirs. The process keeps freed "
        "memory, as srkd's commands do. Losses of the first steps in fp32, in the units of images in [0,1], and their "
        "largest difference as a share of the loss."
    )
    notes = [COMPARISONS[recipe].note(recipe) for recipe in recipes]
    save("authors_code", Table(COLUMNS, rows, caption, notes), seeds=(SEED,), variant=options.variant)


def row_apart(recipe: str) -> Row:
    """Return the row of a recipe from a process of its own, as the packages of the clones have the same names."""
    command = [sys.executable, "-m", "benchmarks", "authors_code", *sys.argv[1:], "--one", recipe]
    without_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=without_gpu)
    measured: Row = json.loads(done.stdout)
    return measured


def row(recipe: str, options: argparse.Namespace) -> Row:
    keep_freed_memory()
    comparison = COMPARISONS[recipe]
    default_batch, default_patch = SMALL if recipe in THROUGH_VGG else USUAL
    batch, lr_patch = options.batch or default_batch, options.lr_patch or default_patch
    names = comparison.own_networks
    teacher, student = (
        (edsr_spec(options.teacher), edsr_spec(options.student))
        if names is None
        else (parse_student(names[0]), parse_student(names[1]))
    )
    with tempfile.TemporaryDirectory() as text, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(text)
        (folder / "work").mkdir()
        os.chdir(folder / "work")  # their scripts write into this folder and beside it
        torch.manual_seed(SEED)
        torch.save(VGG19().state_dict(), folder / "vgg19.pth")
        own = {
            precision: own_loop(recipe, teacher, student, precision, folder, batch, lr_patch)
            for precision in PRECISIONS
        }
        plain = own["fp32"]
        setting = Setting(
            plain.state.student, plain.teacher, plain.state.modules, batch, lr_patch, folder / "vgg19.pth"
        )
        authors = comparison.authors(setting, options.clones)
        batches = [authors.prepare(plain.batches.at(step)) for step in range(max(COMPARED_STEPS, options.steps))]
        theirs = authors.losses(batches[:COMPARED_STEPS])
        ours = first_losses(plain)
        ways: dict[str, Callable[[], None]] = {"authors": partial(authors.run, batches[: options.steps])}
        ways |= {precision: partial(loop.run, options.steps) for precision, loop in own.items()}
        seconds = in_turns(ways, options.rounds)
        os.chdir(ROOT)
    return {
        "recipe": recipe,
        "commit": ", ".join(clone.commit[:8] for clone in comparison.clones),
        "batch": f"{batch} of {lr_patch}x{lr_patch}",
        **{name: 1e3 * statistics.median(each) / options.steps for name, each in seconds.items()},
        **{f"over {precision}": ratio(seconds["authors"], seconds[precision]) for precision in PRECISIONS},
        "first": f"{theirs[0]:.6f}, {ours[0]:.6f}",
        "fifth": f"{theirs[-1]:.6f}, {ours[-1]:.6f}",
        "apart": max(abs(their / our - 1) for their, our in zip(theirs, ours, strict=True)),
        "losses of the authors": json.dumps(theirs),
        "losses of srkd": json.dumps(ours),
    }


def own_loop(
    recipe: str, teacher: Spec, student: Spec, precision: Precision, folder: Path, batch: int, lr_patch: int
) -> OwnLoop:
    """Return srkd's loop before its first step; that of quantised training has been calibrated by one step."""
    comparison = COMPARISONS[recipe]
    methods = load_preset(comparison.preset).build_methods()
    quantisation = quantisation_of(methods)
    network = build(teacher, seed=1)
    start = build(student, seed=SEED)
    if quantisation is not None:
        network, start = build(student, seed=1), quantise(start, quantisation)
    elif recipe == "csd":
        start = cut_student(network, student)
    loop = OwnLoop(
        student,
        None if recipe == "scratch" else Teacher(network),
        comparison.preset,
        folder / precision,
        batch=batch,
        lr_patch=lr_patch,
        device=torch.device("cpu"),
        settings=(f"schedule.precision={precision}", *comparison.settings),
        student=start,
        phi=resolve_phi("vgg19", folder / "vgg19.pth") if recipe in THROUGH_VGG else None,
    )
    if quantisation is not None:
        main_stage = loop.stage
        loop.stage = with_other_stages(main_stage)[0]
        loop.state = State.fresh(start, loop.teacher, loop.stage)
        if not comparison.calibrates:
            loop.run(1)
            loop.stage, loop.state = main_stage, State.fresh(start, loop.teacher, main_stage)
    return loop


class KeptLosses(Events):
    """A listener that keeps the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        self.losses.append(losses.numbers()["loss"])


def first_losses(loop: OwnLoop) -> Sequence[float]:
    """Train for the first steps, and return their losses."""
    kept = KeptLosses()
    until = replace(loop.stage, schedule=replace(loop.stage.schedule, steps=COMPARED_STEPS))
    Trainer([until], loop.state, loop.batches, loop.teacher, kept, seed=SEED).train(until)
    return kept.losses
