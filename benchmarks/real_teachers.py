"""Students of networks that people have: `python -m benchmarks real_teachers --checkpoints DIR --data SETS --photos P`.

Each teacher gets students of several kinds for a minute (`fit`), and some of them for ten (`logits`), of one thread's
processor time, validation apart; on a busy machine a step takes more of it. Teachers trained for looks: a degraded
input; ten minutes under those that run at every step are measured by `strength`. Teachers trained for PSNR: bicubic
input. A control of the same shape and time learns the originals without a teacher
(`scratch`). A teacher whose step takes seconds runs once on some of the photos, each degraded once (`--teacher-cache`),
within the ten minutes. Students, control, bicubic and Lanczos are compared with the teacher's images of a set, and with
the originals where the teacher is for these; published figures of networks of the students' cost stand beside them.
Each student is timed in turns with its teacher.

docs/results/real_teachers-NAME.webp shows, of the embedded photos, the crop in which the student of the first kind
that was trained longest differs most from its teacher.

Finished runs are kept in --out, and so are scores and times: the command can be stopped and repeated. --only measures
some teachers, and the tables of the others stay in the result as they are.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from PIL import Image

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Result, Row, Table, results_folder, save
from benchmarks.kept_runs import AT_THE_END, WARM_UP, figures_of, file_name, run
from compressor.base.context import QUIET
from compressor.base.files import atomic_path
from compressor.base.machine import machine_facts
from compressor.images.sets import embedded_pairs
from compressor.inference.open import open_model
from compressor.models.networks.cost import cost
from compressor.models.students.students import parse_student
from compressor.runtimes.table import OpenOptions
from srkd.reports.pictures import SIDE, Crop, make_pictures

BENCHMARK = Benchmark(
    "What does srkd make of the networks that people have, in a minute and in ten?",
    minutes=250,
    arguments=("--checkpoints", "{checkpoints}", "--data", "{sets}", "--photos", "{photos}"),
    small=(
        *("--checkpoints", "{checkpoints}", "--data", "{sets}", "--photos", "{photos}"),
        *("--only", "spanx2_ch48", "--minutes", "0.02", "--students", "compact:width=8,depth=1"),
        *("--set", "Set5", "--out", "runs/small/real-teachers"),
    ),
)

DEGRADATION = "realesrgan"
STUDENTS = ("compact:width=24,depth=8", "plain-s", "span-s")
MINUTES = (1.0, 10.0)
A_MINUTE = ("plain-s", "span-s")
"""Students that get the shortest time only; the first one and the teacher's own kind get all."""
LR_SIZE = "128x128"
LOOKS, PSNR = ("psnr", "gradient", "sharpness", "spectrum"), ("psnr",)


@dataclass(frozen=True)
class Published:
    """A file of the checkpoints: its scale, its network in words, a student of its own kind, and its purpose."""

    file: str
    scale: int
    network: str
    own: str | None
    for_looks: bool
    several_scales: bool = False
    """Whether the file holds other scales, too."""
    kept: int | None = None
    """Photos of which a slow teacher's images are made once, and kept; None: it runs at every step."""

    @property
    def is_short(self) -> bool:
        """Whether its students get the shortest time only: those of ten minutes are measured by `strength`."""
        return self.for_looks and self.kept is None

    @property
    def words(self) -> dict[str, Any]:
        """What srkd must be told to open the file."""
        return {"scale": self.scale} if self.several_scales else {}

    @property
    def name(self) -> str:
        return self.file.rpartition(".")[0]


TEACHERS = (
    Published(
        "realesrgan-x4plus-anime.param", 4, "ESRGAN, 6 blocks", "rrdbnet:width=16,depth=2,growth=8", True, kept=120
    ),
    Published("realesr-general-x4v3.param", 4, "Compact 64x32", "compact:width=32,depth=16", True),
    Published("realesr-animevideov3_rezipped.pth", 4, "Compact 64x16", "compact:width=32,depth=16", True),
    Published("spanx4_ch48.param", 4, "SPAN 48", "span:width=24", False),
    Published("spanx2_ch48.param", 2, "SPAN 48", "span:width=24", False),
    Published("carn_m.pth", 4, "CARN-M", "carn_m:width=32,groups=4", False, True),
    Published("DCTLSA_x4.pt", 4, "DCTLSA", None, False, kept=120),
)

RUNTIMES = ("onnxruntime", "openvino")
GAP = 4
"""Pixels between the crops of a picture."""


@dataclass(frozen=True)
class Anchor:
    """A published network: parameters, GMAC to 1280x720, and Y-PSNR in dB on Set14."""

    network: str
    params: int
    gmac: float
    set14: float


