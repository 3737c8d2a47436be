"""The students that come with srkd: `python -m benchmarks students --checkpoints DIR --data SETS`.

--train NAME trains one on the images of `python -m benchmarks.student_images`; stopped, it goes on. --ship NAME packs
its finished run into the package. Without either the shipped ones are measured on Set14, B100 and Urban100-20, degraded
and clean: to the teacher's images, beside bicubic, Lanczos, published models of their scale and a student of the same
shape, time and images that had no teacher (--train NAME --control). Scores are kept in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image

import srkd
from benchmarks.crops import Place, by_number, crop_of, draw_crops, lr_of
from benchmarks.evidence import FOLDER_VARIABLE, Benchmark, Cell, Column, Table, results_folder, save
from benchmarks.kept_runs import figures_of
from benchmarks.page_time import page_seconds
from benchmarks.real_teachers import DEGRADATION, tables_before
from benchmarks.strength import CLEAN
from compressor.assets.shipped import FACTS, STUDENTS, ShippedStudent, shipped_names, shipped_student
from compressor.base.files import atomic_path, file_sha256, write_text
from compressor.base.machine import machine_facts
from compressor.base.metadata import srkd_keys
from compressor.degradation.chain import read_degradation
from compressor.images.files import read_rgb_u8
from compressor.images.protocol import Protocol
from compressor.images.resize import mod_crop
from compressor.images.sets import embedded_photos
from compressor.inference.open import open_model
from compressor.inference.super_resolve import Enlargement
from compressor.models.checkpoints.header import FAITHFUL, RUN_FOLDER_FACTS, RUN_FOLDER_WEIGHTS, TEXTURED
from compressor.models.checkpoints.licence import KEY as LICENCE
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.cost import cost
from compressor.models.students.shipped import unpack_student
from compressor.models.students.students import parse_student
from compressor.runtimes.base import Runtime
from compressor.runtimes.table import OpenOptions

BENCHMARK = Benchmark(
    "How near are the students that come with srkd to their teachers?",
    minutes=240,
    arguments=("--checkpoints", "{checkpoints}", "--data", "{sets}"),
    small=(
        *("--checkpoints", "{checkpoints}", "--data", "{sets}", "--only", "general-x2", "--sets", "Set14"),
        *("--out", "runs/small/students"),
    ),
)
SETS = ("Set14", "B100", "Urban100-20")
MEASURES = ("psnr", "sharpness", "spectrum", "overshoot", "ssimulacra2", "flip")
SLOW = ("ssimulacra2", "flip")
"""They take seconds an image: the first set alone has them."""
COLUMNS = (
    Column("set", "images"),
    Column("images", "by"),
    Column("psnr", "to the teacher, dB", ".2f"),
    Column("sharpness", "sharpness", ".2f"),
    Column("spectrum", "spectrum, dB", ".2f"),
    Column("overshoot", "overshoot", ".2f"),
    Column("ssimulacra2", "SSIMULACRA2", ".1f"),
    Column("flip", "FLIP", ".3f"),
)
FIRST = "general-x2"
"""The student of the README."""
FIRST_COLUMNS = (
    Column("network", ""),
    Column("params", "parameters", ",d"),
    Column("seconds", "s a megapixel", ".2f"),
    Column("times_as_fast", "times as fast", ".0f"),
    Column("page", "s a megapixel on the page", ".1f"),
    *COLUMNS[2:4],
    *COLUMNS[5:],
)
SIDE, GAP = 224, 4
CROPS = (("astronaut", "none", (60, 150)), ("chelsea", "jpeg=30..30", (60, 96)))
"""Photos of the README's picture: what their LR image suffers, and the first row and column of the crop."""
TRAINING = (
    *("--batch", "16", "--lr-patch", "48", "--set", "schedule.teacher_precision=bf16"),
    *("--teacher-cache", "--cache-size", "16GB", "--threads", "1"),
)
"""In bf16 a teacher comes within 48 to 60 dB of itself in fp32; on a processor with units for it, in a fifth of the
time."""


