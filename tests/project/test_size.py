"""The lines of each package, which only fall: whoever adds a capability pays for its lines."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.commands import ROOT

MOST_LINES = {"compressor": 26400, "recipes": 4360, "export": 9968, "srkd": 13077, "demo": 524, "tests": 44520}
"""Lines of Python of each package, blank ones and comments too. A commit that shrinks a package lowers its number; none
rises."""
SLACK = 50
"""Lines by which a number may be above its package before it has to be lowered."""


@pytest.mark.parametrize("package", MOST_LINES)
def test_a_package_has_no_more_lines_than_before(package: str) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", f"{package}/*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    lines = sum(len(file.read_bytes().splitlines()) for file in files)
    most = MOST_LINES[package]
    assert lines <= most, f"{package} has {lines} lines, {lines - most} too many: take as many away in it"
    assert lines >= most - SLACK, f"{package} has {lines} lines: write that into MOST_LINES, which only falls"
