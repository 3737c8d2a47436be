"""The margin that a teacher sees around the patches of a batch: exact crops, the measurement, and runs with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.assets import embedded_teacher
from compressor.base.context import QUIET
from compressor.base.errors import UsageError
from compressor.data.batches import Batches, Draw, Sampler
from compressor.data.decode import decode_all
from compressor.data.label_margin import FINE_DB, WANTED_DB, given_margin, measure_margin
from compressor.data.prepare import DataChoice, prepare_data
from compressor.data.store import ImageStore
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Network
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher, load_teacher
from compressor.training.step import Runner, Step, StepNetworks
from srkd import compress, resume
from tests.support.deaths import death_after
from tests.support.run_files import read_json
from tests.support.teacher_cache_cases import PATCH, SCALE, SETTINGS, edsr, images

SMALLEST = 25
"""Side of the smallest LR image."""


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return decode_all(images(tmp_path / "photos"), scale=SCALE).select(lr_patch=PATCH)


def deep() -> Network:
    """A network in which what lies beyond a patch changes much of it."""
    network = build(EDSRSpec(scale=SCALE, width=6, depth=6, res_scale=0.5), seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    return network


@dataclass(frozen=True)
class Chosen(Sampler):
    """Patches in the corners, at an edge and inside of the smallest image, each under the eight symmetries."""

    def draw(self, step: int, samples: Sequence[int]) -> Draw:
        height, width = int(self.heights[0]) - PATCH, int(self.widths[0]) - PATCH
        places = [(0, 0), (height, width), (0, width), (height, 0), (3, width), (9, 11)]
        rows = [(*place, *flips) for place, flips in product(places, product([False, True], repeat=3))]
        tops, lefts, *flips = (torch.tensor(column) for column in zip(*rows, strict=True))
        return Draw(torch.zeros(len(rows), dtype=torch.long), tops, lefts, *flips)


def step_of(batches: Batches, teacher: Network) -> Step:
    return Step(0, 0, batches.at(0), StepNetworks([Runner(edsr(), trains=True)], Runner(teacher, trains=False)))


def turned(image: torch.Tensor, hflip: bool, vflip: bool, transpose: bool) -> torch.Tensor:
    image = image.flip(-1) if hflip else image
    image = image.flip(-2) if vflip else image
    return image.transpose(-1, -2) if transpose else image


def turned_back(image: torch.Tensor, hflip: bool, vflip: bool, transpose: bool) -> torch.Tensor:
    image = image.transpose(-1, -2) if transpose else image
    return turned(image, hflip, vflip, False)


def test_with_a_full_margin_labels_and_features_are_crops_of_those_of_the_whole_image(store: ImageStore):
    teacher = build(CompactSpec(scale=SCALE, width=6, depth=2), seed=1)
    radius = teacher.descriptor.receptive_radius
    assert radius is not None and PATCH + 2 * radius < SMALLEST
    plain = Batches.for_store(store, batch=48, lr_patch=PATCH, seed=0)
    chosen = replace(plain, sampler=Chosen(**vars(plain.sampler)))
    tap, exact = "body[0]", {"atol": 1e-6, "rtol": 1e-5}
    seen = step_of(replace(chosen, teacher_side=PATCH + 2 * radius), teacher).teacher(taps=(tap,))
    alone = step_of(chosen, teacher).teacher()
    assert seen.sr.shape == alone.sr.shape and not torch.allclose(seen.sr, alone.sr, **exact)

    draw = chosen.sampler.draw(0, chosen.samples)
    columns = (draw.tops, draw.lefts, draw.hflip, draw.vflip, draw.transpose)
    for index, (top, left, *flips) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        image = turned(store.lr.image(0)[None].float() / 255, *flips)
        whole = Runner(teacher, trains=False)(image, (tap,))
        for patches, picture, scale in ((seen.sr, whole.sr, SCALE), (seen.features[tap], whole.features[tap], 1)):
            upright = turned_back(picture, *flips)
            side, y, x = PATCH * scale, top * scale, left * scale
            label = turned(upright[..., y : y + side, x : x + side], *flips)[0]
            torch.testing.assert_close(patches[index], label, **exact)


def test_only_the_patches_of_the_batch_have_a_margin(store: ImageStore):
    plain = Batches.for_store(store, batch=4, lr_patch=PATCH, seed=0)
    step = step_of(replace(plain, teacher_side=16), teacher := edsr(1))
    other = torch.rand_like(step.lr)
    step.run_together(teacher=[step.lr, other])
    torch.testing.assert_close(step.teacher(other).sr, teacher(other))
    assert torch.equal(step.lr, plain.at(0).lr) and step.teacher().sr.shape == step.hr.shape
    assert not torch.allclose(step.teacher().sr, teacher(step.lr), atol=1e-3)


def test_a_deep_teacher_is_measured_and_gets_the_margin_that_its_labels_need(store: ImageStore):
    margin = measure_margin(Teacher(deep()), store, PATCH, QUIET)
    assert margin.psnr_alone < FINE_DB and margin.psnr >= WANTED_DB and 0 < margin.pixels < 2 * PATCH
    assert margin.side == PATCH + 2 * margin.pixels


@pytest.mark.ci
def test_the_embedded_teacher_needs_none_at_the_usual_patch():
    photos = prepare_data(DataChoice(), scale=4, lr_patch=48).train
    assert measure_margin(load_teacher(embedded_teacher()), photos, 48, QUIET).pixels == 0


def test_small_images_bound_the_margin(store: ImageStore):
    teacher = Teacher(deep())
    assert given_margin(64, teacher, store, PATCH).side == SMALLEST
    assert given_margin(0, teacher, store, PATCH).pixels == 0
    for lr_patch in (SMALLEST, SMALLEST - 1):  # one pixel cannot be on both sides
        with pytest.raises(
            UsageError, match="--label-margin 2: the smallest LR image, or the step of the teacher's sizes, leaves no"
        ):
            given_margin(2, teacher, store, lr_patch)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    images(tmp_path / "photos")
    save_network(deep(), teacher := tmp_path / "teacher.pt")
    student = {"recipe": "logits", "init": "inherit", "width": 0.5, "steps": 6, "settings": SETTINGS}
    given = {"teacher": teacher, "arch_options": {"res_scale": 0.5}, "data": tmp_path / "photos"}
    return {**given, **student, "goal": "original"}


@pytest.mark.ci
def test_a_run_measures_its_margin_once_and_resumes_with_it_to_the_same_bytes(options: dict[str, Any], tmp_path: Path):
    notes: list[str] = []
    compress(**options, out=tmp_path / "whole", announce=notes.append)
    margin = read_json(tmp_path / "whole")["label_margin"]
    assert margin["pixels"] > 0 and margin["psnr"] >= WANTED_DB
    assert [line for line in notes if line.startswith(f"labels: {margin['psnr']:.1f} dB")]

    with death_after(1):
        compress(**options, out=tmp_path / "stopped")
    titles: list[str] = []
    resume(tmp_path / "stopped", progress=lambda title, done, total: titles.append(title))
    assert "measuring the labels" not in titles
    assert read_json(tmp_path / "stopped")["label_margin"] == margin
    students = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert students[0] == students[1]

    compress(**options, out=tmp_path / "given", label_margin=margin["pixels"])
    compress(**options, out=tmp_path / "none", label_margin=0)
    given, none = (read_json(tmp_path / name) for name in ("given", "none"))
    assert (given["label_margin"]["side"], given["label_margin"]["psnr"]) == (margin["side"], None)
    assert (tmp_path / "given/student.safetensors").read_bytes() == students[0]
    assert none["label_margin"]["pixels"] == 0
    assert (tmp_path / "none/student.safetensors").read_bytes() != students[0]


@pytest.mark.parametrize("changes", [{"teacher_cache": True}, {"recipe": "csd"}, {"recipe": "scratch"}])
def test_a_margin_without_a_teacher_on_patches_is_refused(changes: dict[str, Any], options: dict[str, Any], tmp_path):
    with pytest.raises(UsageError, match="leave it out"):
        compress(**{**options, **changes}, out=tmp_path / "run", label_margin=4)
    assert not (tmp_path / "run").exists()