@dataclass(frozen=True)
class Student:
    """What is trained: a student of a teacher, on images of a kind."""

    name: str
    teacher: str
    """The teacher's file."""
    student: str
    images: str
    """Kinds of images, separated by commas."""
    steps: int
    earlier_steps: int = 0
    """Steps of an earlier run, from whose student it begins; 0: there is none."""
    earlier_clean: bool = False
    """Whether the earlier run had clean images, too."""
    start: str = ""
    """The student that comes with srkd from which it begins, if any."""
    degrade: str = DEGRADATION
    beside: tuple[str, ...] = ()
    """Files of published models of its scale, or of a larger one, that are measured beside it."""
    dtype: torch.dtype = torch.float16
    """Of the weights in the package: those of the larger ones are in bf16, which a wheel packs by a sixth more."""
    strength: float | None = None
    """What a person chose after looking; None: what the run chose."""
    worst: tuple[tuple[str, float, float], ...] = ()
    """The worst crops of degraded Set14 that a person saw: photo, and where they lie in it."""
    looked_at: tuple[str, ...] = ()
    """What a person saw in its pictures."""


SMALL = "compact:width=32,depth=8,scale=2"
GENERAL, PHOTO, DRAWING, FILM = (
    "realesr-general-x4v3.param",
    "realesrgan-x4plus.param",
    "realesrgan-x4plus-anime.param",
    "realesr-animevideov3_rezipped.pth",
)
ALL = {
    student.name: student
    for student in (
        Student(
            "photo-x2",
            PHOTO,
            "compact:width=40,depth=12,scale=2",
            "photos",
            12_000,
            beside=(GENERAL,),
            strength=0.5,
            worst=(
                ("face", 0.865, 0.865),
                ("coastguard", 0.4, 0.571),
                ("foreman", 0.0, 0.0),
                ("bridge", 0.182, 0.182),
                ("monarch", 0.364, 0.545),
                ("zebra", 0.738, 0.909),
            ),
            looked_at=(
                "Coarse noise and blocks of compression become patches with edges; the teacher is smooth there.",
                "Skin under strong noise becomes facets with light blotches.",
                "Grass and leaves are as in a watercolour where the teacher draws texture.",
                "Straight edges are ragged under strong noise, with dark dots along them; letters stay soft.",
                "No dots, halos or wrong colours were seen in twelve crops by number.",
            ),
        ),
        Student(
            "drawing-x2",
            DRAWING,
            "compact:width=40,depth=12,scale=2",
            "photos,drawings",
            5_000,
            start="photo-x2",
            beside=(FILM,),
            dtype=torch.bfloat16,
            strength=0.75,
            worst=(
                ("coastguard", 0.8, 0.857),
                ("bridge", 0.182, 0.182),
                ("man", 0.364, 0.0),
                ("ppt3", 0.182, 0.727),
                ("foreman", 0.0, 0.0),
                ("face", 0.865, 0.865),
            ),
            looked_at=(
                "A grey area of coarse noise stays grey, with dashes in it, where the teacher paints it white.",
                "Where the teacher hatches or dots dark areas, the student paints plain blots.",
                "Folds of cloth under strong noise become patches like stones; the teacher draws long lines.",
                "What is blurred strongly stays a blur.",
                "Thin bars under noise have a ragged outline; skin and petals get blotches with borders.",
                "No dots, halos or wrong colours were seen in twelve crops by number.",
            ),
        ),
        Student(
            "film-x2",
            FILM,
            "compact:width=24,depth=8,scale=2,act=leakyrelu",
            "drawings",
            9_000,
            degrade="video",
            worst=(
                ("barbara", 0.909, 0.0),
                ("barbara", 0.909, 0.364),
                ("ppt3", 0.545, 0.0),
                ("bridge", 0.364, 0.545),
                ("monarch", 0.909, 0.545),
                ("lenna", 0.909, 0.182),
            ),
            looked_at=(
                "Stripes of cloth that have false ones across them in the input keep both; the teacher draws one.",
                "In fabric, strands and petals a little more grain stays than in the teacher's image.",
                "Small letters and thin bars are a little softer.",
                "No dots, halos or wrong colours were seen in twelve crops by number and in 24 of the largest error.",
            ),
        ),
        Student(
            "general-x4",
            GENERAL,
            "compact:width=32,depth=8,scale=4",
            "photos",
            4_000,
            earlier_steps=12_000,
            earlier_clean=True,
            beside=(FILM,),
            strength=0.8,
            worst=(
                ("bridge", 0.364, 0.727),
                ("monarch", 0.545, 0.909),
                ("flowers", 0.552, 0.727),
                ("foreman", 0.0, 0.0),
                ("barbara", 0.364, 0.182),
                ("zebra", 0.246, 0.364),
            ),
            looked_at=(
                "Under strong noise thin dark bars have a ragged outline; the teacher draws them straight.",
                "Stripes, petals and fences that are soft in the input stay softer than in the teacher's image.",
                "Strong slanted edges keep stairs of the LR pixels, some with light dots along them (a table's edge).",
                "The ×2 students of the same minutes are much nearer to their teachers.",
            ),
        ),
        Student(
            "general-x2",
            GENERAL,
            SMALL,
            "photos",
            6_000,
            earlier_steps=24_000,
            beside=(FILM,),
            strength=0.5,
            worst=(
                ("foreman", 0.003, 0.002),
                ("bridge", 0.183, 0.911),
                ("pepper", 0.365, 0.729),
                ("coastguard", 0.803, 0.288),
                ("monarch", 0.547, 0.911),
                ("barbara", 0.365, 0.365),
            ),
            looked_at=(
                "Thin dark lines on white are wavy, with a ragged outline; the teacher draws them straight.",
                "Bars of a fence that are two pixels thick are soft, and some are double.",
                "What is blurred strongly stays softer than the teacher's image of it.",
                "Blocks of strong compression are smoothed less; the teacher draws thin lines along them.",
                "Coarse noise in colour leaves some grain.",
                "No dots, halos or wrong colours were seen in twelve crops by number and in 24 of the largest error.",
            ),
        ),
    )
}
IMAGES = {
    "photos": "14 photos of CLIC 2025's validation images (Unsplash licence) and 17 wallpapers of Lomiri (CC BY 4.0, "
    "CC BY-SA 3.0 and 4.0, CC0)",
    "drawings": "drawings of The Battle for Wesnoth (GPL-2+, CC BY-SA 4.0) and of Ren'Py's two games (MIT)",
}
LICENCES = {GENERAL: "BSD-3-Clause", PHOTO: "BSD-3-Clause", DRAWING: "BSD-3-Clause", FILM: "BSD-3-Clause"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--data", type=Path, help="folder with the sets")
    parser.add_argument("--sets", default=",".join(SETS), help="sets to measure on")
    parser.add_argument("--images", type=Path, default=Path("runs/images"), help="folder with photos/ and drawings/")
    parser.add_argument("--train", metavar="NAME", help="train this student")
    parser.add_argument("--control", action="store_true", help="train it without a teacher")
    parser.add_argument("--ship", metavar="NAME", help="pack the finished run of this student into the package")
    parser.add_argument("--only", default="", help="students to measure, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/students"), help="folder of the runs and scores")
    options = parser.parse_args()
    if options.train is not None:
        return train(ALL[options.train], options)
    if options.ship is not None:
        ship(ALL[options.ship], options)
        return 0
    torch.set_num_threads(2)
    tables = tables_before("students")
    for name in filter(None, options.only.split(",")) if options.only else shipped_names():
        rows = list(rows_of(ALL[name], options))
        about = f"To the images of {shipped_student(name).teacher}; inputs degraded ({ALL[name].degrade}) or clean."
        tables[name] = Table(COLUMNS, rows, about)
        if options.sets == ",".join(SETS) and FOLDER_VARIABLE not in os.environ:  # not of a rehearsal
            note_figures(name, tables[name])
        draw_student(ALL[name], options)
        save("students", tables, parts=("--only", "--sets"))
    first = ALL[FIRST]
    about = (
        f"Seconds for a megapixel of output, in ONNX Runtime on 2 threads of {machine_facts()['cpu']} and there on the "
        f"page of `srkd demo` (Chromium). Quality: Set14, degraded ({DEGRADATION}), compared with the images of the "
        f"teacher, {shipped_student(FIRST).teacher}, reduced to ×2."
    )
    tables["first"] = Table(FIRST_COLUMNS, list(first_rows(first, tables[FIRST], options)), about)
    save("students", tables, parts=("--only", "--sets"))
    draw(first, options)
    return 0


