"""A run reports its speed and the time left."""

from __future__ import annotations

import pytest

from compressor.base.context import Context
from compressor.data.prepare import DataChoice, prepare_data
from compressor.degradation.chain import read_degradation
from compressor.inference.teacher_check import check_teacher
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.teachers.teacher import Teacher
from compressor.training import pace as pace_module
from compressor.training.pace import Pace
from compressor.training.validation import Validation
from srkd.terminal import console
from srkd.terminal.console import Console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Provide a fake time for all clocks of a run and of the console."""
    seconds = [100.0]
    for module in (pace_module, console):
        monkeypatch.setattr(module.time, "monotonic", lambda: seconds[0])
    return seconds


def advance(pace: Pace, clock: list[float], steps: int, each: float) -> None:
    """Take steps of `each` seconds."""
    for done in range(pace.done + 1, pace.done + 1 + steps):
        clock[0] += each
        pace.step(done)


def test_speed_is_that_of_the_last_half_minute_and_the_time_left_includes_all_pauses(clock):
    pace = Pace(50, [150])
    advance(pace, clock, 11, 1.0)
    assert pace.seconds_left == pytest.approx(89.0)
    clock[0] += 100.0  # a validation
    advance(pace, clock, 40, 1.0)
    assert pace.steps_per_second == pytest.approx(1.0)
    assert pace.seconds_left == pytest.approx(150 / 50 * 49)


def test_a_stage_counts_by_its_own_speed(clock):
    pace = Pace(0, [60, 100])
    advance(pace, clock, 60, 1.0)
    advance(pace, clock, 10, 5.0)
    assert pace.seconds_left == pytest.approx(30 * 5.0) and pace.steps_per_second == pytest.approx(1 / 5)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a console prints in a process without a terminal."""
    lines: list[str] = []
    monkeypatch.setattr(console, "_write", lambda text, stream: lines.append(text))
    return lines


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, [5, 15, 35, 65, 95, 125, 155, 185]), ({"verbose": True}, range(5, 200, 5)), ({"quiet": True}, [])],
)
def test_without_a_terminal_a_line_comes_soon_and_then_from_time_to_time(printed, clock, options, seconds):
    with Console(**options).context() as context:
        for step in range(1, 200):
            clock[0] += 1
            context.progress("training", step, 5000)
            if context.status is not None:
                context.status("loss 0.5000, 1.00 steps/s", 4000.0)
    assert printed == [f"training {step}/5,000: loss 0.5000, 1.00 steps/s, 67 min left" for step in seconds]


@pytest.mark.parametrize(("options", "seconds"), [({}, [5, 15, 35, 65, 95]), ({"quiet": True}, [])])
def test_work_that_does_not_describe_itself_says_what_is_left(printed, clock, options, seconds):
    with Console(**options).context() as context:
        for _ in context.each("quick", range(4)):
            clock[0] += 1
        for _ in context.each("teacher on whole images", range(399)):
            clock[0] += 1
    lines = [f"teacher on whole images {done - 4}/399: {(403 - done) / 60:.0f} min left" for done in seconds]
    assert [line for line in printed if "/399" in line][: len(lines)] == lines and bool(printed) == bool(lines)


def test_teacher_check_validation_and_degradation_report_progress(photos):
    teacher, seen = build(EDSRSpec(scale=2, width=4, depth=1), seed=0).eval(), set[str]()
    context = Context(lambda title, done, total: seen.add(title))
    check_teacher(Teacher(teacher), context=context)
    choice = DataChoice(data=photos, degradation=read_degradation("noise=5"), degrades_once=True)
    data = prepare_data(choice, scale=2, lr_patch=8, context=context)
    Validation(data.validation, 2, "teacher", teacher, context).score_sets(teacher)
    expected = {"teacher check, other settings", "degrading images", "validation images", "teacher: validation images"}
    assert seen >= expected
