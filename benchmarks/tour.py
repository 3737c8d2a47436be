"""The commands of docs/tour.md, run and timed: `python -m benchmarks tour --teacher FILE --photos DIR`.

They run one after the other in --out, with FILE in place of `esrgan.pth` and DIR in place of `photos`. Left out is what
other programs do (mpv), and what serves until it is stopped. Then the student of the tour is compared with its teacher
on the embedded photos, and tour.webp beside the result shows both on crops chosen by number.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import srkd
from benchmarks.evidence import ROOT, Benchmark, Cell, Column, Row, Table, results_folder, save
from benchmarks.kept_runs import figures_of
from benchmarks.real_teachers import DEGRADATION, LOOKS, LR_SIZE, strip
from compressor.base.context import QUIET
from compressor.base.files import atomic_path
from compressor.base.machine import machine_facts
from compressor.images.sets import embedded_pairs
from compressor.inference.open import open_model
from compressor.runtimes.table import OpenOptions
from srkd.reports.pictures import make_pictures

BENCHMARK = Benchmark(
    "How long does the tour take, and what does its student come to?",
    minutes=20,
    arguments=("--teacher", "{checkpoints}/realesrgan-x4plus-anime.param", "--photos", "{photos}"),
    small=(
        *("--teacher", "{checkpoints}/realesr-general-x4v3.param", "--photos", "{photos}"),
        *("--steps", "2", "--out", "runs/small/tour"),
    ),
)

PAGE = ROOT / "docs" / "tour.md"
TEACHER, PHOTOS, RUN = "esrgan.pth", "photos", "runs/tour"
"""Names on the page."""
SERVES = "--host"
RUNTIME = "onnxruntime"
COLUMNS = (Column("command", "command"), Column("seconds", "seconds", ".0f"))
STUDENT = (
    Column("network", ""),
    Column("params", "parameters", ",d"),
    Column("gmac", "GMAC at 256×256", ".2f"),
    Column("ms", "ms", ".1f"),
    Column("times_as_fast", "times as fast", ".1f"),
    Column("psnr", "to the teacher, dB", ".2f"),
    Column("sharpness", "sharpness", ".2f"),
    Column("spectrum", "spectrum, dB", ".2f"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="a model trained for looks")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--steps", help="in place of the page's, to try the commands")
    parser.add_argument("--out", type=Path, default=Path("runs/tour-measured"), help="folder to run in")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ran = [timed(words, options) for words in commands(PAGE.read_text(encoding="utf-8"))]
    whole = sum(float(str(row["seconds"])) for row in ran)
    about = f"Teacher {options.teacher.stem}, photos {options.photos.name}; all took {whole / 60:.1f} minutes."
    run = options.out / RUN
    machine = machine_facts()
    of_student = (
        f"Teacher {options.teacher.stem}; milliseconds in ONNX Runtime for LR {LR_SIZE}, {machine['torch_threads']} "
        f"threads of {machine['cpu']}; the rest on the embedded photos, degraded ({DEGRADATION})."
    )
    student = Table(STUDENT, list(compared(run, options)), of_student)
    save("tour", {"student": student, "commands": Table(COLUMNS, ran, about)})
    draw(run, options)
    return 0


def commands(page: str) -> Iterator[list[str]]:
    """Yield the page's commands of srkd that end by themselves."""
    for line in re.findall(r"^ {4}(srkd .*)$", page, re.MULTILINE):
        words = shlex.split(line)
        if SERVES not in words:
            yield words


def timed(words: Sequence[str], options: argparse.Namespace) -> Row:
    """Run a command of the page; return it with its seconds."""
    given = {TEACHER: str(options.teacher.resolve()), PHOTOS: str(options.photos.resolve())}
    run = [given.get(word, word) for word in words[1:]]
    if options.steps and words[1] == "compress":
        run += ["--steps", options.steps]
    print(shlex.join(words), file=sys.stderr, flush=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "srkd", *run], cwd=options.out, stdout=subprocess.DEVNULL, check=True)
    return {"command": f"`{shlex.join(words)}`", "seconds": time.monotonic() - began}


def compared(run: Path, options: argparse.Namespace) -> Iterator[dict[str, Cell]]:
    """Yield teacher, student, and enlarging without a network: cost, time in ONNX Runtime, looks."""
    profile = srkd.profile(run, runtime=RUNTIME, lr_size=LR_SIZE, memory=False, quality=False)
    costs = {cost.model: cost for cost in profile.costs}
    scale = open_model(run).descriptor.scale
    result = srkd.evaluate([run], against=options.teacher, scale=scale, degrade=DEGRADATION, metrics=LOOKS)
    bicubic, lanczos, student = figures_of(result, LOOKS, to="teacher")
    for row in (row for row in profile.rows if row.runtime == RUNTIME):
        cost, is_teacher = costs[row.model], row.model == profile.teacher
        yield {
            "network": "teacher" if is_teacher else "student",
            "params": cost.params,
            "gmac": None if cost.macs is None else cost.macs / 1e9,
            "ms": row.latency_ms.p50,
            "times_as_fast": None if is_teacher else row.speedup_same_runtime,
            **({} if is_teacher else student),
        }
    yield {"network": "bicubic", **bicubic}
    yield {"network": "Lanczos", **lanczos}


def draw(run: Path, options: argparse.Namespace) -> None:
    """Draw the crops: input enlarged, teacher, student."""
    student = open_model(run)
    teacher = open_model(options.teacher, OpenOptions(scale=student.descriptor.scale))
    pictures = make_pictures(embedded_pairs("val"), student, teacher, QUIET, most=2)
    with atomic_path(results_folder() / "tour.webp") as temporary:
        strip(pictures.crops, ("bicubic", "teacher", "student")).save(temporary, format="WEBP", quality=92, method=6)


if __name__ == "__main__":
    sys.exit(main())
