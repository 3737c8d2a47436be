"""Break one constant at a time in a copy of the tree; a test must fail: `python -m benchmarks break_on_purpose`.

A suite that stays green under such a break proves nothing about the number it was meant to guard. Rows are kept in
--rows. Ends with 1 if a break goes unnoticed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.evidence import ROOT, Benchmark, Cell, Column, Rows, Table, save

BENCHMARK = Benchmark(
    "Does a test fail for each constant that is broken on purpose?",
    minutes=40,
    small=("--only", "peak of PSNR", "--rows", "runs/small/breaks.json"),
)
COPIED = (
    "compressor",
    "recipes",
    "export",
    "demo",
    "srkd",
    "tests",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "README.md",
)


@dataclass(frozen=True)
class Break:
    """`old` becomes `new` in `file`, and one of `tests` must fail."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BREAKS = (
    Break(
        "red mean",
        "compressor/models/networks/layers.py",
        "(0.4488, 0.4371",
        "(0.4489, 0.4371",
        ("models/test_networks.py",),
    ),
    Break("Y coefficient of green", "compressor/images/metrics.py", "128.553", "128.653", ("images/test_metrics.py",)),
    Break(
        "rounding to 8 bit",
        "compressor/images/metrics.py",
        ".add(0.5).floor()",
        ".floor()",
        ("images/test_metrics.py",),
    ),
    Break("peak of PSNR", "compressor/images/metrics.py", "PEAK**2 / mse", "219**2 / mse", ("images/test_metrics.py",)),
    Break(
        "ReLU before CARN's shuffle",
        "compressor/models/networks/carn.py",
        "groups=self.upsampler_groups(), relu=True",
        "groups=self.upsampler_groups(), relu=False",
        ("models/test_networks.py",),
    ),
    Break(
        "ReLU after CARN's residual sum",
        "compressor/models/networks/carn.py",
        "joined: torch.Tensor = self.relu(skip + self.branch(branch))",
        "joined: torch.Tensor = skip + self.branch(branch)",
        ("models/test_networks.py",),
    ),
    Break(
        "gradient of a learnt range",
        "compressor/models/quantisation/quantisers.py",
        "by_alpha = (quantised - clipped) / alpha",
        "by_alpha = 0 * (quantised - clipped) / alpha",
        ("models/test_quantisers.py",),
    ),
    Break(
        "bias of the average that finds a range",
        "recipes/terms/quantised.py",
        "return (1 - AVERAGE_DECAY) / (1 - AVERAGE_DECAY**count)",
        "return 1 - AVERAGE_DECAY",
        ("recipes/test_quantised.py",),
    ),
    Break(
        "lowest level of a range in the integer graph",
        "export/int8/learnt_graph.py",
        "np.array(1, np.uint8)",
        "np.array(0, np.uint8)",
        ("export/test_learnt_graph.py",),
    ),
    Break(
        "slice offset of a concatenation",
        "compressor/models/networks/axes.py",
        "            start += length\n",
        "            start += length - 1\n",
        ("models/test_students.py", "models/test_axes.py"),
    ),
    Break(
        "inherited block",
        "compressor/models/networks/axes.py",
        "(2 * index + 1)",
        "(2 * index)",
        ("models/test_students.py", "models/test_axes.py"),
    ),
    Break(
        "residual scale of EDSR",
        "compressor/models/networks/edsr.py",
        "branch * self.res_scale",
        "branch * self.res_scale * 1.01",
        ("models/test_networks.py",),
    ),
    Break(
        "default residual scale",
        "compressor/models/networks/edsr.py",
        "width >= 256",
        "width >= 512",
        ("models/test_checkpoints.py",),
    ),
    Break(
        "receptive radius",
        "compressor/models/networks/edsr.py",
        "1 + 2 * self.spec.depth + 1",
        "self.spec.depth",
        ("inference/test_tiling.py", "models/test_networks.py"),
    ),
    Break(
        "mask of SwinIR's shifted windows",
        "compressor/models/networks/windows.py",
        "OTHER_REGION = -100.0",
        "OTHER_REGION = -5.0",
        ("models/test_networks.py",),
    ),
    Break(
        "slope before SwinIR's upsampler",
        "compressor/models/networks/swinir.py",
        "self.before_upsampler(joined), 0.01",
        "self.before_upsampler(joined), 0.02",
        ("models/test_networks.py",),
    ),
    Break(
        "hidden units of RCAN's attention",
        "compressor/models/networks/rcan.py",
        'hidden=scale_count("width", width, self.hidden)',
        "hidden=self.hidden",
        ("models/test_students.py",),
    ),
    Break(
        "thirds of FAKD's body",
        "compressor/models/networks/edsr.py",
        "(0, spec.depth // 3",
        "(0, (spec.depth + 1) // 3",
        ("models/test_networks.py", "models/test_networks_table.py"),
    ),
    Break(
        "order of strength",
        "compressor/models/students/unit_order.py",
        "descending=True",
        "descending=False",
        ("models/test_select.py",),
    ),
    Break(
        "operations of a LayerNorm",
        "compressor/models/networks/cost.py",
        "nn.LayerNorm: 5",
        "nn.LayerNorm: 4",
        ("models/test_cost.py",),
    ),
    Break("cubic kernel", "compressor/images/resize.py", "1.5 * t**3", "1.4 * t**3", ("images/test_resize.py",)),
    Break(
        "rounding of 8-bit LR images",
        "compressor/images/resize.py",
        "denominator / 2 + 0.25",
        "0.25",
        ("images/test_resize.py",),
    ),
    Break(
        "symmetry of HR patches",
        "compressor/data/batches.py",
        "torch.where(vflip, -widths, widths)",
        "torch.where(vflip, widths, widths)",
        ("data/test_data.py",),
    ),
    Break(
        "EMA warm-up",
        "compressor/training/state.py",
        "(10 + self.updates)",
        "(11 + self.updates)",
        ("training/test_training.py",),
    ),
    Break(
        "form B of logits",
        "recipes/methods/logits.py",
        '"pixel": 1.0 - self.alpha',
        '"pixel": self.alpha',
        ("recipes/test_recipes.py",),
    ),
    Break(
        "epsilon of FAKD",
        "recipes/methods/fakd.py",
        "EPS = 1e-8",
        "EPS = 1e-6",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "place of FAKD's epsilon",
        "recipes/methods/fakd.py",
        "flat / (norm + EPS)",
        "flat / (norm.square() + EPS).sqrt()",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "constant attention of LFD-style",
        "recipes/methods/lfd.py",
        "error.detach().mean(1",
        "error.mean(1",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "weight of CSD's fourth level",
        "recipes/terms/perceptual.py",
        "1 / 8, 1 / 4, 1.0)",
        "1 / 8, 1 / 3, 1.0)",
        ("recipes/test_terms_phi.py",),
    ),
    Break(
        "sum over CSD's negatives",
        "recipes/terms/contrast.py",
        "summed_l1(anchor, negative)",
        "summed_l1(anchor, negative) / len(negative)",
        ("recipes/test_terms_phi.py",),
    ),
    Break(
        "third tap of VGG-19",
        "recipes/terms/perceptual.py",
        "(1, 6, 11, 20, 29)",
        "(1, 6, 13, 20, 29)",
        ("recipes/test_terms_phi.py",),
    ),
    Break(
        "comparison of FACD-style's gate",
        "recipes/terms/gating.py",
        "(gap > 0)",
        "(gap < 0)",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "negatives of FACD-style",
        "recipes/methods/facd.py",
        "distances.masked_fill(positive, 0.0).sum(1)",
        "distances.sum(1)",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "gate of FAKD's affinities",
        "recipes/methods/fakd.py",
        "(gate * torch.stack(distances))",
        "torch.stack(distances)",
        ("recipes/test_gating.py",),
    ),
    Break(
        "gate of the teacher's image",
        "recipes/terms/gating.py",
        "(gate * sample_l1(student, teacher))",
        "sample_l1(student, teacher)",
        ("recipes/test_gating.py",),
    ),
    Break(
        "sign of a Haar band",
        "recipes/methods/hkdsr.py",
        "(a - b - c + d) / 2",
        "(a - b + c + d) / 2",
        ("recipes/test_terms_images.py",),
    ),
    Break(
        "sigmoid before HKDSR's softmax",
        "recipes/methods/hkdsr.py",
        "torch.sigmoid(self.choose(torch.relu(self.squeeze(pooled))))",
        "self.choose(torch.relu(self.squeeze(pooled)))",
        ("recipes/test_terms_images.py",),
    ),
    Break(
        "order of DUKD's inverse",
        "recipes/methods/dukd.py",
        "    if bug:\n",
        "    if not bug:\n",
        ("recipes/test_terms_images.py",),
    ),
    Break(
        "blocks of an auxiliary head",
        "recipes/methods/ds.py",
        "BLOCKS = 5",
        "BLOCKS = 4",
        ("recipes/test_terms_heads.py",),
    ),
    Break(
        "terms of one name are one quantity",
        "compressor/training/losses.py",
        "rel_tol=SAME_TERM_TOLERANCE",
        "rel_tol=9.0",
        ("recipes/test_composition.py",),
    ),
    Break(
        "share of other terms that is flagged",
        "compressor/training/guard.py",
        "MAX_BALANCE = 3.0",
        "MAX_BALANCE = 4.0",
        ("training/test_balance.py",),
    ),
    Break(
        "name of CLSD-style's contrast",
        "recipes/methods/clsd.py",
        '"heads_contrast"',
        '"contrast"',
        ("recipes/test_clsd.py",),
    ),
    Break(
        "LR patch of an HR patch",
        "recipes/config/preset.py",
        '"lr_patch": rule.hr_patch // scale',
        '"lr_patch": rule.hr_patch // 4',
        ("recipes/test_recipes.py",),
    ),
    Break(
        "basis of a fit, transposed",
        "compressor/models/fitting/bases.py",
        'uv->nvohw", split, self.matrix.to(',
        'uv->nvohw", split, self.whole.T[: len(self.matrix), : self.matrix.shape[1]].to(',
        ("models/test_fit.py",),
    ),
    Break(
        "order of offsets in a fit",
        "compressor/models/fitting/bases.py",
        "feature.reshape(len(feature), units, offsets, *feature.shape[2:])",
        "feature.reshape(len(feature), offsets, units, *feature.shape[2:]).transpose(1, 2)",
        ("models/test_fit.py",),
    ),
    Break(
        "correction of a layer in a fit",
        "compressor/models/fitting/fit.py",
        "module.weight.add_(slope",
        "module.weight.add_(0 * slope",
        ("models/test_fit.py",),
    ),
    Break(
        "bias in a fit",
        "compressor/models/fitting/fit.py",
        "module.bias.add_(intercept",
        "module.bias.add_(0 * intercept",
        ("models/test_fit.py",),
    ),
    Break(
        "block that a fitted block aims at",
        "compressor/models/networks/linear_plan.py",
        "return self.all_of(name)[-1]",
        "return self.all_of(name)[0]",
        ("models/test_fit.py",),
    ),
    Break(
        "basis of a turned teacher, transposed",
        "compressor/models/students/principal.py",
        "(rows.T @ module.bias",
        "(rows @ module.bias",
        ("models/test_principal.py",),
    ),
    Break(
        "pull towards the teacher's weights",
        "compressor/models/fitting/fit.py",
        "self._write(layer, *self._prior(layer))",
        "self._write(layer, *(0 * one for one in self._prior(layer)))",
        ("models/test_fit.py",),
    ),
)


