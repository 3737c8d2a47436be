"""A student of a smaller scale than its teacher's, and pictures of a smaller scale than the model's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import srkd
from compressor.base.errors import UsageError
from compressor.images.files import read_rgb_u8
from compressor.images.resize import imresize
from compressor.inference.open import open_model
from compressor.inference.super_resolve import super_resolve
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.base import Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.compact import CompactSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.plain import PlainSpec
from compressor.models.networks.registry import build
from compressor.models.networks.span import SPANSpec
from compressor.runtimes.table import OpenOptions
from compressor.teachers.reduced import load_at_scale
from srkd.cli.main import run
from tests.support import official
from tests.support.small_runs import SMALL

LR = 0.4 + 0.2 * torch.rand(2, 3, 21, 19, generator=torch.Generator().manual_seed(0))
"""Far from 0 and 1, where plain clips."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("x4") / "compact.safetensors"
    save_network(build(CompactSpec(4, width=8, depth=3), seed=1), path, metadata={})
    return path


@pytest.mark.parametrize(
    ("spec", "scales"),
    [
        (CompactSpec(4, width=8, depth=2), (2, 1)),
        (CompactSpec(3, width=8, depth=2, residual=False), (1,)),
        (PlainSpec(4, width=8, depth=2), (2, 1)),
        (PlainSpec(4, width=8, depth=2, branches=True), (2,)),
        (SPANSpec(4, width=8, depth=2), (2, 1)),
    ],
    ids=str,
)
def test_a_tail_with_averaged_filters_gives_the_mean_of_pixels(spec: Spec, scales: Sequence[int]) -> None:
    network = build(spec, seed=3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.3)
        for scale in scales:
            smaller = network.at_scale(scale)
            assert smaller is not None and smaller.spec.scale == scale
            torch.testing.assert_close(smaller(LR), F.avg_pool2d(network(LR), spec.scale // scale), rtol=0, atol=1e-6)


def test_tails_that_have_no_exact_form(ground: Path) -> None:
    assert build(CompactSpec(4, width=8, depth=2)).at_scale(3) is None
    assert build(EDSRSpec(4, width=8, depth=2)).at_scale(2) is None
    with pytest.raises(UsageError, match="the file is for scale 2, not 1"):
        load_checkpoint(ground / "teacher.safetensors", scale=1)


@pytest.mark.parametrize("scale", [3, 2, 1])
def test_the_label_is_the_image_reduced_by_antialiased_bicubic(teacher: Path, scale: int) -> None:
    reduced, whole = load_at_scale(teacher, scale), load_at_scale(teacher, None)
    assert torch.equal(reduced(LR), imresize(whole(LR), scale / 4))
    assert reduced.descriptor.scale == scale and reduced.network is not None and reduced.network.spec.scale == 4
    assert (reduced.donor is reduced.network) == (scale == 3)  # no tail of x3 is exact
    with pytest.raises(UsageError, match="scale 8: the network enlarges x4, and its images can be reduced"):
        load_at_scale(teacher, 8)


def test_tiles_of_a_reduced_model_are_those_of_the_whole_picture(teacher: Path) -> None:
    runtime = open_model(teacher, OpenOptions(scale=2))
    whole = super_resolve(runtime, LR[:1]).sr
    torch.testing.assert_close(super_resolve(runtime, LR[:1], tile=16).sr, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("recipe", ["logits", "fakd", "dukd", "perceptual", "csd-lite", "fit"])
def test_recipes_train_a_student_of_a_smaller_scale(recipe: str, teacher: Path, photos: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "run", {"recipe": recipe, "scale": 2, "width": 0.5, "steps": 2, "settings": SMALL}
    report = srkd.compress(teacher=teacher, data=photos, out=out, **words)
    student = srkd.load(out)
    assert student.descriptor.scale == 2 and student(LR).shape[-2:] == (42, 38)
    # The teacher's row is that of its reduced images.
    assert srkd.evaluate(out, data=photos, against=teacher).scale == 2 and report.teacher is not None


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"student": "edsr:width=8,depth=1,scale=2"}, 2),
        ({"student": "compact:width=8,depth=1", "recipe": "scratch", "scale": 3}, 3),
        ({"student": "compact:width=4,depth=1", "recipe": "inherit", "scale": 2}, 2),
    ],
)
def test_the_scale_may_stand_in_the_student_and_needs_no_teacher(
    options: dict[str, object], scale: int, teacher: Path, photos: Path, tmp_path: Path
) -> None:
    srkd.compress(teacher=teacher, data=photos, settings=SMALL, steps=1, out=tmp_path / "run", **options)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["student"]["scale"] == facts["options"]["scale"] == scale


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "csd"}, "recipe csd trains its teacher, which enlarges x4, and the images are of x2"),
        ({"recipe": "hkdsr", "student": "compact:width=8"}, "recipe hkdsr trains its teacher, which enlarges x4"),
        ({"student": "compact:width=8,scale=3"}, "--student is for x3, and --scale for x2"),
        ({"init": "inherit", "teacher_scale": 3}, "the file is for scale 4, not 3"),
    ],
)
def test_what_another_scale_does_not_go_with(
    options: dict[str, object], words: str, teacher: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        srkd.compress(teacher=teacher, scale=2, data=photos, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_file_of_several_scales_has_its_own_or_the_chosen_one_reduced(tmp_path: Path) -> None:
    torch.save(official.carn((2, 4), 8), tmp_path / "carn.pth")
    own, chosen = (load_at_scale(tmp_path / "carn.pth", 2, arch_options=options) for options in ({}, {"scale": 4}))
    whole = load_checkpoint(tmp_path / "carn.pth", scale=4).network
    assert own.network is not None and own.network.spec == CARNSpec(2, 8)
    assert torch.equal(chosen(LR), imresize(whole(LR), 0.5))


def test_pictures_are_enlarged_by_less_than_the_model_does(
    teacher: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["upscale", str(teacher), str(photos / "0.png"), "--scale", "2", "-o", str(tmp_path / "out")]) == 0
    (file,) = srkd.export(teacher, formats="onnx", scale=2, out=tmp_path).files
    assert file.path == tmp_path / f"{teacher.stem}-x2.onnx"
    printed = " ".join("".join(capsys.readouterr()).split())
    assert "compact enlarges x4: its images are reduced to x2 once, by antialiased bicubic" in printed
    lr = read_rgb_u8(photos / "0.png")[None].float() / 255
    with torch.no_grad():
        wanted = imresize(srkd.load(teacher)(lr), 0.5).clamp(0, 1).mul(255).round()[0]
    assert float((read_rgb_u8(tmp_path / "out" / "0_x2.png").float() - wanted).abs().max()) <= 1


def test_a_plan_for_a_smaller_scale_has_its_shapes(teacher: Path) -> None:
    report = srkd.plan(teacher=teacher, scale=2, target_ms=50, lr_size="32x32", seconds=0.02, quality=False)
    assert report.scale == 2 and all("scale=2" in row.student for row in report.rows)
