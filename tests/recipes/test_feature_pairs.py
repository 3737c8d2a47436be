"""DS, CLSD-style and HKDSR report the features that they use before training, with the memory needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from compressor.base.errors import UsageError
from compressor.models.networks.base import Network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from recipes.config.options import make_method
from recipes.methods.ds import DeepSupervision, auxiliary_head
from recipes.methods.hkdsr import FusionGate, Hkdsr
from recipes.terms.features import describe_taps
from srkd import compress
from tests.support.methods_table import DEEPER
from tests.support.tensors import PeakMemory

LARGER = EDSRSpec(scale=2, width=8, depth=6)


def lines(method: str, *, batch: int = 2, side: int = 8, **options: Any) -> list[str]:
    return describe_taps([make_method(method, options)], build(LARGER), build(DEEPER), batch=batch, lr_patch=side)


def megabytes(line: str) -> float:
    return float(line.split()[-2])


@pytest.mark.parametrize(("method", "options"), [("ds", {}), ("clsd", {"phi": "teacher"})])
def test_heads_report_the_features_they_build_on(method: str, options: dict[str, Any]) -> None:
    first, second = lines(method, batch=16, side=48, **options)
    assert first.startswith(f"{method}: heads of student body[0] 16x4x48x48, about ")
    assert second.startswith(f"{method}: heads of student body[1] 16x4x48x48, about ")
    assert megabytes(first) == pytest.approx(2 * megabytes(lines(method, batch=8, side=48, **options)[0]), rel=0.05)


def test_blocks_whose_images_are_compared_are_reported_in_pairs() -> None:
    described = lines("hkdsr", batch=16, side=48)
    sides = [line.split(", about")[0] for line in described]
    pairs = [("body[0]", "body[1]"), ("body[1]", "body[3]"), ("body[2]", "body[5]")]
    assert sides == [f"hkdsr: bands of student {a} 16x4x48x48 with teacher {b} 16x8x48x48" for a, b in pairs]
    # The image of the last block exists already.
    assert megabytes(described[0]) == megabytes(described[1]) > megabytes(described[2]) > 0


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ds", {"taps": ["bdy[1]"]}, r"ds, taps of the student: .*'bdy\[1\]'; did you mean 'body\[1\]'"),
        ("clsd", {"taps": ["body[9]"], "phi": "teacher"}, r"clsd, taps of the student: .*'body\[9\]'"),
        ("hkdsr", {"student_taps": ["bdy[1]", "rel(2/3)", "rel(1)"]}, r"hkdsr, taps of the student: .*did you mean"),
        ("hkdsr", {"teacher_taps": ["rel(1/3)", "body[7]", "rel(1)"]}, r"hkdsr, taps of the teacher: .*'body\[7\]'"),
    ],
)
def test_wrong_taps_are_reported_with_their_side_before_anything_is_written(
    method: str, options: dict[str, Any], message: str
) -> None:
    instance = make_method(method, options)
    with pytest.raises(UsageError, match=message):
        instance.fit(build(LARGER), build(DEEPER))
    with pytest.raises(UsageError, match=message):
        instance.feature_pairs(build(LARGER), build(DEEPER))


def test_a_run_with_a_wrong_one_leaves_no_folder(teacher: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'bdy\[0\]'"):
        compress(teacher, recipe="ds", data=photos, steps=1, out=tmp_path / "run", settings=('taps=["bdy[0]"]',))
    assert not (tmp_path / "run").exists()


def test_a_head_takes_the_memory_that_is_reported() -> None:
    student = build(EDSRSpec(scale=2, width=16, depth=3))
    feature, shallow = (torch.rand(4, 16, 24, 24, requires_grad=True) for _ in range(2))
    head = auxiliary_head(student, seed=0)
    with PeakMemory(feature, shallow, *head.parameters()) as memory:
        head(feature, shallow).mean().backward()
    weights = sum(parameter.nbytes for parameter in head.parameters())
    assert within(student, DeepSupervision(), feature) == pytest.approx(memory.peak_bytes + weights, rel=0.25)


def test_an_intermediate_image_takes_the_memory_that_is_reported() -> None:
    student, method = build(EDSRSpec(scale=2, width=16, depth=3)), Hkdsr()
    feature, shallow = (torch.rand(4, 16, 24, 24, requires_grad=True) for _ in range(2))
    hr, target, lr = torch.rand(4, 3, 48, 48), torch.rand(4, 3, 48, 48), torch.rand(4, 3, 24, 24)
    gate = FusionGate()
    with PeakMemory(feature, shallow, hr, target, lr, *gate.parameters(), *student.parameters()) as memory:
        image = student.finish(feature, shallow, lr)
        (method.fsm_loss(image, target, hr, 0, 0, range(4)) + F.l1_loss(image, gate(hr, target))).backward()
    assert within(student, method, feature) == pytest.approx(memory.peak_bytes, rel=0.3)


def within(student: Network, method: Any, feature: torch.Tensor) -> int:
    """Return the reported bytes of the first of the method's features."""
    shape = tuple(feature.shape)
    size_bytes: int = method.feature_pairs(student, student)[0].bytes_of(shape, shape, 1)
    return size_bytes
