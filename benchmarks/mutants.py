"""Random changes to the numeric core, each of which a test should notice: `python -m benchmarks mutants [--count 200]`.

An operator, a comparison or a number of one file is changed in a copy of the project, and the tests of that file run
until one fails. The sample follows from --seed. What survives is listed: a test is missing there, or the change makes
no difference. benchmarks/break_on_purpose.py has changes chosen by hand.
"""

from __future__ import annotations

import argparse
import ast
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.break_on_purpose import copy_project, run_tests
from benchmarks.evidence import ROOT, Benchmark, Column, Row, Rows, Table, save

BENCHMARK = Benchmark(
    "Do the tests of the numeric core notice random changes?",
    minutes=60,
    small=("--count", "2", "--rows", "runs/mutants-small.json"),
)

NETWORK_TESTS = (
    "models/test_networks.py models/test_cost.py models/test_students.py models/test_checkpoints.py "
    "models/test_convert.py models/test_fit.py recipes/test_published_settings.py"
)
CORE: Mapping[str, str] = {
    "compressor/images/metrics.py": "images/test_metrics.py",
    "compressor/images/resize.py": "images/test_resize.py inference/test_tiling.py",
    "compressor/models/networks/cost.py": "models/test_cost.py inference/test_tiling.py",
    "compressor/models/quantisation/quantisers.py": "models/test_quantisers.py recipes/test_quantised.py "
    "models/test_quantised_files.py export/test_learnt_graph.py",
    "compressor/models/networks/axes.py": "models/test_axes.py models/test_students.py models/test_select.py",
    "compressor/models/networks/layers.py": "models/test_networks.py models/test_swinir.py "
    "models/test_convert.py inference/test_teacher_check.py",
    "compressor/models/networks/windows.py": "models/test_swinir.py models/test_networks.py",
    "compressor/models/networks/edsr.py": NETWORK_TESTS,
    "compressor/models/networks/rcan.py": NETWORK_TESTS,
    "compressor/models/networks/carn.py": NETWORK_TESTS,
    "compressor/models/students/principal.py": "models/test_principal.py",
    "compressor/models/students/students.py": "models/test_students.py models/test_student_specs.py",
    "compressor/training/losses.py": "training/test_training.py training/test_balance.py training/test_distributed.py",
    "compressor/training/guard.py": "training/test_guard.py training/test_balance.py training/test_training.py "
    "training/test_gradient_path.py",
    "compressor/data/batches.py": "data/test_data.py",
    "export/timing/turns.py": "export/test_profile.py export/test_plan_measure.py",
    "export/plan/search.py": "export/test_plan_search.py srkd/test_plan.py",
    "export/plan/time_model.py": "export/test_plan_search.py",
    "export/int8/quantise/grids.py": "export/test_quantise.py",
    "recipes/terms/contrast.py": "recipes/test_terms_phi.py recipes/test_csd.py recipes/test_heads.py",
    "recipes/methods/calm.py": "recipes/test_calm.py",
    "recipes/methods/csd.py": "recipes/test_terms_phi.py recipes/test_csd.py",
    "recipes/terms/distances.py": "recipes/test_terms_features.py recipes/test_terms_phi.py",
    "recipes/methods/ds.py": "recipes/test_heads.py recipes/test_feature_methods.py",
    "recipes/methods/dckd.py": "recipes/test_dckd.py recipes/test_published_settings.py",
    "recipes/methods/perceptual.py": "recipes/test_perceptual.py",
    "recipes/terms/discriminator.py": "recipes/test_perceptual.py",
    "recipes/terms/haar.py": "recipes/test_terms_images.py recipes/test_perceptual.py",
    "recipes/terms/strength.py": "recipes/test_perceptual.py",
    "recipes/methods/dukd.py": "recipes/test_dukd.py recipes/test_terms_images.py",
    "recipes/terms/symmetries.py": "recipes/test_dukd.py recipes/test_terms_images.py",
    "recipes/methods/facd.py": "recipes/test_terms_features.py recipes/test_feature_methods.py recipes/test_gating.py",
    "recipes/methods/fakd.py": "recipes/test_terms_features.py recipes/test_feature_methods.py recipes/test_gating.py",
    "recipes/methods/hkdsr.py": "recipes/test_hkdsr.py recipes/test_terms_images.py recipes/test_feature_methods.py",
    "recipes/methods/lfd.py": "recipes/test_terms_features.py recipes/test_feature_methods.py recipes/test_gating.py",
    "recipes/methods/logits.py": "recipes/test_terms_images.py recipes/test_methods.py recipes/test_recipes.py",
}
"""The files of the numeric core, and the tests that should notice changes in them, separated by spaces."""
SECONDS = 600
"""Time limit of the tests in seconds; a change that makes them slower counts as noticed."""

