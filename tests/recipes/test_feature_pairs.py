"""DS, CLSD-style and HKDSR report the features that they use before training, with the memory needed."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.base.errors import UsageError
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from recipes.config.options import make_method
from recipes.terms.features import describe_taps
from tests.support.methods_table import DEEPER

LARGER = EDSRSpec(scale=2, width=8, depth=6)


def lines(method: str, *, batch: int = 2, side: int = 8, **options: Any) -> list[str]:
    return describe_taps([make_method(method, options)], build(LARGER), build(DEEPER), batch=batch, lr_patch=side)


@pytest.mark.parametrize(("method", "options"), [("ds", {}), ("clsd", {"phi": "teacher"})])
def test_heads_report_the_features_they_build_on(method: str, options: dict[str, Any]) -> None:
    first, second = lines(method, batch=16, side=48, **options)
    assert first == f"{method}: heads of student body[0] 16x4x48x48"
    assert second == f"{method}: heads of student body[1] 16x4x48x48"


def test_blocks_whose_images_are_compared_are_reported_in_pairs() -> None:
    described = lines("hkdsr", batch=16, side=48)
    pairs = [("body[0]", "body[1]"), ("body[1]", "body[3]"), ("body[2]", "body[5]")]
    assert described == [f"hkdsr: bands of student {a} 16x4x48x48 with teacher {b} 16x8x48x48" for a, b in pairs]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ds", {"taps": ["bdy[1]"]}, r"ds, taps of the student: .*'bdy\[1\]'; did you mean 'body\[1\]'"),
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
