"""Comparison of our networks with outputs of the official code.

A folder holds `archs/<case>/` with `input.npz`, `output.npz`, `meta.json` and the official state. One row for each
output: the largest absolute difference, on the scale where images lie in [0,1].
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.networks.base import Network
from compressor.models.networks.taps import read_taps
from compressor.models.students.students import build_student

SKIPPED = ("pams_*", "edsr_chop_and_x8_x2", "rrdb_plus_REFUSE")
"""Cases that are left out: quantised networks, which differ, one whose weights are not published, one to be refused."""
TOLERANCE = 1e-5
ADDRESSES = {"head": "head", "group0": "body[0]", "body_before_long_skip": "body_end"}
"""Feature maps of the golden files, in the network's own range, with our tap addresses."""
IMAGES = ("y*", "testscript_y_*", "student_out2")
"""Outputs that are images of a whole network; HKDSR's others come from heads that exist only in its training."""


@dataclass(frozen=True)
class Row:
    """One comparison: case and file, output and largest difference."""

    case: str
    output: str
    max_abs: float


def rows(golden: Path, checkpoints: Path) -> Iterator[Row]:
    """Yield a row for every output of every case; `checkpoints` holds the published carn_m.pth."""
    for case in sorted((golden / "archs").iterdir()):
        if matches(case.name, SKIPPED):
            continue
        for file in sorted(case.glob("*.pth")) or [checkpoints / "carn_m.pth"]:
            yield from _rows_of_file(case, file)


def _rows_of_file(case: Path, file: Path) -> Iterator[Row]:
    meta = json.loads((case / "meta.json").read_text())
    inputs, outputs = np.load(case / "input.npz"), np.load(case / "output.npz")
    unit = 255.0 if np.abs(inputs[inputs.files[0]]).max() > 2 else 1.0
    for name in outputs.files:
        if not matches(name, (*IMAGES, *ADDRESSES)) or _of_other_weights(name, file):
            continue
        scale = int(name[3:]) if name.startswith("y_s") else None
        network = load_checkpoint(file, scale=scale, arch_options=_options(meta["hyper"], name)).network
        expected = torch.from_numpy(outputs[name])
        actual = _output(network, torch.from_numpy(inputs[_input_of(name, inputs.files)]) / unit, name)
        difference = actual / unit - expected / unit if name in ADDRESSES else actual - expected / unit
        yield Row(f"{case.name}/{file.name}", name, float(difference.abs().max()))


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _of_other_weights(name: str, file: Path) -> bool:
    """Return whether an output is of other weights: BasicSR's averaged weights, which we load, have a separate one."""
    averaged = file.stem in ("both", "params_ema")
    return (averaged and name == "y") or (not averaged and name == "y_ema")


def _options(hyper: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the options that no file holds. The official RCAN takes a res_scale but ignores it."""
    options: dict[str, Any] = {}
    if hyper.get("act_type", "prelu") != "prelu":
        options["act"] = hyper["act_type"]
    if "learn_residual" in hyper:
        options["residual"] = hyper["learn_residual"]
    if "res_scale" in hyper and "n_resgroups" not in hyper:
        options["res_scale"] = float(hyper["res_scale"])
    if "window_size" in hyper:
        options["img_range"] = float(hyper["img_range"])
    if name.startswith("testscript"):
        options["padding"] = "testscript"
    return options


def _input_of(name: str, inputs: Iterable[str]) -> str:
    """Return the input of an output: `x_s2` for `y_s2`, `x_13x18` for `testscript_y_13x18`, else `x`."""
    candidate = f"x_{name.rpartition('_')[2]}"
    return candidate if candidate in inputs else "x"


def _output(network: Network, lr: torch.Tensor, name: str) -> torch.Tensor:
    """Return our output for `name` in a golden file: the image, that of a narrower student, or a feature map."""
    if name.startswith("y_w"):
        network = build_student(network, width=float(name[3:]))
    with torch.no_grad(), read_taps(network, [ADDRESSES[name]] if name in ADDRESSES else []) as features:
        sr: torch.Tensor = network(lr)
    return features[ADDRESSES[name]] if name in ADDRESSES else sr
