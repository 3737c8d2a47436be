"""Scores of students that are solved for: `python -m benchmarks fitted_students --photos DIR --data DIR [--teacher
FILE_OR_RUN ...]`.

Photos of --photos give the patches, images of --data (such as Set5) the figures. Teachers are the embedded one and
those of --teacher; each gives a student of half its width. A file, but not a run, also gives one of half its depth or,
if it has no depth, of three quarters of its width. A student is cut (slice), solved for (fit), solved for and polished
(`--recipe fit`), and trained by plain logits for --minutes from the fit and from random weights: as many steps as this
machine takes in that time, by a pilot run, on a cosine that ends there. A row computes on one thread; its times are
processor times, so that other programs do not count. A row takes a quarter of an hour. Finished measurements are cached
in --out: the command can be stopped and repeated. With --jobs 2 two rows are measured at the same time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch

import srkd
from benchmarks import evidence
from benchmarks.equal_budget import FIRST_SEED
from benchmarks.evidence import Benchmark, Cell, Column, Table, save
from benchmarks.own_practice import OwnLoop
from compressor.assets import embedded_teacher
from compressor.base.choices import Init
from compressor.base.files import atomic_path, file_sha256
from compressor.base.machine import torch_threads
from compressor.data.calibration import draw_calibration_patches
from compressor.data.prepare import DataChoice, prepare_data
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import psnr, psnr_y, to_u8
from compressor.images.resize import downscale_u8, upscale_bicubic
from compressor.images.sets import find_sets
from compressor.models.fitting.fit import fit
from compressor.models.fitting.patches import PATCH
from compressor.models.networks.base import ImageModel, Network
from compressor.models.students.students import build_student
from compressor.teachers.teacher import load_teacher

BENCHMARK = Benchmark(
    "What does a student score that is solved for, and after five minutes of training?",
    minutes=75,
    arguments=(
        *("--photos", "{photos}", "--data", "{sets}/Set5", "--teacher", "{checkpoints}/carn_m.pth"),
        *("--teacher", "{checkpoints}/realesr-animevideov3_rezipped.pth"),
    ),
    small=(
        *("--photos", "{photos}", "--data", "{sets}/Set5", "--minutes", "0.05", "--polish-steps", "2"),
        *("--rows", "1", "--out", "runs/small/fitted"),
    ),
)

BATCH, LR_PATCH = 8, 32
SETTINGS = (f"batch={BATCH}", f"lr_patch={LR_PATCH}", "decay=cosine", "precision=bf16")
RATES: Mapping[Init, float] = {"fit": 5e-4, "random": 1e-3}
PATCHES_SEED = 0
TIMED_STEPS = 25
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Cut:
    """The share of the teacher's width or depth that a student keeps."""

    axis: Literal["width", "depth"]
    share: float

    @property
    def width(self) -> float:
        return self.share if self.axis == "width" else 1.0

    @property
    def depth(self) -> float:
        return self.share if self.axis == "depth" else 1.0

    def of(self, teacher: Network) -> Network:
        return build_student(teacher, width=self.width, depth=self.depth)


@dataclass(frozen=True)
class Conditions:
    """The settings that all rows share."""

    photos: Path
    data: Path
    scale: int
    minutes: float
    polish_steps: int | None
    """Steps of `--recipe fit`; None: those of the preset."""
    out: Path


def calibration_patches(photos: Path, scale: int, seed: int = PATCHES_SEED) -> torch.Tensor:
    """Return the patches that a run with these photos would draw."""
    return draw_calibration_patches(prepare_data(DataChoice(photos), scale=scale, lr_patch=PATCH).train, seed=seed)


