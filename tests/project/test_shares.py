"""`--share K/N` of the tests, by which CI takes a part of its tier with each commit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.commands import ROOT

pytestmark = pytest.mark.ci


def collected(*words: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/images/test_images.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_the_shares_are_all_tests_once() -> None:
    shares = [collected("--share", f"{number}/3") for number in range(3)]
    assert all(shares) and max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(name for share in shares for name in share) == sorted(collected())
