"""Other ways to solve for a student, measured: `python -m benchmarks.fit_variants --photos DIR --data DIR --page FILE`
writes a table; docs/fit-variants.md has one of them.

DIR of --photos holds images that patches are drawn from, DIR of --data a benchmark set. Teachers are the embedded one
and those of --teacher FILE. A variant replaces constants and functions of `compressor/models/fitting` while it runs:
the product has no switch for what does not help. Takes about half a minute a variant, student and seed;
seconds are those of the processor, on all threads together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F

import srkd
from compressor.assets import embedded_teacher
from compressor.base.machine import machine_facts
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
from compressor.models.fitting.stages import Walk, stages
from compressor.models.networks.base import Network, Spec
from compressor.models.students import build_student

CUTS: tuple[dict[str, Any], ...] = ({"width": 0.5}, {"width": 0.25}, {"depth": 0.5})
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
    """Linear spaces take the principal directions of the covariance."""
    measure = bases._moments

    def about_the_mean(*arguments: Any) -> dict[str, bases._Moments]:
        moments = measure(*arguments)
        for one in moments.values():
            one.second, one.first = one.covariance * one.count, torch.zeros_like(one.first)
        return moments

    with patch.object(bases, "_moments", about_the_mean), with_directions(bases.principal_directions)():
        yield


def by_variance(covariance: torch.Tensor, use: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Units by var·‖w‖², each for itself."""
    worth = (covariance.diagonal() * use.diagonal()).reshape(groups, -1)
    order = worth.argsort(dim=1, descending=True, stable=True)
    return order + torch.arange(groups, device=order.device)[:, None] * worth.shape[1]


@contextmanager
def towards_zero() -> Iterator[None]:
    """Every convolution starts from nothing: its ridge pulls to zero."""
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
    """Layers behind a choice of units start from what the kept ones say of the others, too."""
    measure, columns, seen = bases._moments, bases.Basis.columns_of, {}

    def kept(*arguments: Any) -> dict[str, bases._Moments]:
        seen.update(measure(*arguments))
        return seen

    def all_of(basis: bases.Basis, space: str) -> torch.Tensor:
        known = seen[space].second
        return bases._decoder(known, basis.rows_of(space)) if len(basis.sources) == 1 else columns(basis, space)

    with patch.object(bases, "_moments", kept), patch.object(bases.Basis, "columns_of", all_of):
        yield


@dataclass(frozen=True)
class Drawn:
    """How patches are drawn; without a count as many as --patches says."""

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
    """Steps of logits on the image: L1 to the teacher's, 8 of the patches each, Adam 5e-4 with a cosine in time."""
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
    """Steps of each stage onto the teacher's features behind it, in the student's basis, each for its share of time."""
    fitting = fit.Fitting(teacher, student.spec, lr)
    parts = [stage for stage in stages(fitting.short, fitting.places) if stage.kind == "body"]
    space = fitting.short.layers[0].output
    with FeatureStore() as store:
        walks = Walk(teacher, "teacher", store), Walk(student, "student", store)
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
    """What differs from the product, and the patches it has."""

    name: str
    change: Change = nullcontext
    drawn: Drawn = Drawn()
    polish: Polish | None = None


VARIANTS = (
    Variant("as it is"),
    Variant("directions: principal", with_directions(bases.principal_directions)),
    Variant("directions: principal, centred", centred),
    Variant("directions: not decoded", constant(bases, "_decoder", lambda second, basis: basis)),
    Variant("bases from a quarter of the patches", on_a_quarter),
    Variant("dropped units as what kept ones say of them", decoded),
    Variant("units by var·‖w‖²", constant(bases, "units_in_order", by_variance)),
    Variant("ridge 1e-4", constant(least_squares, "RIDGES", (1e-4,))),
    Variant("ridge 1e-4 towards zero", towards_zero),
    Variant("the ridge of the least error", constant(least_squares, "AS_GOOD", 1.0)),
    Variant("all pixels of enlarged features", constant(fit, "step_between", lambda scale: 1)),
    Variant("borders as in the patch", constant(fit, "pixel_weights", alike)),
    Variant("two sweeps", lambda: swept(2)),
    Variant("patches drawn at random", drawn=Drawn(candidates=1)),
    Variant("the most textured of 16", drawn=Drawn(candidates=16)),
    Variant("24 patches of 48", drawn=Drawn(24)),
    Variant("48 patches of 48", drawn=Drawn(48)),
    Variant("192 patches of 48", drawn=Drawn(192)),
    Variant("24 patches of 64", drawn=Drawn(24, 64)),
    Variant("48 patches of 64", drawn=Drawn(48, 64)),
    Variant("15 s of Adam on each block", polish=polish_blocks),
    Variant("15 s of Adam on the image", polish=polish_image),
)