def scores(model: ImageModel | None, teacher: Network, data: Path) -> tuple[float, float]:
    """Return the mean Y-PSNR to the originals, and the PSNR of all colours to the teacher's images.

    Without a model the scores are those of bicubic.
    """
    to_original, to_teacher = [], []
    scale = teacher.spec.scale
    for pair in find_sets(data, scale=scale)[0].pairs:
        hr = read_rgb_u8(pair.hr)
        hr = hr[:, : hr.shape[1] // scale * scale, : hr.shape[2] // scale * scale]
        lr = (downscale_u8(hr, scale) if pair.lr is None else read_rgb_u8(pair.lr))[None].float() / 255
        with torch.no_grad():
            mine, its = (upscale_bicubic(lr, scale) if one is None else one(lr) for one in (model, teacher))
        mine, its = to_u8(mine), to_u8(its)
        to_original.append(float(psnr_y(mine.float() / 255, hr[None].float() / 255, border=scale)))
        to_teacher.append(float(psnr(mine.double(), its.double(), border=scale)))
    return sum(to_original) / len(to_original), sum(to_teacher) / len(to_teacher)


class Subject:
    """A teacher, with the scoring of its students.

    The score is the Y-PSNR to the originals, with the student's share of the teacher's gain over bicubic. For a teacher
    without such a gain it is the PSNR to the teacher's images, with the gain of that over bicubic's.
    """

    def __init__(self, file: Path, conditions: Conditions) -> None:
        self.file, self.conditions, self.data = file, conditions, conditions.data
        self.scale = None if file == embedded_teacher() else conditions.scale
        self.network = srkd.load(file, scale=self.scale).require_network("weights")
        self.bicubic = scores(None, self.network, self.data)
        self.best = scores(self.network, self.network, self.data)[0]
        self.gain = self.best - self.bicubic[0]

    @property
    def is_run(self) -> bool:
        return self.file.stem == "student"

    @property
    def name(self) -> str:
        """Return the file's name, or that of its run."""
        return self.file.parent.name if self.is_run else self.file.stem

    @property
    def line(self) -> str:
        name = "the embedded teacher" if self.file == embedded_teacher() else self.name
        title = f"{name} ({self.network.architecture})"
        if self.gain > 0:
            return f"{title}, {self.best:.2f} dB"
        return f"{title}; to its images, which bicubic has with {self.bicubic[1]:.2f} dB"

    @property
    def cuts(self) -> list[Cut]:
        if self.is_run:
            return [Cut("width", 0.5)]
        half_depth = Cut("depth", 0.5)
        try:
            half_depth.of(self.network)
        except srkd.SrkdError:  # CARN has no depth
            return [Cut("width", 0.75), Cut("width", 0.5)]
        return [Cut("width", 0.5), half_depth]

    def score(self, model: ImageModel) -> float:
        return scores(model, self.network, self.data)[0 if self.gain > 0 else 1]

    def cell(self, score: float) -> str:
        if self.gain > 0:
            share = (score - self.bicubic[0]) / self.gain
            return f"{score:.2f} ({share:.0%})" if share > 0 else f"{score:.2f}"
        return f"{score:.2f} ({score - self.bicubic[1]:+.2f})"


class Row:
    """A student by a teacher and a cut. Measurements are cached in its folder, in a JSON file each."""

    def __init__(self, subject: Subject, cut: Cut) -> None:
        self.subject, self.cut, self.conditions = subject, cut, subject.conditions
        teacher = f"{subject.name}-{file_sha256(subject.file)[:8]}"
        self.folder = self.conditions.out / f"{teacher}-{cut.axis}-{cut.share:g}"

    def cells(self) -> dict[str, Cell]:
        """Return the row of the table; measure what is not cached."""
        minutes = f"{self.conditions.minutes:g}min"
        sliced = self._kept("slice", lambda: {"psnr": self.subject.score(self.cut.of(self.subject.network))})
        solved = self._kept("fit", self._fit)
        polished = self._kept("recipe", self._polish)
        pace = self._kept("pace", self._pace)["seconds_a_step"]
        steps = max(1, round(60 * self.conditions.minutes / pace))
        from_fit = self._kept(f"fit-{minutes}", lambda: self._logits(f"fit-{minutes}", "fit", steps))
        from_random = self._kept(f"random-{minutes}", lambda: self._logits(f"random-{minutes}", "random", steps))
        figures = {"slice": sliced, "fit": solved, "recipe": polished, "from_fit": from_fit, "scratch": from_random}
        return {
            "teacher": self.subject.line,
            "student": f"{self.cut.axis} {self.cut.share:g}",
            **{name: self.subject.cell(one["psnr"]) for name, one in figures.items()},
            "fit_seconds": solved["seconds"],
            "recipe_seconds": polished["seconds"],
            "steps": steps,
        }

    def _kept(self, name: str, measure: Callable[[], Figures]) -> Figures:
        file = self.folder / f"{name}.json"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            figures = measure()
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps(figures), encoding="utf-8")
        stored: Figures = json.loads(file.read_text(encoding="utf-8"))
        return stored

    def _fit(self) -> Figures:
        lr = calibration_patches(self.conditions.photos, self.subject.network.spec.scale)
        began = time.process_time()
        student = fit(self.subject.network, self.cut.of(self.subject.network).spec, lr)
        seconds = time.process_time() - began
        return {"psnr": self.subject.score(student), "seconds": seconds}

    def _polish(self) -> Figures:
        steps = self.conditions.polish_steps
        return self._compress("recipe", "fit", settings=() if steps is None else (f"schedule.steps={steps}",))

    def _pace(self) -> Figures:
        """Return the seconds of a step of logits, after some warm-up steps."""
        teacher = load_teacher(self.subject.file, scale=self.subject.scale)
        with tempfile.TemporaryDirectory() as folder:
            loop = OwnLoop(
                self.cut.of(self.subject.network).spec,
                teacher,
                "logits",
                Path(folder) / "run",
                batch=BATCH,
                lr_patch=LR_PATCH,
                device=torch.device("cpu"),
                settings=("schedule.precision=bf16",),
            )
            loop.run(5)
            began = time.process_time()
            loop.run(TIMED_STEPS)
            return {"seconds_a_step": (time.process_time() - began) / TIMED_STEPS}

    def _logits(self, name: str, init: Init, steps: int) -> Figures:
        settings = (*SETTINGS, f"rate={RATES[init]}", f"steps={steps}")
        return self._compress(name, "logits", init, tuple(f"schedule.{one}" for one in settings))

    def _compress(self, name: str, recipe: str, init: Init | None = None, settings: Sequence[str] = ()) -> Figures:
        """Return the score of a run and its seconds; an unfinished run is restarted."""
        run = self.folder / name
        if run.exists():
            shutil.rmtree(run)
        began = time.process_time()
        srkd.compress(
            self.subject.file,
            scale=self.subject.scale,
            data=self.conditions.photos,
            width=self.cut.width,
            depth=self.cut.depth if self.cut.axis == "depth" else None,
            recipe=recipe,
            init=init,
            seed=FIRST_SEED,
            settings=settings,
            threads=1,
            out=run,
            progress=False,
        )
        seconds = time.process_time() - began
        return {"psnr": self.subject.score(srkd.load(run).require_network("weights")), "seconds": seconds}