def drawn(student: Student, options: argparse.Namespace) -> list[Runtime]:
    """Return what stands beside each other in a picture: bicubic, the student and its teacher."""
    scale = parse_student(student.student).scale
    teacher = open_model(options.checkpoints / student.teacher, OpenOptions(scale=scale))
    return [Enlargement(scale), open_model(unpack_student(student.name)), teacher]


def draw_student(student: Student, options: argparse.Namespace) -> None:
    """Draw twelve crops of degraded Set14 by number, and below them those that a person picked as the worst."""
    scale, photos = parse_student(student.student).scale, options.data / "Set14" / "HR"
    places = [*by_number(photos), *(Place(photos / f"{name}.png", top, left) for name, top, left in student.worst)]
    file = results_folder() / f"students-{student.name}.webp"
    draw_crops(drawn(student, options), places, scale, read_degradation(student.degrade), file)


def commands_of(student: Student, checkpoints: Path, images: Path, run: Path) -> dict[Path, list[str]]:
    """Return the words of the commands that train a student on folders of images, by the runs that they make."""
    begin = ["srkd", "compress", "--teacher", str(checkpoints / student.teacher), "--student", student.student]
    begin += [*data_of(student, images), *TRAINING]
    start, commands, first = student.start, dict[Path, list[str]](), run.with_name(f"{run.name}-first")
    if student.earlier_steps:
        steps, start = str(student.earlier_steps), str(first)
        degrade = student.degrade + (CLEAN if student.earlier_clean else "")
        commands[first] = [*begin, "--degrade", degrade, "--steps", steps, "--out", start]
    begin += ["--init-from", start] if start else []
    commands[run] = [*begin, "--degrade", student.degrade + CLEAN, "--steps", str(student.steps), "--out", str(run)]
    return commands


