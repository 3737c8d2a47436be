"""The mutations of `benchmarks.break_on_purpose` still apply to this tree."""

from __future__ import annotations

import pytest

from benchmarks.break_on_purpose import BREAKS, ROOT, Break

each = pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.what)


@each
def test_the_text_to_replace_exists(one: Break) -> None:
    text = (ROOT / one.file).read_text(encoding="utf-8")
    assert one.old in text and text.replace(one.old, one.new, 1) != text


@each
def test_the_tests_that_must_fail_exist(one: Break) -> None:
    assert one.tests and all((ROOT / "tests" / name).is_file() for name in one.tests)


def test_every_loss_of_a_method_has_a_break() -> None:
    broken = {one.file for one in BREAKS}
    losses = ("lfd", "facd", "gating", "ds", "fakd", "contrast", "perceptual", "hkdsr", "dukd")
    assert {f"recipes/{name}.py" for name in losses} <= broken
    assert len({one.what for one in BREAKS}) == len(BREAKS)