COLUMNS = (
    Column("what", "what is broken"),
    Column("file", "file"),
    Column("failed", "tests that fail"),
    Column("passed", "that pass"),
    Column("first", "the first that fails"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the breaks whose name or file holds this text")
    parser.add_argument("--rows", type=Path, default=Path("runs/breaks.json"), help="where rows are kept")
    options = parser.parse_args()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    rows, chosen = Rows(options.rows), [one for one in BREAKS if options.only in f"{one.what} {one.file}"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_project(tree)
        cells = [shown(one, rows.get(one.what, partial(noticed, one, tree))) for one in chosen]
    missed = sum(not row["failed"] for row in cells)
    caption = f"{len(cells)} breaks, each in a copy of the project: {len(cells) - missed} noticed."
    save("break_on_purpose", Table(COLUMNS, cells, caption))
    return 1 if missed else 0


def shown(one: Break, tests: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return a row of the table; names of files and tests are code."""
    first = tests["first"]
    return {"what": one.what, "file": f"`{one.file}`", **tests, "first": f"`{first}`" if first else ""}


def noticed(one: Break, tree: Path) -> dict[str, Cell]:
    """Return the outcome of the tests in the copy with this break."""
    path, source = tree / one.file, (ROOT / one.file).read_text(encoding="utf-8")
    if one.old not in source:
        raise SystemExit(f"{one.what}: {one.old!r} is not in {one.file} any more")
    path.write_text(source.replace(one.old, one.new, 1), encoding="utf-8")
    try:
        done = run_tests(tree, one.tests)
    finally:
        path.write_text(source, encoding="utf-8")
    return outcome(done.returncode, done.stdout)


def outcome(code: int, output: str) -> dict[str, Cell]:
    """Return pytest's results: how many tests fail and pass, and the first that fails."""
    failed = [line.split(" - ")[0] for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if code and not failed:
        failed = [f"exit {code}"]
    passed = re.search(r"(\d+) passed", output)
    return {
        "failed": len(failed),
        "passed": 0 if passed is None else int(passed[1]),
        "first": failed[0].partition(" tests/")[2] or failed[0] if failed else "",
    }


def copy_project(tree: Path) -> None:
    """Copy the files that the tests need into a folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, tree / name)


def run_tests(
    tree: Path, tests: Sequence[str], *words: str, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run tests in the tree, with its own packages first on the path; `words` are further arguments of pytest."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        environment.setdefault("SRKD_SHARED", str(shared))
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow", *words]
    return subprocess.run(
        [*command, *(f"tests/{name}" for name in tests)],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
