"""Other ways to solve for a student: `python -m benchmarks fit_variants --photos DIR --data DIR`.

DIR of --photos holds images from which patches are drawn, DIR of --data a benchmark set. Teachers are the embedded one
and those of --teacher FILE. A variant replaces constants and functions of `compressor/models/fitting` while it runs, as
srkd has no options for variants that do not help. Takes about half a minute per variant, student and seed; rows are
cached in --rows. Seconds are processor seconds over all threads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F

import srkd
from benchmarks.evidence import Benchmark, Cell, Column, Row, Rows, Table, save
from compressor.assets import embedded_teacher
from compressor.data import calibration
from compressor.data.calibration import draw_calibration_patches
from compressor.data.prepare import DataChoice, prepare_data
from compressor.data.store import ImageStore
from compressor.images.files import read_rgb_u8
from compressor.images.metrics import psnr_y, to_u8
from compressor.images.resize import downscale_u8
from compressor.images.sets import find_sets
from compressor.models.fitting import bases, fit, least_squares, patches
from compressor.models.fitting.feature_store import FeatureStore
from compressor.models.fitting.shares import Share
from compressor.models.fitting.stages import StageWalk, stages
from compressor.models.networks.base import Network, Spec
from compressor.models.students.students import build_student
from srkd.record.trials import Spread

BENCHMARK = Benchmark(
    "Do other ways to solve for a student help?",
    minutes=30,
    arguments=("--photos", "{photos}", "--data", "{sets}/Set5"),
    small=(
        *("--photos", "{photos}", "--data", "{sets}/Set5", "--seeds", "1", "--cut", "0", "--only", "as it is"),
        *("--patches", "8", "--rows", "runs/small/fit-variants.json"),
    ),
)

CUTS: tuple[dict[str, Any], ...] = ({"width": 0.25}, {"width": 0.5}, {"depth": 0.5})
EVERY_CUT = "directions"
"""The table with every student; the others have the first one, from which most is cut."""
POLISH_SECONDS = 15.0

Change = Callable[[], AbstractContextManager[Any]]


def constant(module: Any, name: str, value: Any) -> Change:
    return lambda: patch.object(module, name, value)


@contextmanager
def on_a_quarter() -> Iterator[None]:
    measure = bases._moments

    def fewer(teacher: Network, plan: Any, share: Share) -> dict[str, bases._Moments]:
        return measure(teacher, plan, Share(share.lr[::4], share.device, share.processes))

    with patch.object(bases, "_moments", fewer):
        yield


def with_directions(directions: bases.Directions) -> Change:
    return constant(bases, "used_directions", directions)


@contextmanager
def centred() -> Iterator[None]:
    """Make linear spaces take the principal directions of the covariance."""
    measure = bases._moments

    def about_the_mean(*arguments: Any) -> dict[str, bases._Moments]:
        moments = measure(*arguments)
        for one in moments.values():
            one.second, one.first = one.covariance * one.count, torch.zeros_like(one.first)
        return moments

    with patch.object(bases, "_moments", about_the_mean), with_directions(bases.principal_directions)():
        yield


def by_variance(covariance: torch.Tensor, use: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Return units in order of var·‖w‖², each by itself."""
    worth = (covariance.diagonal() * use.diagonal()).reshape(groups, -1)
    order = worth.argsort(dim=1, descending=True, stable=True)
    return order + torch.arange(groups, device=order.device)[:, None] * worth.shape[1]


