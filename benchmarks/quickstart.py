"""The commands of `make quickstart`, measured: `python -m benchmarks quickstart [--set STEPS=2]`.

The commands are those that `make -n quickstart` prints, run one after the other in --out. Scores are of the embedded
teacher and its students on the embedded validation photos; times are of `srkd profile`, in turns.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence import ROOT, Benchmark, Cell, Column, Row, Table, save

BENCHMARK = Benchmark(
    "What do the commands of `make quickstart` show?",
    minutes=6,
    small=("--set", "STEPS=2", "--set", "CSD_STEPS=2", "--out", "runs/small/quickstart"),
)

PSNR = "to_original.mean"
"""The column of scores with the Y-PSNR to the originals."""
SCORES = (
    Column("network", ""),
    Column("params", "parameters", ",d"),
    Column("gmacs", "GMAC at 256×256", ".2f"),
    Column("psnr_y_db", "PSNR-Y, dB", ".3f"),
    Column("over_bicubic_db", "over bicubic", "+.3f"),
)
SPEED = (
    Column("model", "model"),
    Column("runtime", "runtime"),
    Column("ms", "ms", ".1f"),
    Column("spread_percent", "± %", ".0f"),
    Column("fps", "FPS", ".2f"),
    Column("peak_memory_mb", "MB", ".0f"),
    Column("speedup_same_runtime", "over the teacher in its runtime", ".2f"),
    Column("speedup_vs_teacher_eager", "over the eager teacher", ".2f"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], dest="settings", help="a variable of the Makefile")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-measured"), help="folder to run in")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tables = {shlex.join(words): run(words, options.out) for words in commands(options.settings)}
    minutes = (time.monotonic() - began) / 60
    scores, csd = (rows for command, rows in tables.items() if " compress " in command)
    (speed,) = (rows for command, rows in tables.items() if " profile " in command)
    caption = f"Y-PSNR ({scores[0]['protocol']}), one seed. All commands took {minutes:.1f} minutes."
    bicubic = next(float(row[PSNR]) for row in scores if row["role"] == "bicubic")
    (first, *_), (second, *others) = csd, scores
    named = [{**first, "name": "csd"}, {**second, "name": "logits"}, *others]
    rows: list[Row] = [score(row, bicubic) for row in named]
    save(
        "quickstart",
        {
            "summary": Table(SCORES, summary(rows), caption),
            "scores": Table(SCORES, rows, caption),
            "speed": Table(SPEED, [timing(row) for row in speed], f"LR {speed[0]['lr_size']}, {place(speed[0])}."),
        },
    )


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that the README shows."""
    by_name = {row["network"]: row for row in rows}
    return [by_name[name] for name in ("teacher", "logits", "csd", "inherit", "bicubic")]


def commands(settings: Sequence[str]) -> list[list[str]]:
    """Return the commands of `make quickstart`, without running them."""
    words = ["make", "--no-print-directory", "-n", "quickstart", f"PYTHON={sys.executable}", *settings]
    lines = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [shlex.split(line) for line in lines if line.startswith("rm ") or "/srkd " in line]


def run(words: Sequence[str], folder: Path) -> list[dict[str, str]]:
    """Run a command and return its table; commands without a table return no rows."""
    has_table = words[1] in ("compress", "profile")
    command = [*words, *(["--csv"] if has_table else [])]
    print(shlex.join(command), file=sys.stderr, flush=True)
    text = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
    return list(csv.DictReader(text.splitlines())) if has_table else []


def score(row: dict[str, str], bicubic: float) -> Row:
    macs, psnr = number(row["macs"]), number(row[PSNR])
    return {
        "network": row["name"],
        "params": int(row["params"]) if row["params"] else None,
        "gmacs": None if macs is None else macs / 1e9,
        "psnr_y_db": psnr,
        "over_bicubic_db": None if psnr is None else psnr - bicubic,
    }


def timing(row: dict[str, str]) -> Row:
    figures: dict[str, Cell] = {
        column.key: number(row[column.key]) for column in SPEED if column.key in row and column.form
    }
    named: dict[str, Cell] = {
        "model": row["model"],
        "runtime": row["runtime"],
        "ms": number(row["latency_ms.p50"]),
        **figures,
    }
    if row["model"] == "teacher":
        return named
    sentence = (
        f"In {row['runtime']} the student takes {named['ms']:.1f} ms ({named['fps']:.1f} FPS): "
        f"{named['speedup_same_runtime']:.2f} times as fast as its teacher there (LR {row['lr_size']}, {place(row)})."
    )
    return {**named, "name": "student", "sentence": sentence}


def place(row: dict[str, str]) -> str:
    return f"{row['precision']}, {row['device']}, {row['threads']} thread(s), models and runtimes in turns"


def number(text: str) -> float | None:
    return float(text) if text else None
