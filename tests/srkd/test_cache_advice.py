"""The line about --teacher-cache is printed only if the cache would have shortened a long run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from compressor.base.cache_folder import SPARE_BYTES
from compressor.base.context import QUIET
from compressor.training.pace import Pace
from srkd import compress
from srkd.options.compress import CompressOptions
from srkd.runs import cache_advice as advising
from srkd.runs.cache_advice import CacheCost, cache_advice
from srkd.runs.config import RunConfig
from tests.support.small_runs import SMALL, save_photos, save_teacher

PLENTY = 100 * SPARE_BYTES
HALF = CacheCost(step_seconds=0.5, fill_seconds=100.0, size=1_000_000_000)
"""A teacher that takes half of a step of one second."""


def test_the_line_has_the_times_and_the_size() -> None:
    line = HALF.advice(1.0, 1000, PLENTY)
    assert line is not None
    assert line.startswith(
        "the teacher takes 50% of a step: with --teacher-cache these 1,000 steps would take about 10 min"
    )
    assert "about 10 min in place of 17 min, 100 s of it to run the teacher once (1.0 GB on disk" in line


@pytest.mark.parametrize(
    ("cost", "seconds", "steps", "free"),
    [
        (HALF, 1.0, 599, PLENTY),  # ten minutes are not worth a restart
        (CacheCost(0.1, 0.0, 1), 1.0, 10_000, PLENTY),  # a tenth of a step
        (CacheCost(0.5, 400.0, 1), 1.0, 1000, PLENTY),  # the cache takes as long as it saves
        (HALF, 1.0, 10_000, HALF.size + SPARE_BYTES - 1),
    ],
)
def test_no_line_where_it_would_not_pay(cost: CacheCost, seconds: float, steps: int, free: int) -> None:
    assert cost.advice(seconds, steps, free) is None


def test_a_teacher_slower_than_the_step_takes_all_of_it() -> None:
    line = CacheCost(3.0, 10.0, 1).advice(1.0, 1000, PLENTY)
    assert line is not None and "100% of a step" in line and "about 10 s in place of" in line


@pytest.fixture
def words(tmp_path: Path) -> dict[str, Any]:
    return {
        "teacher": save_teacher(tmp_path / "teacher.safetensors"),
        "recipe": "logits",
        "width": 0.5,
        "steps": 40,
        "settings": SMALL,
        "data": save_photos(tmp_path / "photos"),
        "out": tmp_path / "run",
        "init": "inherit",
    }


@pytest.mark.parametrize(
    ("recipe", "views"),
    [("logits", 1.0), ("dukd", 1 + 1 / 4), ("logits-paper", None), ("fakd", None), ("scratch", None)],
)
def test_what_a_recipe_could_keep(
    words: dict[str, Any], monkeypatch: pytest.MonkeyPatch, recipe: str, views: float | None
) -> None:
    config = RunConfig.decide(CompressOptions.of(**{**words, "recipe": recipe, "goal": "original"}), QUIET)
    costs: list[CacheCost] = []

    def recorded(cost: CacheCost, seconds_per_step: float, steps: int, free: int) -> str:
        costs.append(cost)
        return "pays"

    monkeypatch.setattr(CacheCost, "advice", recorded)
    monkeypatch.setattr(advising, "_seconds", lambda teacher, lr, precision: float(lr.numel()))
    answer = cache_advice(config, config.teacher, 10.0, 1000)
    if views is None:
        assert (answer, costs) == (None, [])
        return
    assert answer == "pays"
    pixels = len(config.data.train) * 20 * 24 * views  # three photos of 40x48, at half the size
    assert costs[0].size == round(pixels * 3 * 4 * 2)
    side = config.teacher_side or 8
    whole, shrunk = side**2, 8**2 * (views - 1)
    assert costs[0].step_seconds == pytest.approx(2 * 3 * (whole + shrunk))
    assert costs[0].fill_seconds == pytest.approx(3 * pixels)


def test_no_teacher_is_timed_in_vain(words: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> float:
        raise AssertionError("the teacher was timed")

    monkeypatch.setattr(advising, "_seconds", never)
    config = RunConfig.decide(CompressOptions.of(**words), QUIET)
    assert cache_advice(config, config.teacher, 0.5, 1000) is None
    assert cache_advice(config, None, 10.0, 1000) is None
    cached = RunConfig.decide(CompressOptions.of(**words, teacher_cache=True), QUIET)
    assert cached.cache is not None
    assert cache_advice(cached, cached.teacher, 10.0, 1000) is None


@pytest.mark.ci
def test_a_long_run_prints_it_once_and_its_student_is_the_same(
    words: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = compress(**{**words, "out": tmp_path / "plain"})
    now = [0.0]

    def slow(self: Pace, done: int, step: object = Pace.step) -> None:
        now[0] += 60.0
        step(self, done)  # type: ignore[operator]

    monkeypatch.setattr(Pace, "step", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(advising, "_seconds", lambda teacher, lr, precision: (teacher(lr), 30.0)[1])
    lines: list[str] = []
    advised = compress(**{**words, "out": tmp_path / "advised"}, announce=lines.append)
    (line,) = [line for line in lines if line.startswith("the teacher takes")]
    assert line.startswith("the teacher takes 50% of a step")
    assert line in (tmp_path / "advised" / "log.txt").read_text()
    assert plain.student_path.read_bytes() == advised.student_path.read_bytes()
