"""Train small teachers that no file is published for: `python -m benchmarks.small_teachers --photos PHOTOS --labels-by
DCTLSA_x4.pt --out DIR`.

RCAN, SwinIR and CARN of the embedded teacher's size learn the images of a much stronger x4 network from random weights:
`srkd compress --recipe logits` with `--teacher-cache`, which holds for all three. Each takes a quarter of an hour of a
thread's time, half an hour on a busy machine, after five minutes for the labels. They are what
`benchmarks fitted_students --teacher DIR/rcan` fits students to; the repository does not contain the weights.
An existing run is kept or continued: the command can be stopped and repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SETTINGS = ("batch=8", "lr_patch=32", "decay=cosine", "precision=bf16")


@dataclass(frozen=True)
class Training:
    """A network, with the steps and rate of its training."""

    student: str
    steps: int
    rate: float


TEACHERS: Mapping[str, Training] = {
    "rcan": Training("rcan:width=40,groups=2,depth=6,hidden=5,scale=4", 5_000, 1e-3),
    "swinir": Training("swinir:width=36,depths=4/4,heads=6/6,window=8,mlp_ratio=2,features=48,scale=4", 2_400, 6e-4),
    "carn": Training("carn:width=40,scale=4", 5_000, 1e-3),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="photographs to train on")
    parser.add_argument("--labels-by", type=Path, required=True, help="the x4 network that labels them")
    parser.add_argument("--out", type=Path, default=Path("runs/small-teachers"), help="folder of the runs")
    parser.add_argument("--only", default=",".join(TEACHERS), help="such as rcan,carn")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    names: list[str] = options.only.split(",")
    if unknown := [name for name in names if name not in TEACHERS]:
        parser.error(f"--only {unknown[0]}: choose from {', '.join(TEACHERS)}")
    for name in names:
        train(TEACHERS[name], options.photos, options.labels_by, options.out / name, options.threads)
    return 0


def train(rule: Training, photos: Path, labels_by: Path, run: Path, threads: int) -> None:
    """Train a network; continue a stopped run, skip a finished one."""
    facts = run / "run.json"
    if not facts.is_file():
        settings = (*SETTINGS, f"steps={rule.steps}", f"rate={rule.rate}")
        words = ["--recipe", "logits", "--teacher-cache", "--init", "random", "--student", rule.student]
        words += [word for setting in settings for word in ("--set", f"schedule.{setting}")]
        files = ["--teacher", str(labels_by), "--data", str(photos), "--out", str(run)]
        _srkd(*words, *files, "--threads", str(threads))
    elif "result" not in json.loads(facts.read_text(encoding="utf-8")):
        _srkd("--resume", str(run))


def _srkd(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "srkd", "compress", *words], check=True)


if __name__ == "__main__":
    sys.exit(main())