def data_of(student: Student, images: Path) -> list[str]:
    return [word for kind in student.images.split(",") for word in ("--data", str(images / kind))]


def train(student: Student, options: argparse.Namespace) -> int:
    out = options.out / student.name
    commands = commands_of(student, options.checkpoints, options.images, out)
    if options.control:
        hours = sum(shipped_student(name).hours for name in (student.name, student.start) if name)
        control = out.with_name(f"{out.name}-control")
        words = [*["srkd", "compress", "--recipe", "scratch", "--student"], student.student]
        words += data_of(student, options.images)
        words += ["--degrade", student.degrade + CLEAN, "--batch", "16", "--lr-patch", "48", "--threads", "1"]
        commands = {control: [*words, "--minutes", f"{60 * hours:.0f}", "--out", str(control)]}
    return next((code for run, words in commands.items() if (code := begin_or_resume(words, run))), 0)


def seconds_of(run: Path) -> float:
    """Return what a finished run took; 0 for one that is not here."""
    facts = run / RUN_FOLDER_FACTS
    return float(json.loads(facts.read_bytes())["result"]["seconds"]) if facts.is_file() else 0.0


def begin_or_resume(words: Sequence[str], run: Path) -> int:
    """Run the command of a run, or go on with it if it has begun; return its exit code."""
    words = ["srkd", "compress", "--resume", str(run)] if (run / RUN_FOLDER_FACTS).is_file() else words
    return subprocess.run([sys.executable, "-m", *words], check=False).returncode


