"""Distil the embedded student from the embedded teacher: `python -m benchmarks.embedded_student --data LABELLED`.

LABELLED is the folder that `benchmarks.embedded_teacher` leaves behind (HR/ and LR/). It is `srkd compress --recipe
logits --width 0.5 --teacher-cache` with the settings below, packed as fp16. `--pack RUN` packs a finished run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.embedded_teacher import pack
from benchmarks.evidence import ROOT

STEPS = 3_000
SETTINGS = ("batch=16", "lr_patch=32", "rate=8e-4", "decay=cosine", "precision=bf16", "validate_every=375")


def embedded_student() -> Path:
    """Return the path of EDSR 16/24 ×4, distilled from the embedded teacher; student.md beside it is its model card."""
    return ROOT / "benchmarks" / "assets" / "student.safetensors"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with HR/ and LR/")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path("runs/student"))
    parser.add_argument("--pack", type=Path, help="a finished run to pack, without training")
    parser.add_argument("--to", type=Path, default=embedded_student())
    options = parser.parse_args()
    if options.pack is None and options.data is None:
        parser.error("--data FOLDER is needed to train, or --pack RUN to pack a finished run")
    run: Path = options.pack or options.out
    if options.pack is None:
        subprocess.run([sys.executable, "-m", "srkd", *arguments(options.data, options.steps, run)], check=True)
    pack(run, options.to)
    return 0


def arguments(labelled: Path, steps: int, out: Path) -> list[str]:
    """Return the arguments of `srkd` that distil the student; without --teacher the embedded one is used."""
    settings = [word for setting in SETTINGS for word in ("--set", f"schedule.{setting}")]
    pairs = ["--data", str(labelled / "HR"), "--lr-images", str(labelled / "LR")]
    options = ["--recipe", "logits", "--width", "0.5", "--teacher-cache", *pairs, "--steps", str(steps), "--seed", "12"]
    return ["compress", *options, *settings, "--out", str(out)]


if __name__ == "__main__":
    sys.exit(main())
