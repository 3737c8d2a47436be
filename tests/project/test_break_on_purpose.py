"""The mutations of benchmarks/break_on_purpose.py still apply to this tree."""

from __future__ import annotations

from benchmarks.break_on_purpose import BREAKS, ROOT, outcome


def test_every_text_to_replace_exists_and_so_do_the_tests_that_must_fail() -> None:
    for change in BREAKS:
        text = (ROOT / change.file).read_text(encoding="utf-8")
        assert change.old in text and text.replace(change.old, change.new, 1) != text, change.what
        assert change.tests and all((ROOT / "tests" / name).is_file() for name in change.tests), change.what


def test_every_loss_of_a_method_has_a_break() -> None:
    broken = {change.file for change in BREAKS}
    assert {f"recipes/methods/{name}.py" for name in ("lfd", "facd", "ds", "fakd", "hkdsr", "dukd", "dckd")} <= broken
    assert {f"recipes/terms/{name}.py" for name in ("gating", "contrast", "perceptual")} <= broken
    assert len({change.what for change in BREAKS}) == len(BREAKS)


def test_failures_are_counted_and_the_first_is_named() -> None:
    output = "FAILED tests/a.py::test_b - assert 1 == 2\nERROR tests/c.py\n1 failed, 3 passed, 1 error in 2.0s\n"
    assert outcome(1, output) == {"failed": 2, "passed": 3, "first": "a.py::test_b"}
    assert outcome(0, "4 passed in 1.0s") == {"failed": 0, "passed": 4, "first": ""}
    assert outcome(2, "no tests ran") == {"failed": 1, "passed": 0, "first": "exit 2"}
