"""DUKD: its sum, its inputs, its variants, and supported teachers and students."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.data.batches import Batch
from compressor.images.resize import imresize
from compressor.models.networks.base import Descriptor, Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.models.networks.swinir import SwinIRSpec
from compressor.training.step import Runner, Step, StepNetworks
from recipes.config.options import make_method
from recipes.config.reading import read_preset
from recipes.methods.dukd import DUKD, zoom_in, zoom_in_cells
from recipes.terms.symmetries import apply, draw_operations, invert
from srkd.cli.main import run
from tests.support.foreign_models import save_onnx, twin
from tests.support.method_runs import Pair, Upscaler, Waves
from tests.support.methods_table import STUDENT, TEACHER

SWINIR = SwinIRSpec(2, width=8, depths=(2,), heads=(2,), window=4, features=6)


def played(
    method: DUKD,
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch | None = None,
    *,
    number: int = 0,
    trains: bool = False,
    side: int = 12,
) -> dict[str, torch.Tensor]:
    """Return the terms of all updates of one step."""
    batch = batch or Waves(student.descriptor.scale, range(8), side=side).at(number)
    networks = StepNetworks([Runner(student, trains=True)], Runner(teacher, trains=trains))
    terms: dict[str, torch.Tensor] = {}
    for part in range(method.updates):
        terms |= method.terms(Step(number, 7, batch, networks, part))
    return terms


def test_the_sum_is_the_papers():
    """The expected sum is computed again from the equations, with the drawn inputs."""
    student, teacher = build(STUDENT, seed=0), build(TEACHER, seed=1)
    batch = Waves(2).at(4)
    method, passes = DUKD().fit(teacher, student), list[int]()
    counter = student.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    terms = played(method, student, teacher, batch, number=4)
    counter.remove()
    assert passes == [8, 4], "patches and their crops together, then zoom-out"
    draw = {"seed": 7, "step": 4, "samples": range(4)}
    with torch.no_grad():
        expected = {
            "pixel": (student(batch.lr) - batch.hr).abs().mean(),
            "logits": (student(batch.lr) - teacher(batch.lr)).abs().mean(),
        }
        inputs = {"zoom_in": zoom_in(batch.hr, (12, 12), **draw), "zoom_out": imresize(batch.lr, 0.5)}
        for name, images in inputs.items():
            operations = draw_operations(0.3, stream=f"dukd-{name.replace('_', '-')}", **draw)
            undone = invert(student(apply(images, operations)), operations)
            expected[name] = (undone - teacher(images)).abs().mean()
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name].detach()) == pytest.approx(float(value), rel=1e-5), name
    assert method.weights == {"pixel": 5.0, "logits": 1.0, "zoom_in": 1.0, "zoom_out": 1.0}
    assert set(replace(method, variant="paper").weights.values()) == {1.0}


def test_a_network_that_commutes_with_the_augmentation_has_nothing_to_learn_unless_it_is_undone_wrongly():
    steps = range(3)
    right = [played(DUKD(probability=0.6), Upscaler(), Upscaler(), number=number) for number in steps]
    assert all(float(terms[name].detach()) < 1e-6 for terms in right for name in ("logits", "zoom_in", "zoom_out"))
    wrong = [played(DUKD(probability=0.6, bug=True), Upscaler(), Upscaler(), number=number) for number in steps]
    assert max(float(terms["zoom_in"].detach()) for terms in wrong) > 1e-3


def test_the_teacher_sees_crops_of_the_hr_patch_as_they_are_and_the_student_changed_ones():
    student, teacher = Upscaler(), Upscaler()
    played(DUKD(probability=0.5), student, teacher)
    batch = Waves(2, range(8)).at(0)
    plain, augmented = teacher.inputs[1], student.inputs[1]
    assert plain.shape == augmented.shape == batch.lr.shape
    for crop, hr in zip(plain, batch.hr, strict=True):
        windows = hr.unfold(1, 12, 1).unfold(2, 12, 1)
        assert (windows == crop[:, None, None]).all(-1).all(-1).all(0).any(), "a crop of y"
    differences = [not torch.equal(a, b) for a, b in zip(plain, augmented, strict=True)]
    assert any(differences) and not all(differences), "by a coin a sample"
    assert torch.allclose(teacher.inputs[2], imresize(batch.lr, 0.5)), "zoom-out, as it is"


@pytest.mark.parametrize("variant", ["paper+", "code"])
def test_crops_of_oblong_patches_are_oblong(variant: Literal["paper+", "code"]) -> None:
    hr = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    student, teacher = Upscaler(), Upscaler()
    method = DUKD(
        variant=variant, augment=False, zoom_out="off", pixel_weight=1.0, cells=1 if variant == "code" else None
    )
    played(method, student, teacher, Batch(imresize(hr, 0.5), hr))
    assert {tuple(lr.shape) for lr in teacher.inputs} == {(2, 3, 8, 12)}


def test_no_gradient_reaches_a_teacher_even_where_it_is_trained_beside_the_student():
    student, teacher = Upscaler(0.9), Upscaler(1.1)
    torch.stack(list(played(DUKD(), student, teacher, trains=True).values())).sum().backward()
    assert teacher.gain.grad is None
    assert student.gain.grad is not None and float(student.gain.grad) != 0


@pytest.mark.parametrize(
    ("options", "terms", "changed"),
    [
        ({"zoom_out": "off", "augment": False}, {"pixel", "logits", "zoom_in"}, False),
        ({"zoom_in": False, "augment": False}, {"pixel", "logits", "zoom_out"}, False),
        ({"zoom_out": "off"}, {"pixel", "logits", "zoom_in"}, True),
        ({}, {"pixel", "logits", "zoom_in", "zoom_out"}, True),
        ({"logits": False}, {"pixel", "zoom_in", "zoom_out"}, True),
    ],
)
def test_every_row_of_the_ablation_has_its_switch(options: dict[str, object], terms: set[str], changed: bool):
    method = make_method("dukd", options)
    student, teacher = Upscaler(), Upscaler()
    assert set(played(method, student, teacher)) == set(method.weights) == terms
    apart = [not torch.equal(a, b) for a, b in zip(teacher.inputs[-1], student.inputs[-1], strict=True)]
    assert any(apart) == changed


def test_without_new_inputs_it_is_refused():
    with pytest.raises(UsageError, match="zoom_in=false"):
        make_method("dukd", {"zoom_in": False, "zoom_out": "off"})
    with pytest.raises(UsageError, match="cells=2"):
        make_method("dukd", {"cells": 2})


# Variant code


def test_two_updates_of_which_the_second_keeps_the_gradient_of_the_first():
    pair = Pair.build(DUKD(variant="code"), STUDENT, TEACHER, steps=1)
    assert pair.stages[0].updates == 2 and pair.teacher is not None
    student, teacher = copy.deepcopy(pair.student).train().requires_grad_(True), pair.teacher
    losses = pair.train(pair.fresh())
    assert {name for name in losses[0] if name.startswith("raw/")} == {f"raw/{name}" for name in pair.method.weights}
    weighted = [value for name, value in losses[0].items() if name.startswith("weighted/")]
    assert losses[0]["loss"] == pytest.approx(sum(weighted), rel=1e-5)

    batch = Waves(2).at(0)
    adam = torch.optim.Adam(student.parameters(), lr=1e-3, betas=(0.9, 0.99), eps=1e-8)
    sr = student(batch.lr)
    (5 * F.l1_loss(sr, batch.hr) + F.l1_loss(sr, teacher(batch.lr))).backward()
    adam.step()
    cells = zoom_in_cells(batch.hr, (12, 12), 2, seed=3, step=0)
    operations = draw_operations(0.3, stream="dukd-zoom-in", seed=3, step=0, samples=range(4), copies=2)
    smaller = imresize(batch.lr, 0.5)
    sr = student(smaller)
    second = F.l1_loss(invert(student(apply(cells, operations)), operations), teacher(cells))
    (second + F.l1_loss(sr, teacher(smaller)) + 5 * F.l1_loss(sr, batch.lr)).backward()
    adam.step()
    for actual, expected in zip(pair.student.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(actual.detach(), expected.detach(), atol=1e-6, rtol=1e-4)


def test_an_option_wins_over_the_codes_setting():
    custom = DUKD(variant="code", pixel_weight=3.0, zoom_out="on").fit(None, build(SWINIR))
    assert (custom.pixel_weight, custom.probability, custom.zoom_out, custom.cells) == (3.0, 0.3, "on", 1)


def test_the_code_has_no_settings_for_other_networks():
    student = build(CARNSpec(2, width=4))
    with pytest.raises(UsageError, match=r"edsr, rcan, swinir.* carn x2"):
        DUKD(variant="code").fit(None, student)
    complete = DUKD(variant="code", pixel_weight=2.0, probability=0.1, zoom_out="off", cells=1)
    assert complete.fit(None, student) == complete
    partly = DUKD(variant="code", pixel_weight=2.0, probability=0.1)
    with pytest.raises(UsageError, match="give zoom_out, cells,"):
        partly.fit(None, student)
    with pytest.raises(UsageError, match="not for edsr x8"):
        DUKD(variant="code").fit(None, build(EDSRSpec(8, width=4, depth=1)))


def test_a_patch_that_the_scale_does_not_divide_is_refused_where_it_would_be_the_label():
    with pytest.raises(UsageError, match=r"lr_patch=10 .* scale 4"):
        played(DUKD(variant="code"), Upscaler(scale=4), Upscaler(scale=4), side=10)
    assert played(DUKD(), Upscaler(scale=4), Upscaler(scale=4), side=10)


def test_methods_of_one_update_cannot_join_it():
    text = (
        "title: t\nsource: s\nweights: {{pixel: 5}}\nmethods: [{{name: dukd, options: {{variant: {}}}}}, {{name: {}}}]"
    )
    with pytest.raises(UsageError, match=r"dukd and logits .*\b2 updates"):
        read_preset(text.format("code", "logits"), "mine")
    assert len(read_preset(text.format("paper+", "logits"), "mine").build_methods()) == 2


# Teachers and students of any kind.


@pytest.mark.parametrize(("student", "teacher"), [(SWINIR, TEACHER), (STUDENT, SWINIR), (SWINIR, SWINIR)])
def test_swinir_sees_no_zoom_out_unless_asked(student: Spec, teacher: Spec):
    pair = Pair.build(DUKD(), student, teacher, steps=2)
    assert "zoom_out" not in pair.method.weights
    assert len(pair.train(pair.fresh())) == 2
    assert "zoom_out" in Pair.build(DUKD(zoom_out="on"), student, teacher).method.weights
    assert "zoom_out" in Pair.build(DUKD(), STUDENT, TEACHER).method.weights


def test_what_a_cache_kept_is_used_and_the_teacher_runs_for_new_crops_alone():
    student, teacher = Upscaler(), Upscaler(0.5)
    batch = Waves(2, range(8)).at(0)
    terms = played(DUKD(augment=False), student, teacher, Batch(batch.lr, batch.hr, torch.zeros_like(batch.hr)))
    assert [tuple(each.shape[-2:]) for each in teacher.inputs] == [(12, 12), (6, 6)], "zoom-in and zoom-out"
    assert float(terms["logits"].detach()) == pytest.approx(float(batch.lr.abs().mean()), rel=1e-5)


def test_without_hr_images_crops_are_of_the_teachers_output():
    student, teacher = Upscaler(0.9), Upscaler(0.5)
    batch = Waves(2, range(8)).at(0)
    terms = played(DUKD(), student, teacher, Batch(batch.lr, None))
    assert torch.equal(terms["pixel"], terms["logits"])
    output = 0.5 * batch.lr.repeat_interleave(2, -2).repeat_interleave(2, -1)
    windows = output[0].unfold(1, 12, 1).unfold(2, 12, 1)
    assert (windows == teacher.inputs[1][0][:, None, None]).all(-1).all(-1).all(0).any()


@pytest.mark.parametrize(
    ("least", "fixed", "zooms_out"), [(12, None, True), (13, None, False), (1, (48, 48), False), (1, (12, 12), True)]
)
def test_zoom_out_asks_the_teacher_for_its_sizes(least: int, fixed: tuple[int, int] | None, zooms_out: bool) -> None:
    teacher = Descriptor(scale=4, min_size=least, fixed_size=fixed)
    method, note = DUKD().fit_sizes(teacher, 48, 4)
    assert method.zooms_out == zooms_out and (note is None) == zooms_out
    assert DUKD(zoom_out="off").fit_sizes(teacher, 48, 4) == (DUKD(zoom_out="off"), None)
    if zooms_out:
        assert DUKD(zoom_out="on").fit_sizes(teacher, 48, 4) == (DUKD(zoom_out="on"), None)
        return
    assert note is not None and "zoom_out gives the teacher 12x12" in note and note.endswith("zoom_out is off")
    with pytest.raises(UsageError, match="set zoom_out=off"):
        DUKD(zoom_out="on").fit_sizes(teacher, 48, 4)


def test_a_teacher_of_one_size_is_known_before_the_first_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image is read and no folder created; the dry run reports the same."""
    line = ["compress", "--recipe", "dukd", "--student", "compact:width=4,depth=1", "--steps", "1"]
    (tmp_path / "empty").mkdir()
    line += ["--data", str(tmp_path / "empty"), "--out", str(tmp_path / "run")]
    line += ["--teacher", str(save_onnx(twin(), tmp_path / "fixed.onnx", size=(20, 20)))]
    for side, options, message in (
        (20, ["--set", "zoom_out=on"], "10x10 (schedule.lr_patch=20)"),
        (24, [], "takes images of 20x20 only, and the recipe's patches have 24x24"),
    ):
        for dry in ([], ["--dry-run"]):
            assert run([*line, "--lr-patch", str(side), *options, *dry]) == 2
            assert message in " ".join(capsys.readouterr().err.split())
    run([*line, "--lr-patch", "20"])
    assert "zoom_out is off" in " ".join("".join(capsys.readouterr()).split())
    assert not (tmp_path / "run").exists()
