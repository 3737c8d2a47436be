"""`--share K/N` of the tests, by which CI takes a part of its tier with each commit."""

from __future__ import annotations

import pytest

from tests.support.commands import ROOT, python

pytestmark = pytest.mark.ci


def collected(*words: str) -> list[str]:
    done = python("-m", "pytest", "--collect-only", "-q", "tests/images/test_images.py", *words, cwd=ROOT)
    assert done.code == 0, done.out
    return [line for line in done.out.splitlines() if "::" in line]


def test_the_shares_are_all_tests_once() -> None:
    shares = [collected("--share", f"{number}/3") for number in range(3)]
    assert all(shares) and max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(name for share in shares for name in share) == sorted(collected())
