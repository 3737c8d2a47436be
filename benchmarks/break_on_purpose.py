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


def _in(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Break]:
    """Return breaks of a file by name, old text and new text; `tests` are separated by spaces."""
    return [Break(what, file, old, new, tuple(tests.split())) for what, old, new in changes]


BREAKS = (
    *_in(
        "compressor/models/networks/layers.py",
        "models/test_networks.py",
        ("red mean", "(0.4488, 0.4371", "(0.4489, 0.4371"),
        ("residual scale of EDSR", "branch * self.res_scale", "branch * self.res_scale * 1.01"),
    ),
    *_in(
        "compressor/images/metrics.py",
        "images/test_metrics.py",
        ("Y coefficient of green", "128.553", "128.653"),
        ("rounding to 8 bit", ".add(0.5).floor()", ".floor()"),
        ("peak of PSNR", "PEAK**2 / mse", "219**2 / mse"),
    ),
    *_in(
        "compressor/models/networks/carn.py",
        "models/test_networks.py",
        ("ReLU before CARN's shuffle", "upsampler_groups(), relu=True", "upsampler_groups(), relu=False"),
        ("ReLU after CARN's residual sum", "self.relu(super().forward(x))", "super().forward(x)"),
    ),
    *_in(
        "compressor/models/quantisation/quantisers.py",
        "models/test_quantisers.py",
        ("gradient of a learnt range", ".sub_(clipped).div_(alpha)", ".mul_(0)"),
    ),
    *_in(
        "recipes/terms/quantised.py",
        "recipes/test_quantised.py",
        (
            "bias of the average that finds a range",
            "(1 - AVERAGE_DECAY) / (1 - AVERAGE_DECAY**count)",
            "1 - AVERAGE_DECAY",
        ),
    ),
    *_in(
        "export/int8/learnt_graph.py",
        "export/test_learnt_graph.py",
        ("lowest level of a range in the integer graph", "np.array(1, np.uint8)", "np.array(0, np.uint8)"),
    ),
    *_in(
        "compressor/models/networks/axes.py",
        "models/test_students.py models/test_axes.py",
        ("slice offset of a concatenation", "            start += length\n", "            start += length - 1\n"),
        ("inherited block", "(2 * index + 1)", "(2 * index)"),
    ),
    *_in(
        "compressor/models/networks/edsr.py",
        "models/test_checkpoints.py",
        ("default residual scale", "width >= 256", "width >= 512"),
    ),
    *_in(
        "compressor/models/networks/edsr.py",
        "inference/test_tiling.py models/test_networks.py",
        ("receptive radius", "1 + 2 * self.spec.depth + 1", "self.spec.depth"),
    ),
    *_in(
        "compressor/models/networks/windows.py",
        "models/test_networks.py",
        ("mask of SwinIR's shifted windows", "OTHER_REGION = -100.0", "OTHER_REGION = -5.0"),
    ),
    *_in(
        "compressor/models/networks/swinir_network.py",
        "models/test_networks.py",
        ("slope before SwinIR's upsampler", "(joined), 0.01", "(joined), 0.02"),
    ),
    *_in(
        "compressor/models/networks/rcan.py",
        "models/test_students.py",
        ("hidden units of RCAN's attention", 'hidden=scale_count("width", width, self.hidden)', "hidden=self.hidden"),
    ),
    *_in(
        "compressor/models/networks/edsr.py",
        "models/test_networks.py",
        ("thirds of FAKD's body", "part * spec.depth // 3", "(part * spec.depth + 1) // 3"),
    ),
    *_in(
        "compressor/models/students/unit_order.py",
        "models/test_select.py",
        ("order of strength", "descending=True", "descending=False"),
    ),
    *_in(
        "compressor/models/networks/cost.py",
        "models/test_cost.py",
        ("operations of a LayerNorm", "nn.LayerNorm: 5", "nn.LayerNorm: 4"),
    ),
    *_in(
        "compressor/images/resize.py",
        "images/test_resize.py",
        ("cubic kernel", "1.5 * t**3", "1.4 * t**3"),
        ("rounding of 8-bit LR images", "denominator / 2 + 0.25", "0.25"),
    ),
    *_in(
        "compressor/data/batches.py",
        "data/test_data.py",
        (
            "symmetry of HR patches",
            "torch.where(draw.vflip, -widths, widths)",
            "torch.where(draw.vflip, widths, widths)",
        ),
    ),
    *_in(
        "compressor/training/state.py",
        "training/test_training.py",
        ("EMA warm-up", "(10 + self.updates)", "(11 + self.updates)"),
    ),
    *_in(
        "recipes/methods/logits.py",
        "recipes/test_recipes.py",
        ("form B of logits", '"pixel": 1.0 - self.alpha', '"pixel": self.alpha'),
    ),
    *_in(
        "recipes/methods/fakd.py",
        "recipes/test_terms_features.py",
        ("epsilon of FAKD", "EPS = 1e-8", "EPS = 1e-6"),
        ("place of FAKD's epsilon", "flat / (norm + EPS)", "flat / (norm.square() + EPS).sqrt()"),
    ),
    *_in(
        "recipes/methods/lfd.py",
        "recipes/test_terms_features.py",
        ("constant attention of LFD-style", "error.detach().mean(1", "error.mean(1"),
    ),
    *_in(
        "recipes/terms/perceptual.py",
        "recipes/test_terms_phi.py",
        ("weight of CSD's fourth level", "1 / 8, 1 / 4, 1.0)", "1 / 8, 1 / 3, 1.0)"),
        ("third tap of VGG-19", "(1, 6, 11, 20, 29)", "(1, 6, 13, 20, 29)"),
    ),
    *_in(
        "recipes/terms/contrast.py",
        "recipes/test_terms_phi.py",
        (
            "sum over CSD's negatives",
            "summed_l1(anchor, negative, own=own)",
            "summed_l1(anchor, negative, own=own) / len(negative)",
        ),
    ),
    *_in(
        "recipes/terms/gating.py",
        "recipes/test_gating.py",
        ("comparison of FACD-style's gate", "(gap > 0)", "(gap < 0)"),
    ),
    *_in(
        "recipes/methods/facd.py",
        "recipes/test_terms_features.py",
        ("negatives of FACD-style", "distances.masked_fill(positive, 0.0).sum(1)", "distances.sum(1)"),
    ),
    *_in(
        "recipes/methods/fakd.py",
        "recipes/test_gating.py",
        ("gate of FAKD's affinities", "(gate * torch.stack(distances))", "torch.stack(distances)"),
    ),
    *_in(
        "recipes/terms/gating.py",
        "recipes/test_gating.py",
        ("gate of the teacher's image", "(gate * sample_l1(student, teacher))", "sample_l1(student, teacher)"),
    ),
    *_in(
        "recipes/terms/haar.py",
        "recipes/test_terms_images.py",
        ("sign of a Haar band", "(a - b - c + d) / 2", "(a - b + c + d) / 2"),
    ),
    *_in(
        "recipes/methods/perceptual.py",
        "recipes/test_perceptual.py",
        (
            "the student is detached for the discriminator",
            "torch.cat([real, fake.detach()])",
            "torch.cat([real, fake])",
        ),
        ("the discriminator's weight rises", "(done - self.alone) / self.ramp", "1.0"),
    ),
    *_in(
        "compressor/images/metrics.py",
        "recipes/test_perceptual.py",
        ("the label is rounded", "(255 * images_01.clamp(0, 1)).round() / 255", "images_01.clamp(0, 1)"),
    ),
    *_in(
        "recipes/terms/discriminator.py",
        "recipes/test_perceptual.py",
        ("a skip of the discriminator", "SLOPE) + skips.pop()", "SLOPE)"),
    ),
    *_in(
        "recipes/terms/strength.py",
        "recipes/test_perceptual.py",
        ("the first breach ends the search", "            break\n", "            continue\n"),
    ),
    *_in(
        "compressor/models/students/blend.py",
        "recipes/test_perceptual.py",
        ("the middle is nearer to both ends", "> apart:", "> 100 * apart:"),
    ),
    *_in(
        "recipes/methods/hkdsr.py",
        "recipes/test_terms_images.py",
        (
            "sigmoid before HKDSR's softmax",
            "torch.sigmoid(self.choose(torch.relu(self.squeeze(pooled))))",
            "self.choose(torch.relu(self.squeeze(pooled)))",
        ),
    ),
    *_in(
        "export/writing/exporting.py",
        "hosts/test_hosts.py",
        ("a size in a name is read as a scale", 'r"\\1by"', 'r"\\1x"'),
    ),
    *_in(
        "compressor/models/networks/compact.py",
        "hosts/test_ncnn_upscalers.py",
        ("colours of a grey network are blocks", "ab,oikl->aobikl", "ab,oikl->oabikl"),
    ),
    *_in(
        "recipes/methods/calm.py",
        "recipes/test_calm.py",
        ("the target of calm has no gradient", "step.student().sr.detach()", "step.student().sr"),
        ("calm compares what the same pixels show", "border + scale * down", "border + down"),
    ),
    *_in(
        "recipes/methods/dckd.py",
        "recipes/test_dckd.py",
        ("share of DCKD's earlier student that is kept", "averaged, self.decay", "averaged, 1 - self.decay"),
    ),
    *_in(
        "recipes/methods/dukd.py",
        "recipes/test_dukd.py",
        ("DUKD's augmentation is undone", "F.l1_loss(restored, target)", "F.l1_loss(sr, target)"),
    ),
    *_in(
        "recipes/terms/symmetries.py",
        "recipes/test_terms_images.py",
        ("order of DUKD's inverse", "    if bug:\n", "    if not bug:\n"),
    ),
    *_in(
        "recipes/methods/ds.py",
        "recipes/test_heads.py",
        ("blocks of an auxiliary head", "BLOCKS = 5", "BLOCKS = 4"),
    ),
    *_in(
        "compressor/training/losses.py",
        "recipes/test_composition.py",
        ("terms of one name are one quantity", "rel_tol=SAME_TERM_TOLERANCE", "rel_tol=9.0"),
    ),
    *_in(
        "compressor/training/guard.py",
        "training/test_balance.py",
        ("share of other terms that is flagged", "MAX_BALANCE = 3.0", "MAX_BALANCE = 4.0"),
    ),
    *_in(
        "recipes/methods/clsd.py",
        "recipes/test_heads.py",
        ("name of CLSD-style's contrast", '"heads_contrast"', '"contrast"'),
    ),
    *_in(
        "recipes/config/preset.py",
        "recipes/test_recipes.py",
        ("LR patch of an HR patch", "lr_patch=rule.hr_patch // scale", "lr_patch=rule.hr_patch // 4"),
    ),
    *_in(
        "compressor/models/fitting/bases.py",
        "models/test_fit.py",
        (
            "basis of a fit, transposed",
            'uv->nvohw", split, self.matrix.to(',
            'uv->nvohw", split, self.whole.T[: len(self.matrix), : self.matrix.shape[1]].to(',
        ),
        (
            "order of offsets in a fit",
            "feature.reshape(len(feature), units, offsets, *feature.shape[2:])",
            "feature.reshape(len(feature), offsets, units, *feature.shape[2:]).transpose(1, 2)",
        ),
    ),
    *_in(
        "compressor/models/fitting/layer_solver.py",
        "models/test_fit.py",
        ("correction of a layer in a fit", "module.weight.add_(slope", "module.weight.add_(0 * slope"),
        ("bias in a fit", "module.bias.add_(intercept", "module.bias.add_(0 * intercept"),
    ),
    *_in(
        "compressor/models/fitting/across.py",
        "models/test_fit_across.py",
        ("offset of a stream", "bias[rows] += (bend", "bias[rows] += 0 * (bend"),
        ("offset that opens gates", "= value + offset[:, None, None]", "= value"),
    ),
    *_in(
        "compressor/models/fitting/across_aims.py",
        "models/test_fit_across.py",
        ("one basis for a stream", "bases[layer.output, len(group)]", "leading_directions(source.second[group])"),
        ("slopes of hidden units", "mix, slopes[chosen], size", "mix, 0.25 + 0 * slopes[chosen], size"),
        ("state of a layer", "round(step * last / steps)", "min(last, 1 + round(step * last / steps))"),
        ("units between two states", "between[at[step] : at[step + 1]]", "between[at[step + 1] : at[step + 1] + 1]"),
    ),
    *_in(
        "compressor/models/fitting/balance.py",
        "models/test_fit_across.py",
        ("scale of a unit", "read.div_(factor", "read.mul_(factor"),
    ),
    *_in(
        "compressor/models/networks/compact.py",
        "models/test_fit_across.py",
        ("anchor in the aim of a tail", "image = image - F.interpolate(", "image = image - 0 * F.interpolate("),
    ),
    *_in(
        "compressor/models/fitting/same_kind.py",
        "models/test_fit.py",
        (
            "pull towards the teacher's weights",
            "            write_dense(module, weight)\n            if module.bias",
            "            write_dense(module, 0 * weight)\n            if module.bias",
        ),
    ),
    *_in(
        "compressor/models/networks/linear_plan.py",
        "models/test_fit.py",
        ("block that a fitted block aims at", "return self.all_of(name)[-1]", "return self.all_of(name)[0]"),
    ),
    *_in(
        "compressor/models/fitting/layers.py",
        "models/test_principal.py",
        ("basis of a turned teacher, transposed", "(rows.T @ module.bias", "(rows @ module.bias"),
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