SWAPS: Mapping[type[ast.AST], Any] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """A change of a file: the number of the node in `ast.walk`, its line, and the change in words."""

    file: str
    node: int
    code: str
    """The line of code that has the node."""
    change: str

    @property
    def key(self) -> str:
        return f"{self.file}: {self.code}: {self.change} ({self.node})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files that hold these words, separated by commas")
    parser.add_argument("--rows", type=Path, default=Path("runs/mutants.json"), help="where rows are kept")
    options = parser.parse_args()
    files = [name for name in CORE if not options.only or any(word in name for word in options.only.split(","))]
    every = [mutant for name in files for mutant in mutants_of(name, (ROOT / name).read_text(encoding="utf-8"))]
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(copy)
        for file in sorted({mutant.file for mutant in chosen}):
            if not rows.get(f"{file}: unchanged", partial(tests_pass, file, copy)):
                raise SystemExit(f"{file}: its tests fail before anything is changed: {CORE[file]}")
        outcomes = {mutant: rows.get(mutant.key, partial(is_noticed, mutant, copy)) for mutant in chosen}
    save("mutants", tables(outcomes, len(every)), seeds=(options.seed,))


def mutants_of(file: str, source: str) -> Iterator[Mutant]:
    """Yield every change of a file: swapped operators and comparisons, numbers plus one, removed `not` and `-`."""
    tree, lines = ast.parse(source), source.splitlines()
    passive = {id(node) for node in _passive(tree)}
    for number, node in enumerate(ast.walk(tree)):
        line: int | None = getattr(node, "lineno", None)
        if id(node) in passive or line is None:
            continue
        change = _described(node)
        if change:
            yield Mutant(file, number, lines[line - 1].strip(), change)


def _passive(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that do not affect results: annotations, decorators, raised errors and f-strings."""
    for node in ast.walk(tree):
        skipped: list[ast.AST | None] = []
        if isinstance(node, (ast.AnnAssign, ast.arg)):
            skipped = [node.annotation]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            skipped = [node.returns, *node.decorator_list]
        elif isinstance(node, (ast.Raise, ast.JoinedStr)):
            skipped = [node]
        for part in skipped:
            if part is not None:
                yield from ast.walk(part)


def _described(node: ast.AST) -> str:
    """Return the change of a node in words; empty if it is not changed."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPS:
        return f"{type(node.op).__name__} becomes {SWAPS[type(node.op)].__name__}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        return f"{type(node.ops[0]).__name__} becomes {SWAPS[type(node.ops[0])].__name__}"
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and type(node.value) is not bool:
        return f"{node.value!r} becomes {node.value + 1!r}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        return f"{type(node.op).__name__} is left out"
    return ""


def mutated(source: str, mutant: Mutant) -> str:
    """Return the source of a file with one change."""
    tree: ast.AST = ast.parse(source)
    node: Any = next(node for number, node in enumerate(ast.walk(tree)) if number == mutant.node)
    kind = type(node)
    if kind is ast.Compare:
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif kind is ast.Constant:
        node.value += 1
    elif kind is ast.UnaryOp:
        tree = _Replacement(node, node.operand).visit(tree)
    else:
        node.op = SWAPS[type(node.op)]()
    return ast.unparse(ast.fix_missing_locations(tree))


class _Replacement(ast.NodeTransformer):
    """A tree with another node in place of one."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def is_noticed(mutant: Mutant, copy: Path) -> bool:
    """Return whether a test of the file fails in the copy with this change."""
    target, source = copy / mutant.file, (ROOT / mutant.file).read_text(encoding="utf-8")
    target.write_text(mutated(source, mutant), encoding="utf-8")
    try:
        return not tests_pass(mutant.file, copy)
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_text(source, encoding="utf-8")


def tests_pass(file: str, copy: Path) -> bool:
    """Return whether all tests of a file pass in the copy."""
    return run_tests(copy, CORE[file].split(), "-x", seconds=SECONDS).returncode == 0


def tables(outcomes: Mapping[Mutant, bool], every: int) -> dict[str, Table]:
    """Return a table of noticed changes by file, and one of the others."""
    noticed = sum(outcomes.values())
    columns = [Column("file", "file"), Column("changes", "changes"), Column("noticed", "noticed")]
    rows: list[Row] = []
    for file in dict.fromkeys(mutant.file for mutant in outcomes):
        of_file: Sequence[bool] = [hit for mutant, hit in outcomes.items() if mutant.file == file]
        rows.append({"file": f"`{file}`", "changes": len(of_file), "noticed": sum(of_file)})
    share = noticed / len(outcomes)
    caption = f"{len(outcomes)} of {every:,} possible changes, drawn at random: {noticed} noticed ({share:.0%})."
    survivors: list[Row] = [
        {"file": f"`{mutant.file}`", "code": f"`{mutant.code}`".replace("|", r"\|"), "change": mutant.change}
        for mutant, hit in sorted(outcomes.items(), key=lambda entry: entry[0].key)
        if not hit
    ]
    places = [Column("file", "file"), Column("code", "line"), Column("change", "change")]
    return {
        "files": Table(columns, sorted(rows, key=lambda row: str(row["file"])), caption),
        "survivors": Table(places, survivors, "Not noticed:"),
    }
