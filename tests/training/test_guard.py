"""A non-finite or exploding step changes nothing and is reported; ten in a row end the run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.training.guard import MAX_IN_A_ROW, MAX_RATIO, MIN_GOOD_STEPS, Guard
from compressor.training.loop import Trainer
from compressor.training.run_folder import RunFolder
from compressor.training.state import State
from compressor.training.step import Step
from tests.support.run_files import read_metrics
from tests.support.training import Faulty, all_numbers, events_of, is_same, network, smooth_patch, stage, train_on_patch


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_leaves_no_trace(value: float):
    """Steps 0 to 5 with 0, 2 and 3 broken equal three good steps, bitwise."""
    broken, recorder = train_on_patch(stage([Faulty({0: value, 2: value, 3: value})], steps=6, rate=1e-3))
    whole, _ = train_on_patch(stage([Faulty({})], steps=3, rate=1e-3))
    assert is_same(broken, whole) and broken.done == 6 and whole.done == 3
    assert broken.ema.updates == 3 and broken.guard.skipped == 3 and len(recorder.losses) == 3
    assert {done: bad.terms for done, bad in recorder.bad.items()} == dict.fromkeys((1, 3, 4), ("raw/pixel",))
    assert [bad.in_a_row for bad in recorder.bad.values()] == [1, 1, 2]


class Cliff(Faulty):
    """A loss of zero with a NaN gradient, at step 1."""

    def terms(self, step: Step) -> dict[str, torch.Tensor]:
        terms = super().terms(step)
        cliff = torch.sqrt((step.student().sr * 0).sum()) if step.number == 1 else terms["still"]
        return {**terms, "still": cliff}


def test_a_gradient_that_is_not_finite_is_skipped_too():
    for clip in ("null", "10"):
        state, recorder = train_on_patch(stage([Cliff({})], steps=3, clip=clip))
        assert recorder.bad[2].terms == ("gradient norm",) and list(recorder.bad) == [2]
        assert all(tensor.isfinite().all() for tensor in all_numbers(state))


def test_an_exploding_step_is_skipped_once_there_is_something_to_compare_with():
    early, late = MIN_GOOD_STEPS // 2, MIN_GOOD_STEPS + 5
    one = stage([Faulty({early: 1e3, late: 1e5})], steps=MIN_GOOD_STEPS + 8, rate=1e-6)
    _, recorder = train_on_patch(one)
    assert list(recorder.bad) == [late + 1]
    assert recorder.bad[late + 1].terms == ("weighted/pixel",)
    assert "mostly weighted/pixel, is over 20 times" in recorder.bad[late + 1].why


def test_the_bound_is_that_factor_and_bad_steps_do_not_raise_it():
    guard = Guard()
    for number in range(MIN_GOOD_STEPS):
        assert guard.judge(1.0 + 2 * (number % 2), 1.0, dict) is None
    assert guard.average == pytest.approx(2.0)
    assert guard.judge(2.0 * MAX_RATIO * 1.01, 1.0, dict) is not None
    assert guard.average == pytest.approx(2.0)
    assert guard.judge(2.0 * MAX_RATIO * 0.99, 1.0, dict) is None
    assert guard.in_a_row == 0 and guard.skipped == 1


def test_the_guard_continues_where_it_was_saved(tmp_path: Path):
    factors = {**dict.fromkeys(range(21, 26), 1e6), 23: math.nan}
    long, short = (stage([Faulty(factors)], steps=steps, rate=1e-3) for steps in (30, 24))
    straight, all_of_it = train_on_patch(long)
    half, first = train_on_patch(short)
    assert half.guard.in_a_row == 3
    half.save(tmp_path / "state.pt")
    resumed = State.fresh(network(0), None, long)
    resumed.load(tmp_path / "state.pt")
    _, rest = train_on_patch(long, resumed)
    assert is_same(resumed, straight) and resumed.guard == straight.guard
    skips = [
        {done: (bad.why, bad.in_a_row) for done, bad in bads.items()} for bads in (first.bad, rest.bad, all_of_it.bad)
    ]
    assert {**skips[0], **skips[1]} == skips[2] and all_of_it.bad[26].in_a_row == 5


def test_ten_in_a_row_end_the_run_and_say_what_is_safe(tmp_path: Path):
    one = stage([Faulty(dict.fromkeys(range(6, 40), math.nan))], steps=40, validate_every=4)
    lines: list[str] = []
    events = events_of(RunFolder(tmp_path / "run"), lines, one)
    with pytest.raises(SrkdError) as caught:
        Trainer([one], State.fresh(network(0), None, one), smooth_patch(), None, events, seed=0).run()
    message = str(caught.value)
    assert message.startswith(
        f"step {6 + MAX_IN_A_ROW}: {MAX_IN_A_ROW} steps in a row were skipped, the last because of raw/pixel"
    )
    assert "state-00000012.pt" in message and f"srkd compress --resume {tmp_path / 'run'}" in message
    assert "a lower rate (--rate X" in message and "--init-from" in message
    bad = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "skipped"]
    assert [row["step"] for row in bad] == list(range(7, 17))
    assert bad[0]["terms"] == ["raw/pixel"] and bad[0]["loss"] is None
    assert "step 7 skipped: raw/pixel not finite" in (tmp_path / "run" / "log.txt").read_text()
    assert any("step 7/40 skipped: raw/pixel not finite" in line for line in lines)