def measure_row(file: Path, cut: Cut, conditions: Conditions) -> dict[str, Cell]:
    """Return a row of the table; runs in a separate process."""
    with torch_threads(1):
        return Row(Subject(file, conditions), cut).cells()


def weights_of(path: Path) -> Path:
    """Return the file of a checkpoint or a run folder."""
    return path / "student.safetensors" if path.is_dir() else path


def table(rows: Sequence[evidence.Row], conditions: Conditions) -> Table:
    minutes = f"{conditions.minutes:g} min"
    columns = (
        Column("teacher", "teacher"),
        Column("student", "student"),
        Column("slice", "slice"),
        Column("fit", "fit"),
        Column("fit_seconds", "s", ".0f"),
        Column("recipe", "recipe fit"),
        Column("recipe_seconds", "s", ".0f"),
        Column("from_fit", f"fit + {minutes}"),
        Column("scratch", f"scratch + {minutes}"),
        Column("steps", "steps", ",d"),
    )
    caption = (
        f"Y-PSNR in dB on {conditions.data.name}, border {conditions.scale}, and how much of the teacher's gain over "
        "bicubic is kept; for a teacher below bicubic the PSNR of all colours to the teacher's images, and how much "
        f"nearer they are than bicubic. Patches and training from {conditions.photos.name}; {minutes} are as many "
        f"steps of {BATCH} patches of {LR_PATCH}×{LR_PATCH}, rate {RATES['fit']:g} from the fit and "
        f"{RATES['random']:g} from random weights. Seed {PATCHES_SEED} of the fit, {FIRST_SEED} of the runs. One "
        "thread; seconds are the processor's."
    )
    return Table(columns, rows, caption)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, action="append", default=[], help="checkpoint or run folder")
    parser.add_argument("--scale", type=int, default=4, help="of multi-scale files")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the trainings that the fit stands beside")
    parser.add_argument("--polish-steps", type=int, help="of --recipe fit (default: the preset's)")
    parser.add_argument("--rows", type=int, help="at most so many; none: all")
    parser.add_argument("--jobs", type=int, default=1, help="rows that are measured at the same time")
    parser.add_argument("--out", type=Path, default=Path("runs/fitted-students"), help="folder of what is kept")
    options = parser.parse_args(arguments)
    conditions = Conditions(
        options.photos, options.data, options.scale, options.minutes, options.polish_steps, options.out
    )
    subjects = [Subject(weights_of(path), conditions) for path in (embedded_teacher(), *options.teacher)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        chosen = [(subject.file, cut) for subject in subjects for cut in subject.cuts][: options.rows]
        waiting = [pool.submit(measure_row, file, cut, conditions) for file, cut in chosen]
        rows = []
        for row in waiting:
            rows.append(row.result())
            print(rows[-1], file=sys.stderr, flush=True)
    save("fitted_students", table(rows, conditions), seeds=(PATCHES_SEED, FIRST_SEED))
    return 0


if __name__ == "__main__":
    sys.exit(main())