def _teacher_images(teacher: Network, lr: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([teacher(batch) for batch in torch.split(lr, 8)])


class Judge:
    """Scores students of one teacher: on a benchmark set, and on patches that no fit has seen."""

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
        """Return the mean Y-PSNR to the originals."""
        with torch.no_grad():
            scores = [psnr_y(to_u8(student(lr)).float() / 255, hr, border=self.scale).item() for lr, hr in self.pairs]
        return statistics.mean(scores)

    def error(self, student: Network) -> float:
        """Return the PSNR of all colours to the teacher's images of the patches kept apart."""
        images = _teacher_images(student, self.apart)
        return -10 * (images - self.targets).square().mean().log10().item()


def measure(
    variant: Variant, teacher: Network, spec: Spec, store: ImageStore, judge: Judge, count: int, seeds: int
) -> tuple[list[float], float, float]:
    """Return the PSNR of each seed, the mean PSNR to the teacher on patches kept apart, and the mean seconds."""
    scores, errors, seconds = [], [], []
    for seed in range(seeds):
        lr = variant.drawn.draw(store, seed, count)
        start = time.process_time()
        with variant.change():
            student = fit.fit(teacher, spec, lr)
        if variant.polish is not None:
            student.train()
            variant.polish(teacher, student, lr)
            student.eval()
        seconds.append(time.process_time() - start)
        scores.append(judge.psnr(student))
        errors.append(judge.error(student))
    return scores, statistics.mean(errors), statistics.mean(seconds)


def rows(
    teacher: Network,
    label: str,
    store: ImageStore,
    data: Path,
    chosen: Sequence[Variant],
    cuts: Sequence[int],
    count: int,
    seeds: int,
) -> Iterator[str]:
    judge = Judge(teacher, store, data)
    for cut in (CUTS[index] for index in cuts):
        try:
            spec = build_student(teacher, **cut).spec
        except srkd.SrkdError:
            continue  # CARN has no depth
        shape = ", ".join(f"{name} {value:g}" for name, value in cut.items())
        yield f"| **{label}, {shape}** | | | |"
        for variant in chosen:
            scores, error, seconds = measure(variant, teacher, spec, store, judge, count, seeds)
            spread = f" ±{statistics.stdev(scores):.3f}" if seeds > 1 else ""
            yield f"| {variant.name} | {statistics.mean(scores):.3f}{spread} | {error:.2f} | {seconds:.0f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, action="append", default=[])
    parser.add_argument("--scale", type=int, default=4, help="of multi-scale files")
    parser.add_argument("--seeds", type=int, default=3, help="of the patches")
    parser.add_argument("--only", action="append", help="measure variants whose names hold this text")
    parser.add_argument("--cut", action="append", type=int, help="measure these of the students: 0, 1 or 2")
    parser.add_argument("--patches", type=int, default=patches.COUNT, help="where a variant does not say how many")
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args(arguments)
    facts = machine_facts()
    chosen = [one for one in VARIANTS if not options.only or any(text in one.name for text in options.only)]
    lines = [
        "# Ways to solve for a student: results",
        "",
        f"`python -m benchmarks.fit_variants` on {facts['cpu']}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}. Y-PSNR in dB on {options.data.name}, border {options.scale}, mean and standard "
        f"deviation of {options.seeds} seeds of patches from {options.photos.name}; PSNR of all colours to the "
        "teacher's image on 32 patches that no fit has seen; seconds of the processor ([how a fit works](fit.md)).",
        "",
        "| variant | PSNR | to the teacher | seconds |",
        "|---|---|---|---|",
    ]
    for path in (embedded_teacher(), *options.teacher):
        is_embedded = path == embedded_teacher()
        network = srkd.load(path, scale=None if is_embedded else options.scale).require_network("weights")
        store = prepare_data(DataChoice(options.photos), scale=network.spec.scale, lr_patch=patches.PATCH).train
        label = "embedded teacher" if is_embedded else path.stem
        for line in rows(
            network, label, store, options.data, chosen, options.cut or range(3), options.patches, options.seeds
        ):
            print(line, flush=True)
            lines.append(line)
    options.page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
