"""Every method on every network at every scale: `python -m benchmarks methods_matrix`.

A cell is a teacher with random weights, a student of half its width and three steps on small images; `make test-matrix`
does it again and exports each student. --method and --network measure one row or column and keep the others.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.evidence import Benchmark, Column, Table, find_result, results_folder, save
from compressor.base.errors import SrkdError
from compressor.models.networks.base import Spec
from compressor.models.networks.registry import NETWORKS, architecture
from compressor.models.quantisation.quantisers import bake_weights
from compressor.runtimes.onnx_runtime import OnnxRuntime
from export.convert.to_onnx import convert
from export.formats.conversion import Conversion
from export.formats.table import QUANTISED
from recipes.config.options import make_method
from tests.support.method_runs import Pair
from tests.support.methods_table import ROWS, Row

NAME = "methods_matrix"
BENCHMARK = Benchmark(
    "Which method works on which network, at which scale?",
    minutes=15,
    small=("--method", "logits"),
)

SCALES = (2, 3, 4)
TEACHERS: Mapping[str, Spec] = {name: architecture(name).small.narrowed(0.4) for name in NETWORKS}
"""Teachers by network, with three blocks so that taps at thirds exist."""
WIDTH, STEPS = 0.5, 3
WORKS = "yes"

Cells = Mapping[tuple[str, str, int], str]
"""WORKS or the message of the refusal, by method, network and scale."""


def methods() -> dict[str, Row]:
    """Return the first row of each method in the tests' table."""
    first: dict[str, Row] = {}
    for row in ROWS:
        first.setdefault(row.of, row)
    return first


def cell(method: str, arch: str, scale: int, *, export: bool = False) -> str:
    """Train one combination and return WORKS or its refusal; any other error is raised."""
    teacher = replace(TEACHERS[arch], scale=scale)
    row = methods()[method]
    try:
        pair = Pair.build(make_method(method, row.options), teacher.narrowed(WIDTH), teacher, steps=STEPS)
        state = pair.fresh()
        losses = pair.train(state)
    except SrkdError as error:
        return str(error)
    assert len(losses) == pair.steps and all(step["loss"] == step["loss"] for step in losses)
    if export:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.onnx"
            student = state.averaged_network()
            baked = copy.deepcopy(student)
            bake_weights(baked)
            convert(Conversion(baked, path, {}))
            lr = torch.rand(1, 3, 13, 9, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                apart = float((OnnxRuntime(path).run(lr) - student(lr)).abs().max())
        # The order of a sum decides to which of two levels a feature is rounded.
        bound = 1e-4 if student.quantisation is None else QUANTISED.max_abs
        assert apart <= bound, f"{method} on {arch} x{scale}: the exported student is {apart:g} from what was trained"
    return WORKS


def table(cells: Cells) -> Table:
    """Return a table with a column per network; each kind of refusal is one footnote."""
    archs = tuple(dict.fromkeys(arch for _, arch, _ in cells))
    reasons: list[str] = []
    rows = []
    for method in dict.fromkeys(method for method, _, _ in cells):
        row = {arch: shown([cells[method, arch, scale] for scale in SCALES], reasons) for arch in archs}
        rows.append({"method": f"`{method}`", **row})
    notes = [f"{index}. {reason}" for index, reason in enumerate(reasons, start=1)]
    return Table([Column("method", "method"), *(Column(arch, arch) for arch in archs)], rows, conclusions=notes)


def shown(outcomes: Iterable[str], reasons: list[str]) -> str:
    """Return the cell of one network's three scales; new reasons are added to the footnotes."""
    words: list[str] = []
    for scale, outcome in zip(SCALES, outcomes, strict=True):
        if outcome == WORKS:
            words.append(f"x{scale}")
            continue
        if outcome not in reasons:
            reasons.append(outcome)
        words.append(f"no ({reasons.index(outcome) + 1})")
    if words == [f"x{scale}" for scale in SCALES]:
        return WORKS
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def documented() -> dict[tuple[str, str, int], str]:
    """Return the cells of the last result, in the form of `cell`."""
    last = find_result(NAME, results_folder())
    return {} if last is None else cells_of(last.tables[""])


def cells_of(rendered: Table) -> dict[tuple[str, str, int], str]:
    """Return the cells of a table, in the form of `cell`."""
    notes = [line.partition(". ")[2] for line in rendered.conclusions]
    return {
        (str(row["method"]).strip("`"), arch, scale): _outcome(str(words).split(", "), scale, notes)
        for row in rendered.rows
        for arch, words in row.items()
        if arch != "method"
        for scale in SCALES
    }


def _outcome(words: Sequence[str], scale: int, notes: Sequence[str]) -> str:
    if words == ["yes"] or f"x{scale}" in words:
        return WORKS
    at = words[SCALES.index(scale)] if len(words) == len(SCALES) else words[-1]
    return notes[int(at[4:-1]) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(methods()), help="measure this one's row and keep the others")
    parser.add_argument("--network", choices=list(NETWORKS), help="measure this one's column and keep the others")
    options = parser.parse_args()
    last = documented() if options.method or options.network else {}
    cells: dict[tuple[str, str, int], str] = {}
    for method, arch, scale in itertools.product(methods(), NETWORKS, SCALES):
        if options.method in (None, method) and options.network in (None, arch):
            cells[method, arch, scale] = cell(method, arch, scale)
            print(f"{method} {arch} x{scale}: {cells[method, arch, scale]}", file=sys.stderr)
        elif (method, arch, scale) in last:
            cells[method, arch, scale] = last[method, arch, scale]
    save(NAME, table(cells))
