"""Retrain the embedded teacher: `python -m benchmarks.embedded_teacher --data PHOTOS --out runs/teacher`.

It is `srkd compress --recipe scratch` with the settings below, packed as fp16. With `--pack RUN` a finished run is
packed again without training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from compressor.assets import FOLDER
from compressor.checkpoints.load import load_checkpoint
from compressor.checkpoints.save import save_network

STUDENT = "edsr:width=48,depth=16,scale=4"
SETTINGS = ("batch=8", "lr_patch=32", "rate=5e-4", "decay=cosine", "precision=bf16", "validate_every=1000")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photographs whose licence allows what the weights are for")
    parser.add_argument("--steps", type=int, default=13_000)
    parser.add_argument("--out", type=Path, default=Path("runs/teacher"))
    parser.add_argument("--pack", type=Path, help="a finished run to pack, without training")
    parser.add_argument("--to", type=Path, default=FOLDER / "teacher.safetensors")
    options = parser.parse_args()
    if options.pack is None and options.data is None:
        parser.error("--data FOLDER is needed to train, or --pack RUN to pack a finished run")
    run = options.pack
    if run is None:
        run = options.out
        subprocess.run([sys.executable, "-m", "srkd", *arguments(options.data, options.steps, run)], check=True)
    pack(run, options.to)
    return 0


def arguments(data: Path, steps: int, out: Path) -> list[str]:
    """The command line of `srkd` that trains the teacher."""
    settings = [word for setting in SETTINGS for word in ("--set", f"schedule.{setting}")]
    given = ["--recipe", "scratch", "--student", STUDENT, "--data", str(data), "--steps", str(steps), "--out", str(out)]
    return ["compress", *given, *settings]


def pack(run: Path, target: Path) -> None:
    """The run's averaged weights as fp16 safetensors, with the run's own scores in the header."""
    loaded = load_checkpoint(run / "student.safetensors")
    kept = ("srkd.recipe", "srkd.protocol", "srkd.scores")
    metadata = {name: loaded.header[name] for name in kept if name in loaded.header}
    save_network(loaded.network, target, metadata=metadata, dtype=torch.float16)
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    print(f"wrote {target}: {target.stat().st_size:,} bytes, {facts['preset']['schedule']['steps']:,} steps")


if __name__ == "__main__":
    sys.exit(main())