def ship(student: Student, options: argparse.Namespace) -> None:
    """Write both ends of a finished run in 16 bits and the facts of the student."""
    run, folder = options.out / student.name, STUDENTS / student.name
    facts = json.loads((run / RUN_FOLDER_FACTS).read_bytes())
    result = facts["result"]
    for end in (FAITHFUL, TEXTURED):
        loaded = load_checkpoint(run / end)
        origin = {LICENCE: LICENCES[student.teacher], "srkd.teacher": published_name(student.teacher)}
        header = srkd_keys(loaded.header) | origin
        save_network(loaded.network, folder / end, metadata=header, dtype=student.dtype)
    spec, size = parse_student(student.student), (256, 256)
    counted, of_teacher = cost(spec, size), srkd.cost(options.checkpoints / student.teacher, size)
    commands = commands_of(student, Path(), Path("images"), Path("runs", student.name))
    shipped = ShippedStudent(
        name=student.name,
        teacher=published_name(student.teacher),
        student=student.student,
        scale=spec.scale,
        params=counted.params,
        teacher_macs=of_teacher.macs // (size[0] * size[1]),
        macs=counted.macs // (size[0] * size[1]),
        strength=result["strength"] if student.strength is None else student.strength,
        licence=LICENCES[student.teacher],
        images="; ".join(IMAGES[kind] for kind in student.images.split(",")),
        command=" && ".join(map(shlex.join, commands.values())),
        hours=round(sum(map(seconds_of, (run, run.with_name(f"{run.name}-first")))) / 3600, 1),
        machine=str(facts["machine"]["cpu"]),
    )
    write_facts(shipped)


def published_name(file: str) -> str:
    return Path(file).stem.removesuffix("_rezipped")


def write_facts(shipped: ShippedStudent, tables: Sequence[Table] = ()) -> None:
    """Write the facts of a student, and its card with the tables."""
    write_text(STUDENTS / shipped.name / FACTS, json.dumps(asdict(shipped), indent=1) + "\n")
    write_text(STUDENTS / shipped.name / "README.md", card_of(shipped, tables))


def card_of(shipped: ShippedStudent, tables: Sequence[Table]) -> str:
    """Return the model card: where the student comes from, how near it is, and what is wrong with it."""
    lines = [
        f"# {shipped.name}",
        "",
        f"A student of {shipped.teacher} that enlarges ×{shipped.scale}: `srkd upscale {shipped.name} picture.jpg`.",
        "",
        "| | |",
        "| --- | --- |",
        f"| network | {shipped.student}: {shipped.params:,} parameters, {shipped.macs:,} multiply-adds an LR pixel; "
        f"its teacher {shipped.teacher_macs:,} |",
        "| files | `faithful.safetensors` keeps to the teacher's pixels, `textured.safetensors` also to its texture; "
        f"the student is {shipped.strength:g} of the way between their weights (`--strength`) |",
        f"| trained on | {shipped.images}, degraded; never on a benchmark |",
        f"| by | `{shipped.command}` |",
        f"| in | {shipped.hours:.1f} hours on one thread of {shipped.machine}, beside other work |",
        f"| licence | {shipped.licence}, that of its teacher (LICENSES.md) |",
        "",
    ]
    for table in tables:
        lines += ["## Figures", "", table.render(), ""]
    if ALL[shipped.name].looked_at:
        lines += ["## Looked at", "", *(f"- {remark}" for remark in ALL[shipped.name].looked_at), ""]
    return "\n".join(lines)


def rows_of(student: Student, options: argparse.Namespace) -> Iterator[dict[str, Cell]]:
    """Yield the rows of all sets: the student, what it has to beat, and published models."""
    scale = parse_student(student.student).scale
    control = options.out / f"{student.name}-control"
    is_control = (control / RUN_FOLDER_WEIGHTS).is_file()
    models = [student.name, *([str(control)] if is_control else [])]
    models += [str(options.checkpoints / file) for file in student.beside]
    names = ["bicubic", "Lanczos", student.name, *(["without a teacher"] if is_control else [])]
    names += map(published_name, student.beside)
    folders = [unpack_student(student.name), *([control] if is_control else [])]
    key = "-".join(file_sha256(folder / RUN_FOLDER_WEIGHTS)[:8] for folder in folders)
    for name in options.sets.split(","):
        measures = [measure for measure in MEASURES if measure not in SLOW or name == SETS[0]]
        for inputs in (student.degrade, "none"):
            kept = options.out / "scores" / f"{student.name}-{name}-{inputs}-{key}.json"
            if not kept.is_file():
                scored = srkd.evaluate(
                    models,
                    against=options.checkpoints / student.teacher,
                    data=options.data / name,
                    scale=scale,
                    degrade=inputs,
                    metrics=measures,
                    threads=2,
                )
                write_text(kept, json.dumps(figures_of(scored, measures, to="teacher")))
            about = f"{name}, {'clean' if inputs == 'none' else 'degraded'}"
            for by, figures in zip(names, json.loads(kept.read_bytes()), strict=True):
                yield {"set": about, "images": by, **figures}