@contextmanager
def towards_zero() -> Iterator[None]:
    """Make every convolution start from zero: its ridge pulls to zero."""
    prior = fit.Fitting._prior

    def nothing(self: fit.Fitting, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = prior(self, layer)
        return 0 * weight, 0 * bias

    with patch.object(fit.Fitting, "_prior", nothing), patch.object(least_squares, "RIDGES", (1e-4,)):
        yield


@contextmanager
def swept(times: int) -> Iterator[None]:
    run = fit.Fitting.run

    def again(self: fit.Fitting) -> Network:
        self.short = replace(self.short, sweeps=times)
        return run(self)

    with patch.object(fit.Fitting, "run", again):
        yield


def alike(height: int, width: int, *, scale: int, like: torch.Tensor) -> torch.Tensor:
    return torch.ones(height * width, device=like.device, dtype=like.dtype)


@contextmanager
def decoded() -> Iterator[None]:
    """Make layers after a choice of units start from a prediction of the dropped units by the kept ones, too."""
    measure, columns, by_space = bases._moments, bases.Basis.columns_of, {}

    def recorded(*arguments: Any) -> dict[str, bases._Moments]:
        by_space.update(measure(*arguments))
        return by_space

    def all_of(basis: bases.Basis, space: str) -> torch.Tensor:
        second = by_space[space].second
        return bases._decoder(second, basis.rows_of(space)) if len(basis.sources) == 1 else columns(basis, space)

    with patch.object(bases, "_moments", recorded), patch.object(bases.Basis, "columns_of", all_of):
        yield


@dataclass(frozen=True)
class Drawn:
    """Options for drawing patches; without a count --patches decides."""

    count: int | None = None
    side: int = patches.PATCH
    candidates: int = patches.CANDIDATES

    def draw(self, store: ImageStore, seed: int, count: int = patches.COUNT) -> torch.Tensor:
        with (
            patch.object(calibration, "CANDIDATES", self.candidates),
            patch.object(patches, "CANDIDATES", self.candidates),
        ):
            return draw_calibration_patches(store, seed=seed, count=self.count or count, side=self.side)


Polish = Callable[[Network, Network, torch.Tensor], None]


def polish_image(teacher: Network, student: Network, lr: torch.Tensor) -> None:
    """Train by L1 to the teacher's images, 8 patches per step, with Adam at 5e-4 and a cosine over time."""
    targets = _teacher_images(teacher, lr)
    order, start = torch.Generator().manual_seed(0), time.process_time()
    optimiser = torch.optim.Adam(student.parameters(), lr=5e-4)
    while (share := (time.process_time() - start) / POLISH_SECONDS) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 5e-4 * (0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * share)).item())
        chosen = torch.randperm(len(lr), generator=order)[:8]
        optimiser.zero_grad()
        F.l1_loss(student(lr[chosen]), targets[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def polish_blocks(teacher: Network, student: Network, lr: torch.Tensor) -> None:
    """Train each stage for its share of time towards the teacher's features after it, in the student's basis."""
    fitting = fit.Fitting(teacher, student.spec, lr)
    parts = [stage for stage in stages(fitting.short, fitting.places) if stage.kind == "body"]
    space = fitting.short.layers[0].output
    with FeatureStore() as store:
        walks = StageWalk(teacher, "teacher", store), StageWalk(student, "student", store)
        for stage in stages(fitting.short, fitting.places):
            with torch.no_grad():
                for batch in fitting.patches.batches():
                    walks[0].advance(stage, batch)
            if stage.kind == "body":
                module = student.get_submodule(stage.modules["student"][0])
                optimiser = torch.optim.Adam(module.parameters(), lr=2e-4)
                start = time.process_time()
                while time.process_time() - start < POLISH_SECONDS / len(parts):
                    for batch in fitting.patches.batches():
                        target = fitting.bases[space].project(store["teacher", "feature", batch.first])
                        optimiser.zero_grad()
                        F.mse_loss(module(store["student", "feature", batch.first]), target).backward()  # type: ignore[no-untyped-call]
                        optimiser.step()
            with torch.no_grad():
                for batch in fitting.patches.batches():
                    walks[1].advance(stage, batch)


@dataclass(frozen=True)
class Variant:
    """A change to the product, its patches, and training after the fit."""

    name: str
    change: Change = nullcontext
    drawn: Drawn = Drawn()
    polish: Polish | None = None


AS_IT_IS = Variant("as it is")

VARIANTS: Mapping[str, tuple[Variant, ...]] = {
    "directions": (
        AS_IT_IS,
        Variant("principal", with_directions(bases.principal_directions)),
        Variant("principal, centred", centred),
        Variant("not decoded", constant(bases, "_decoder", lambda second, basis: basis)),
    ),
    "others": (
        AS_IT_IS,
        Variant("bases from a quarter of the patches", on_a_quarter),
        Variant("dropped units as what kept ones say of them", decoded),
        Variant("units by var·‖w‖²", constant(bases, "units_in_order", by_variance)),
        Variant("ridge 1e-4 towards the teacher", constant(least_squares, "RIDGES", (1e-4,))),
        Variant("ridge 1e-4 towards zero", towards_zero),
        Variant("the ridge of the least error", constant(least_squares, "AS_GOOD", 1.0)),
        Variant("all pixels of enlarged features", constant(fit, "step_between", lambda scale: 1)),
        Variant("borders as in the patch", constant(fit, "pixel_weights", alike)),
        Variant("two sweeps", lambda: swept(2)),
        Variant("patches drawn at random", drawn=Drawn(candidates=1)),
        Variant("the most textured of 16", drawn=Drawn(candidates=16)),
    ),
    "patches": (
        Variant("24 of 48×48", drawn=Drawn(24)),
        Variant("48 of 48×48", drawn=Drawn(48)),
        AS_IT_IS,
        Variant("192 of 48×48", drawn=Drawn(192)),
        Variant("24 of 64×64", drawn=Drawn(24, 64)),
        Variant("48 of 64×64", drawn=Drawn(48, 64)),
    ),
    "polish": (
        AS_IT_IS,
        Variant("15 s of Adam on each block, onto its own target", polish=polish_blocks),
        Variant("15 s of Adam on the image", polish=polish_image),
    ),
}
"""Variants by table; the product ("as it is") is measured once and is in all tables."""
COLUMNS = (
    Column("student", "student"),
    Column("variant", "variant"),
    Column("psnr", "PSNR"),
    Column("error", "to the teacher", ".2f"),
    Column("seconds", "seconds", ".0f"),
)


def _teacher_images(teacher: Network, lr: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([teacher(batch) for batch in torch.split(lr, 8)])


class Judge:
    """Scoring of one teacher's students, on a benchmark set and on patches that no fit uses."""

    def __init__(self, teacher: Network, store: ImageStore, data: Path) -> None:
        self.scale, self.pairs = teacher.spec.scale, []
        for pair in find_sets(data, scale=self.scale)[0].pairs:
            hr = read_rgb_u8(pair.hr)
            hr = hr[:, : hr.shape[1] // self.scale * self.scale, : hr.shape[2] // self.scale * self.scale]
            lr = downscale_u8(hr, self.scale) if pair.lr is None else read_rgb_u8(pair.lr)
            self.pairs.append((lr[None].float() / 255, hr[None].float() / 255))
        self.apart = Drawn(32).draw(store, seed=10_000)
        self.targets = _teacher_images(teacher, self.apart)

    def psnr(self, student: Network) -> float:
        """Return the mean Y-PSNR to the originals in dB."""
        with torch.no_grad():
            scores = [psnr_y(to_u8(student(lr)).float() / 255, hr, border=self.scale).item() for lr, hr in self.pairs]
        return statistics.mean(scores)

    def error(self, student: Network) -> float:
        """Return the PSNR in dB, over all colours, to the teacher's images of the held-out patches."""
        images = _teacher_images(student, self.apart)
        return -10 * (images - self.targets).square().mean().log10().item()


@dataclass(frozen=True)
class Subject:
    """A teacher, the images from which patches are drawn, and the judge of its students."""

    label: str
    teacher: Network
    store: ImageStore
    judge: Judge

    @classmethod
    def open(cls, file: Path, photos: Path, data: Path, scale: int) -> Subject:
        """Open a teacher; `scale` is for multi-scale files."""
        is_embedded = file == embedded_teacher()
        network = srkd.load(file, scale=None if is_embedded else scale).require_network("weights")
        store = prepare_data(DataChoice(photos), scale=network.spec.scale, lr_patch=patches.PATCH).train
        return cls("embedded teacher" if is_embedded else file.stem, network, store, Judge(network, store, data))

    def student(self, cut: Mapping[str, Any]) -> Spec | None:
        """Return the spec of a student, or None if it is impossible: CARN has no depth."""
        try:
            return build_student(self.teacher, **cut).spec
        except srkd.SrkdError:
            return None


def measure(variant: Variant, subject: Subject, spec: Spec, count: int, seeds: int) -> dict[str, Cell]:
    """Return a row: the PSNR, also by seed, and the means of the PSNR to the teacher and of the seconds."""
    scores, errors, seconds = [], [], []
    for seed in range(seeds):
        lr = variant.drawn.draw(subject.store, seed, count)
        start = time.process_time()
        with variant.change():
            student = fit.fit(subject.teacher, spec, lr)
        if variant.polish is not None:
            student.train()
            variant.polish(subject.teacher, student, lr)
            student.eval()
        seconds.append(time.process_time() - start)
        scores.append(subject.judge.psnr(student))
        errors.append(subject.judge.error(student))
    return {
        "psnr": str(Spread.of(scores)),
        "error": statistics.mean(errors),
        "seconds": statistics.mean(seconds),
        **{f"psnr, seed {seed}": score for seed, score in enumerate(scores)},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, action="append", default=[])
    parser.add_argument("--scale", type=int, default=4, help="of multi-scale files")
    parser.add_argument("--seeds", type=int, default=3, help="of the patches")
    parser.add_argument("--only", action="append", help="measure variants whose names hold this text")
    parser.add_argument("--cut", action="append", type=int, help="measure these of the students: 0, 1 or 2")
    parser.add_argument("--patches", type=int, default=patches.COUNT, help="where a variant does not say how many")
    parser.add_argument("--rows", type=Path, default=Path("runs/fit-variants.json"), help="where rows are kept")
    options = parser.parse_args(arguments)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    rows, cells = Rows(options.rows), dict[str, list[Row]]()
    for file in (embedded_teacher(), *options.teacher):
        subject = Subject.open(file, options.photos, options.data, options.scale)
        for cut in (CUTS[index] for index in options.cut or range(len(CUTS))):
            spec = subject.student(cut)
            if spec is None:
                continue
            name = f"{subject.label}, {', '.join(f'{axis} {share:g}' for axis, share in cut.items())}"
            for title, variant in chosen(options.only, cut):
                key = f"{name}: {variant.name}, {options.patches} patches, {options.seeds} seed(s)"
                row = rows.get(key, partial(measure, variant, subject, spec, options.patches, options.seeds))
                cells.setdefault(title, []).append({"student": name, "variant": variant.name, **row})
    caption = (
        f"{options.patches} patches of {options.photos.name} where a row does not say how many; mean ± sd of "
        f"{options.seeds} seed(s) of patches; Y-PSNR on {options.data.name}, seconds of the processor."
    )
    tables = {title: Table(COLUMNS, of_table, caption) for title, of_table in cells.items()}
    save("fit_variants", tables, seeds=range(options.seeds))
    return 0


def chosen(texts: Sequence[str] | None, cut: Mapping[str, Any]) -> Iterator[tuple[str, Variant]]:
    """Yield tables and variants of a student; with texts, those whose names contain one of them.

    The stream of a shallower student is whole: no other directions are possible.
    """
    for title, variants in VARIANTS.items():
        for variant in variants:
            is_compared = title == EVERY_CUT and ("width" in cut or variant is AS_IT_IS)
            if (cut == CUTS[0] or is_compared) and (not texts or any(text in variant.name for text in texts)):
                yield title, variant


if __name__ == "__main__":
    sys.exit(main())
