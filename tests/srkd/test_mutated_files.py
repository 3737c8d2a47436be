"""Mutated files of every untrusted kind: each opens or gives a one-line error, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ROOT, python
from tests.support.films import require_av

MOST_SECONDS = 10
"""Most processor seconds for one file; the forks of `tests/support/fuzz.py` are ended earlier."""
MOST_GROWTH_MB = 1000
LONG_TIER = {"ONNX": 4000, "recipe": 2000, "image": 2500, "film": 2500}


def attack(kinds: str, count: int, seed: int, folder: Path, timeout: float) -> dict[str, Any]:
    """Open mutated files in a separate process: native code reads most formats, and a crash must fail the test."""
    outcome = python(
        *("-W", "ignore", "-m", "tests.support.fuzz", kinds, count, seed, folder),
        cwd=ROOT,
        timeout=timeout,
        OMP_NUM_THREADS="1",
    )
    assert outcome.code == 0, f"died at {(folder / 'last').read_text()}: {outcome.err[-500:]}"
    for kind, report in outcome.json.items():
        assert report["wrong"] == [], kind
        assert report["opened"] + report["refused"] == count
        assert report["opened"] >= count // 10 and report["refused"] >= count // 4, (kind, report)
        assert report["slowest"][0] < MOST_SECONDS, (kind, report["slowest"])
        assert report["growth_mb"] < MOST_GROWTH_MB, (kind, report["growth_mb"])
    return outcome.json


@pytest.mark.ci
def test_some_mutated_onnx_files(tmp_path: Path) -> None:
    attack("ONNX", 100, 0, tmp_path, 240)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG_TIER)
def test_thousands_of_mutated_files(kind: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    if kind == "film":
        require_av()
    count = LONG_TIER[kind]
    report = attack(kind, count, 1, tmp_path, 1800)[kind]
    ended = ", ".join(f"{number} {why}" for why, number in report["ended"].items() if number)
    record_property(
        "note",
        f"{count:,} files: {report['opened']:,} opened, {report['refused']:,} refused in one line"
        f"{f' (tried in a process of their own: {ended})' if ended else ''}, the slowest "
        f"{report['slowest'][0]:.2f} s, memory +{report['growth_mb']} MB",
    )


def test_the_long_tier_has_ten_thousand_files_and_more() -> None:
    assert sum(LONG_TIER.values()) >= 10_000
