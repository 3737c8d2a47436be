"""Break one constant at a time in a copy of the tree; a test must fail: `python -m benchmarks.break_on_purpose`.

A suite that stays green under such a break proves nothing about the number it was meant to guard.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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
        "joined: torch.Tensor = self.relu(kept + self.branch(branch))",
        "joined: torch.Tensor = kept + self.branch(branch)",
        ("models/test_networks.py",),
    ),
    Break(
        "gradient of a learnt range",
        "compressor/models/quantisers.py",
        "by_alpha = (quantised - clipped) / alpha",
        "by_alpha = 0 * (quantised - clipped) / alpha",
        ("models/test_quantisers.py",),
    ),
    Break(
        "bias of the average that finds a range",
        "recipes/quantised.py",
        "return (1 - AVERAGE_DECAY) / (1 - AVERAGE_DECAY**count)",
        "return 1 - AVERAGE_DECAY",
        ("recipes/test_quantised.py",),
    ),
    Break(
        "lowest level of a range in the integer graph",
        "export/learnt_graph.py",
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
        "compressor/models/unit_order.py",
        "descending=True",
        "descending=False",
        ("models/test_select.py",),
    ),
    Break(
        "operations of a LayerNorm",
        "compressor/models/cost.py",
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
        "recipes/logits.py",
        '"pixel": 1.0 - self.alpha',
        '"pixel": self.alpha',
        ("recipes/test_recipes.py",),
    ),
    Break(
        "epsilon of FAKD",
        "recipes/fakd.py",
        "EPS = 1e-8",
        "EPS = 1e-6",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "place of FAKD's epsilon",
        "recipes/fakd.py",
        "flat / (norm + EPS)",
        "flat / (norm.square() + EPS).sqrt()",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "constant attention of LFD-style",
        "recipes/lfd.py",
        "error.detach().mean(1",
        "error.mean(1",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "weight of CSD's fourth level",
        "recipes/perceptual.py",
        "1 / 8, 1 / 4, 1.0)",
        "1 / 8, 1 / 3, 1.0)",
        ("recipes/test_terms_phi.py",),
    ),
    Break(
        "sum over CSD's negatives",
        "recipes/contrast.py",
        "summed_l1(anchor, negative)",
        "summed_l1(anchor, negative) / len(negative)",
        ("recipes/test_terms_phi.py",),
    ),
    Break(
        "third tap of VGG-19",
        "recipes/perceptual.py",
        "(1, 6, 11, 20, 29)",
        "(1, 6, 13, 20, 29)",
        ("recipes/test_terms_phi.py",),
    ),
    Break(
        "comparison of FACD-style's gate",
        "recipes/gating.py",
        "(gap > 0)",
        "(gap < 0)",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "negatives of FACD-style",
        "recipes/facd.py",
        "distances.masked_fill(positive, 0.0).sum(1)",
        "distances.sum(1)",
        ("recipes/test_terms_features.py",),
    ),
    Break(
        "gate of FAKD's affinities",
        "recipes/fakd.py",
        "(gate * torch.stack(distances))",
        "torch.stack(distances)",
        ("recipes/test_gating.py",),
    ),
    Break(
        "gate of the teacher's image",
        "recipes/gating.py",
        "(gate * sample_l1(student, teacher))",
        "sample_l1(student, teacher)",
        ("recipes/test_gating.py",),
    ),
    Break(
        "sign of a Haar band",
        "recipes/hkdsr.py",
        "(a - b - c + d) / 2",
        "(a - b + c + d) / 2",
        ("recipes/test_terms_images.py",),
    ),
    Break(
        "sigmoid before HKDSR's softmax",
        "recipes/hkdsr.py",
        "torch.sigmoid(self.choose(torch.relu(self.squeeze(pooled))))",
        "self.choose(torch.relu(self.squeeze(pooled)))",
        ("recipes/test_terms_images.py",),
    ),
    Break(
        "order of DUKD's inverse",
        "recipes/dukd.py",
        "    if bug:\n",
        "    if not bug:\n",
        ("recipes/test_terms_images.py",),
    ),
    Break(
        "blocks of an auxiliary head",
        "recipes/ds.py",
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
        "recipes/clsd.py",
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
        "module.weight += slope",
        "module.weight += 0 * slope",
        ("models/test_fit.py",),
    ),
    Break(
        "bias in a fit",
        "compressor/models/fitting/fit.py",
        "module.bias += intercept",
        "module.bias += 0 * intercept",
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
        "compressor/models/principal.py",
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="run the breaks whose name or file holds this text")
    options = parser.parse_args()
    missed = 0
    for one in BREAKS:
        if options.only and options.only not in f"{one.what} {one.file}":
            continue
        caught = caught_by(one)
        missed += caught is None
        print(f"{one.what:35} {one.file:35} {'NOT CAUGHT' if caught is None else caught}", flush=True)
    return 1 if missed else 0


def caught_by(one: Break) -> str | None:
    """The first failing test of the broken tree, or None."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_project(tree)
        path = tree / one.file
        text = path.read_text(encoding="utf-8")
        if one.old not in text:
            raise SystemExit(f"{one.what}: {one.old!r} is not in {one.file} any more")
        path.write_text(text.replace(one.old, one.new, 1), encoding="utf-8")
        return first_failure(tree, one.tests)


def copy_project(tree: Path) -> None:
    """Copy what the tests need into a folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, tree / name)


def first_failure(tree: Path, tests: tuple[str, ...]) -> str | None:
    """Return the first test that fails in a copy of the project."""
    done = run_tests(tree, tests)
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"exit {done.returncode}"


def run_tests(tree: Path, tests: tuple[str, ...], *, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run tests until one fails in the tree itself, with its own packages first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        environment.setdefault("SRKD_SHARED", str(shared))
    files = [f"tests/{name}" for name in tests]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        *files,
    ]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