SOURCE = "the table of the CARN paper, arXiv 1803.08664"
ANCHORS: Mapping[int, Sequence[Anchor]] = {
    2: (Anchor("FSRCNN", 12_000, 6.0, 32.63), Anchor("SRCNN", 57_000, 52.7, 32.42)),
    4: (Anchor("FSRCNN", 12_000, 4.6, 27.59), Anchor("SRCNN", 57_000, 52.7, 27.49)),
}
"""Networks that cost as much as the students, by scale, as SOURCE has them."""

COLUMNS = (
    Column("student", "student"),
    Column("recipe", "recipe"),
    Column("minutes", "minutes", "g"),
    Column("psnr", "to the teacher, dB", ".2f"),
    Column("over_control", "over its control, dB", "+.2f"),
    Column("sharpness", "sharpness", ".2f"),
    Column("spectrum", "spectrum, dB", ".2f"),
    Column("original", "to the original, dB", ".2f"),
    Column("times_as_fast", "times as fast", ".1f"),
    Column("onnxruntime", "ms, ONNX Runtime", ".1f"),
    Column("openvino", "ms, OpenVINO", ".1f"),
    Column("int8", "ms, int8", ".1f"),
    Column("params", "parameters", ",d"),
    Column("gmac", "GMAC to 1280x720", ".2f"),
)
COMMANDS = (Column("student", "student"), Column("minutes", "minutes", "g"), Column("command", "command"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--data", type=Path, required=True, help="folder with the set, and with Set5 for validation")
    parser.add_argument("--set", default="Set14", help="images that are compared")
    parser.add_argument("--photos", type=Path, required=True, help="folder of HR photos to train on")
    parser.add_argument("--only", default="", help="teachers, separated by commas")
    parser.add_argument("--students", help="separated by semicolons; none: three kinds and the teacher's own")
    parser.add_argument("--minutes", default=",".join(f"{minutes:g}" for minutes in MINUTES))
    parser.add_argument("--out", type=Path, default=Path("runs/real-teachers"), help="folder of the runs")
    options = parser.parse_args()
    options.val = options.data / "Set5"
    only = set(filter(None, options.only.split(",")))
    minutes = [float(text) for text in options.minutes.split(",")]
    tables = tables_before()
    for teacher in TEACHERS:
        if only and teacher.name not in only:
            continue
        trained = students_of(teacher, minutes, options)
        rows = list(rows_of(teacher, trained, options))
        filled = [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]
        tables[teacher.name] = Table(filled, rows, caption_of(teacher, options), behind(rows))
        commands: list[Row] = [
            {"student": row["student"], "minutes": row["minutes"], "command": command(teacher, row, options)}
            for row in trained.values()
        ]
        tables[f"{teacher.name}-commands"] = Table(COMMANDS, commands)
        if not teacher.is_short:
            draw(teacher, trained, options)
        save("real_teachers", tables, seeds=(0,), parts=("--only",))
    return 0


def tables_before(name: str = "real_teachers") -> dict[str, Table]:
    """Return the tables of an earlier call."""
    file = results_folder() / f"{name}.json"
    return dict(Result.read(file).tables) if file.is_file() else {}


def behind(rows: Sequence[Row]) -> list[str]:
    """Return a line on the students that are no nearer to their teacher than their control."""
    names = [f"{row['student']} ({row['minutes']:g} min)" for row in rows if float(row.get("over_control") or 1) <= 0]
    of_control = "the control, which has the longest time of its students"
    return [f"No nearer to the teacher than {of_control}: {', '.join(names)}."] if names else []


def caption_of(teacher: Published, options: argparse.Namespace) -> str:
    of_inputs = f"degraded inputs ({DEGRADATION})" if teacher.for_looks else "bicubic inputs"
    return (
        f"{teacher.network}, x{teacher.scale} ({teacher.name}), on {of_inputs}; images of {options.set}, trained on "
        f"{options.photos.name}, minutes of one thread's processor time, one seed; ms for LR {LR_SIZE}, one thread; "
        f"{machine_facts()['cpu']}, {date.today()}."
    )


def students_of(
    teacher: Published, minutes: Sequence[float], options: argparse.Namespace
) -> dict[str, dict[str, Cell]]:
    """Return the trained students by name, each with its control after its lengths."""
    folder = options.out / teacher.name
    students = options.students.split(";") if options.students else [*STUDENTS, *filter(None, [teacher.own])]
    of_teacher = srkd.load(options.checkpoints / teacher.file, **teacher.words).network
    if of_teacher is not None:  # the teacher itself is no student
        students = [one for one in students if parse_student(one, scale=teacher.scale) != of_teacher.spec]
    trained: dict[str, dict[str, Cell]] = {}
    for student in students:
        safe = file_name(student)
        lengths = [min(minutes)] if student in A_MINUTE or teacher.is_short else minutes
        for length in lengths:
            recipe = "fit" if length == min(minutes) else "logits"
            row = learn(teacher, student, recipe, length, folder / safe, options)
            trained[f"{safe}-{length:g}"] = {**row, "control": f"{safe}-control"}
        # A control knows no teacher: it serves all teachers of the scale and the inputs.
        kind = f"x{teacher.scale}-{'degraded' if teacher.for_looks else 'bicubic'}"
        place, length = (
            options.out / "controls" / f"{kind}-{safe}",
            min(minutes) if student in A_MINUTE else max(minutes),
        )
        trained[f"{safe}-control"] = learn(teacher, student, "scratch", length, place, options)
    return trained


def rows_of(teacher: Published, trained: Mapping[str, dict[str, Cell]], options: argparse.Namespace) -> Iterator[Row]:
    """Yield bicubic and Lanczos, then each student, and published networks."""
    scores = scored(teacher, {name: Path(str(row["run"])) for name, row in trained.items()}, options)
    for name in ("bicubic", "lanczos"):
        yield {"student": {"bicubic": "bicubic", "lanczos": "Lanczos"}[name], **scores[name]}
    for name, row in trained.items():
        student = parse_student(str(row["student"]), scale=teacher.scale)
        count = cost(student, (1280 // teacher.scale, 720 // teacher.scale))
        control = str(row.get("control"))
        nearer = scores[name]["psnr"] - scores[control]["psnr"] if control in scores else None
        shown = {key: value for key, value in row.items() if key not in ("run", "control")}
        shown |= {} if control not in scores else timed(teacher, row, options)
        shown |= {"recipe": f"`{row['recipe']}`" if control in scores else "control"}
        yield {**shown, "params": count.params, "gmac": count.macs / 1e9, **scores[name], "over_control": nearer}
    if not teacher.for_looks and options.set == "Set14":
        for anchor in ANCHORS[teacher.scale]:
            yield {
                "student": f"{anchor.network}, published", "params": anchor.params, "gmac": anchor.gmac,
                "original": anchor.set14,
            }  # fmt: skip


def learn(
    teacher: Published, student: str, recipe: str, minutes: float, folder: Path, options: argparse.Namespace
) -> dict[str, Cell]:
    """Train a student for so many minutes, or read the finished run; return what is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    words: dict[str, Any] = {"batch": 8, "lr_patch": 32, "settings": AT_THE_END, "goal": "teacher"}
    words |= {"degrade": DEGRADATION} if teacher.for_looks else {}
    options.teacher = None if recipe == "scratch" else options.checkpoints / teacher.file
    words |= {"goal": "original"} if recipe == "scratch" else teacher.words
    shape = at_scale(student, teacher.scale) if recipe == "scratch" else student
    given = argparse.Namespace(**vars(options))
    if keeps(teacher, recipe):
        given.photos = some_photos(options.photos, teacher, options.out)
        words |= {"teacher_cache": True, "cache_size": "4GB"}
    look = run(folder / f"{recipe}-look", given, shape, recipe=recipe, steps=WARM_UP, **words)
    steps = max(1, round((60 * minutes - look["seconds_before"]) / look["step_seconds"]))
    place = folder / f"{recipe}-{minutes:g}"
    result = run(place, given, shape, recipe=recipe, steps=steps, **words)
    print(f"{place}: {steps} steps, {result['psnr_teacher']} dB to the teacher", file=sys.stderr, flush=True)
    return {"student": student, "run": str(place), "recipe": recipe, "minutes": minutes, "steps": steps}


def keeps(teacher: Published, recipe: str) -> bool:
    """Return True if the teacher's images are made once; in a minute there is no time for that."""
    return teacher.kept is not None and recipe not in ("scratch", "fit")


def some_photos(photos: Path, teacher: Published, out: Path) -> Path:
    """Return a folder with links to as many photos as the teacher gets, from all of the folder."""
    files, folder = sorted(photos.iterdir()), out / f"{photos.name}-{teacher.kept}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in files[:: max(1, len(files) // (teacher.kept or 1))][: teacher.kept]:
        link = folder / file.name
        if not link.is_symlink():
            link.symlink_to(file.resolve())
    return folder


def at_scale(student: str, scale: int) -> str:
    """Return a student with its scale, which no teacher tells it."""
    return f"{student}{',' if ':' in student else ':'}scale={scale}"


def command(teacher: Published, row: Mapping[str, Cell], options: argparse.Namespace) -> str:
    """Return the command line that trains a row, with the names of folders alone."""
    words = ["srkd", "compress", "--recipe", str(row["recipe"])]
    if row["recipe"] == "scratch":
        words += ["--student", at_scale(str(row["student"]), teacher.scale)]
    else:
        words += ["--teacher", teacher.file, *(["--scale", str(teacher.scale)] if teacher.several_scales else [])]
        words += ["--student", str(row["student"]), "--goal", "teacher"]
    words += ["--degrade", DEGRADATION] if teacher.for_looks else []
    photos = options.photos.name
    if keeps(teacher, str(row["recipe"])):
        words, photos = [*words, "--teacher-cache"], f"{photos}-{teacher.kept}"
    words += ["--data", photos, "--batch", "8", "--lr-patch", "32", "--steps", str(row["steps"])]
    return f"`{shlex.join(words)}`"


def timed(teacher: Published, row: Mapping[str, Cell], options: argparse.Namespace) -> dict[str, Cell]:
    """Return the milliseconds of a student of this shape, and how many times as fast as the teacher it is in ONNX
    Runtime, or in eager torch where ONNX Runtime cannot run the teacher."""
    file = options.out / teacher.name / f"times-{file_name(str(row['student']))}.json"
    if not file.is_file():
        report = srkd.profile(
            [str(row["run"])], teacher=options.checkpoints / teacher.file, runtime=RUNTIMES, precision=("fp32", "int8"),
            lr_size=LR_SIZE, threads=1, seconds=1.0, memory=False, quality=False, **teacher.words,
        )  # fmt: skip
        own = {(one.runtime, one.precision): one for one in report.rows if one.model != report.teacher}
        first, second = RUNTIMES
        faster = own[first, "fp32"].speedup_same_runtime or own[first, "fp32"].speedup_vs_teacher_eager
        measured = {
            first: own[first, "fp32"].latency_ms.p50,
            second: own[second, "fp32"].latency_ms.p50,
            "int8": own[first, "int8"].latency_ms.p50,
            "times_as_fast": faster,
        }
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(measured), encoding="utf-8")
    times: dict[str, Cell] = json.loads(file.read_text(encoding="utf-8"))
    return times


def draw(teacher: Published, trained: Mapping[str, Mapping[str, Cell]], options: argparse.Namespace) -> None:
    """Draw the picture of a teacher: the enlarged input, the teacher, the student, its control."""
    name, row = max(((name, row) for name, row in trained.items() if "control" in row), key=_first_and_longest)
    print(f"picture of {teacher.name}: {name}", file=sys.stderr, flush=True)
    student, control = (open_model(Path(str(trained[one]["run"]))) for one in (name, str(row["control"])))
    runtime = open_model(options.checkpoints / teacher.file, OpenOptions(**teacher.words))
    pictures = make_pictures(embedded_pairs("val"), student, runtime, QUIET, others={"control": control}, most=1)
    drawn = strip(pictures.crops[:1], ("bicubic", "teacher", "student", "control"))
    file = results_folder() / f"real_teachers-{teacher.name}.webp"
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary:
        drawn.save(temporary, format="WEBP", quality=92, method=6)


def strip(crops: Sequence[Crop], networks: Sequence[str]) -> Image.Image:
    """Return crops below each other, each by the networks from left to right."""
    size = len(networks) * (SIDE + GAP) - GAP, len(crops) * (SIDE + GAP) - GAP
    drawn = Image.new("RGB", size, "white")
    for row, crop in enumerate(crops):
        for column, network in enumerate(networks):
            at = column * (SIDE + GAP), row * (SIDE + GAP)
            drawn.paste(Image.open(io.BytesIO(crop.pictures[network])), at)
    return drawn


def _first_and_longest(item: tuple[str, Mapping[str, Cell]]) -> tuple[bool, float]:
    return str(item[1]["student"]) == STUDENTS[0], float(str(item[1]["minutes"]))


def scored(teacher: Published, runs: Mapping[str, Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the figures to the teacher and to the originals by row; what an earlier call has measured is read."""
    file = options.out / teacher.name / f"scores-{options.set}.json"
    scores: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    missing = {name: run for name, run in runs.items() if name not in scores}
    if missing:
        measures = LOOKS if teacher.for_looks else PSNR
        result = srkd.evaluate(
            list(missing.values()),
            against=options.checkpoints / teacher.file,
            data=options.data / options.set,
            degrade=DEGRADATION if teacher.for_looks else "none",
            metrics=measures,
            **teacher.words,
        )
        rows = ["bicubic", "lanczos", *missing]
        scores |= dict(zip(rows, figures_of(result, measures, to="teacher"), strict=True))
        if not teacher.for_looks:
            for name, figures in zip(rows, figures_of(result, PSNR, to="original"), strict=True):
                scores[name]["original"] = figures["psnr"]
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    return scores


if __name__ == "__main__":
    sys.exit(main())