def first_rows(student: Student, table: Table, options: argparse.Namespace) -> Iterator[dict[str, Cell]]:
    """Yield the README's rows: teacher, student and bicubic, with what a megapixel takes."""
    side, figures = 512, {row["images"]: row for row in table.rows if row["set"] == "Set14, degraded"}
    scale = parse_student(student.student).scale
    profile = srkd.profile(
        student.name, teacher=options.checkpoints / student.teacher, scale=scale, runtime="onnxruntime",
        lr_size=f"{side}x{side}", memory=False, quality=False, threads=2,
    )  # fmt: skip
    params = {cost.model: cost.params for cost in profile.costs}
    for row in (row for row in profile.rows if row.runtime == "onnxruntime"):
        is_teacher = row.model == profile.teacher
        yield {
            "network": "teacher" if is_teacher else student.name,
            "params": params[row.model],
            "seconds": row.latency_ms.p50 / 1e3 / (scale * side) ** 2 * 1e6,
            "times_as_fast": None if is_teacher else row.speedup_same_runtime,
            "page": on_page(options.checkpoints / student.teacher if is_teacher else student.name, scale),
            **({} if is_teacher else {key: value for key, value in figures[student.name].items() if key in MEASURES}),
        }
    yield {"network": "bicubic", **{key: value for key, value in figures["bicubic"].items() if key in MEASURES}}


def on_page(model: Path | str, scale: int) -> float | None:
    """Return the seconds that the demo's page takes for a megapixel at a scale; a teacher enlarges to its own there."""
    photo = Image.fromarray(read_rgb_u8(embedded_photos("val")["astronaut"]).permute(1, 2, 0).numpy())
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        photo.save(picture)
        seconds = page_seconds(model, picture)
    return None if seconds is None else seconds / (scale**2 * photo.width * photo.height / 1e6)


def draw(student: Student, options: argparse.Namespace) -> None:
    """Draw the README's picture: a photo, and a compressed one, by bicubic, the student and its teacher."""
    scale, networks = parse_student(student.student).scale, drawn(student, options)
    picture = Image.new("RGB", (len(networks) * (SIDE + GAP) - GAP, len(CROPS) * (SIDE + GAP) - GAP), "white")
    for row, (name, inputs, (top, left)) in enumerate(CROPS):
        hr, degradation = mod_crop(read_rgb_u8(embedded_photos("val")[name]), scale), read_degradation(inputs)
        lr = lr_of(hr, scale, degradation, name)
        for column, network in enumerate(networks):
            picture.paste(crop_of(network, lr, top, left, SIDE), (column * (SIDE + GAP), row * (SIDE + GAP)))
    with atomic_path(results_folder() / "students.webp") as temporary:
        picture.save(temporary, format="WEBP", quality=92, method=6)


def note_figures(name: str, table: Table) -> None:
    """Write the figures on degraded Set14 into the facts of a student, and all into its card."""
    figures = {row["images"]: row for row in table.rows if row["set"] == "Set14, degraded"}
    own, lanczos = figures[name], figures["Lanczos"]
    before = shipped_student(name)
    scores = {"validation_psnr_y_teacher": own["psnr"], "bicubic_psnr_y_teacher": figures["bicubic"]["psnr"]}
    facts = replace(
        before,
        header={
            "srkd.protocol": f"{Protocol(border=before.scale, degradation=ALL[name].degrade)},images=Set14",
            "srkd.scores": json.dumps({key: round(float(psnr or 0), 4) for key, psnr in scores.items()}),
        },
        psnr_y_teacher=round(float(own["psnr"] or 0), 2),
        lanczos_psnr_y_teacher=round(float(lanczos["psnr"] or 0), 2),
        sharpness=round(float(own["sharpness"] or 0), 3),
    )
    write_facts(facts, [table])


if __name__ == "__main__":
    sys.exit(main())
