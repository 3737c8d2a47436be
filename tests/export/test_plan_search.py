"""The search of a plan with a fake clock: noise, steps at the vector width, no shape or every shape in reach."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from compressor.base.choices import Goal
from compressor.base.errors import SrkdError, UsageError
from compressor.images.scores import Scores
from export.plan.search import LOOKS, PER_KIND, CandidateShape, Plan, ShapeMeasurement, ShapeSearch, Targets
from export.plan.time_model import TimeModel

WIDTHS, DEPTHS = (8, 16, 24, 32, 40, 48, 64), (1, 2, 4, 8, 16)


def shapes(kind: str = "edsr", *, fits: bool = True) -> list[CandidateShape]:
    """A grid of candidates with the parameters and MACs of plain 3×3 convolutions."""
    sizes = [(w, d, 9 * w * w * (d + 1)) for w in WIDTHS for d in DEPTHS]
    return [CandidateShape(kind, w, d, n, n * 57600, f"{kind}:width={w},depth={d}", fits) for w, d, n in sizes]


class Clock:
    """A fake machine: `ms` gives a shape's true time; measurements have noise and are recorded."""

    def __init__(self, ms: Callable[[CandidateShape], float], noise: float = 0.0, seed: int = 0) -> None:
        self.ms, self.noise, self.random, self.calls = ms, noise, random.Random(seed), list[CandidateShape]()

    def __call__(self, candidate: CandidateShape) -> ShapeMeasurement:
        self.calls.append(candidate)
        ms = self.ms(candidate) * math.exp(self.random.gauss(0, self.noise))
        low, high = ms * (1 - 2 * self.noise), ms * (1 + 2 * self.noise)
        return ShapeMeasurement(ms, low, high, 0.05 + candidate.params * 4e-6)


def smooth(candidate: CandidateShape) -> float:
    return 2 + 0.1 * candidate.width + 0.004 * candidate.depth * candidate.width**2 / 4


def stepped(candidate: CandidateShape) -> float:
    """A time with steps: channels are computed in blocks of 16, and 24 and 40 take longer than a full block."""
    blocks = -(-candidate.width // 16) * 16
    return smooth(CandidateShape("", blocks, candidate.depth, 0, 0, "")) * (1.15 if candidate.width % 16 else 1.0)


def largest(ms: Callable[[CandidateShape], float], most_ms: float) -> CandidateShape:
    """The right answer, by trying all shapes."""
    return max((shape for shape in shapes() if 1.1 * ms(shape) <= most_ms), key=lambda shape: shape.params)


@pytest.mark.parametrize("fps", [3, 30, 100])
@pytest.mark.parametrize("ms", [smooth, stepped])
def test_the_largest_shape_that_meets_the_target_is_found_by_few_measurements(
    fps: float, ms: Callable[[CandidateShape], float]
) -> None:
    clock = Clock(ms)
    plan = ShapeSearch(shapes(), Targets(fps=fps), clock).run()
    best = largest(ms, 1000 / fps)
    assert plan.chosen.params >= 0.7 * best.params and 1.1 * plan.chosen.ms <= 1000 / fps  # type: ignore[operator]
    assert len(set(clock.calls)) <= PER_KIND < len(shapes()), "most shapes are never measured"
    chosen = next(candidate for candidate in clock.calls if candidate.name == plan.chosen.name)
    assert clock.calls.count(chosen) == 1 + LOOKS
    times = [row.ms for row in plan.rows if row.ms is not None]
    assert times == sorted(times, reverse=True), "the slowest first"


def test_with_noise_the_second_measurement_decides_and_the_truth_is_met() -> None:
    misses = 0
    for seed in range(15):
        plan = ShapeSearch(shapes(), Targets(ms=30), Clock(smooth, noise=0.04, seed=seed)).run()
        chosen = next(candidate for candidate in shapes() if candidate.name == plan.chosen.name)
        misses += smooth(chosen) > 30
        assert abs(plan.chosen.ms / smooth(chosen) - 1) < 0.15  # type: ignore[operator]
    assert misses == 0


def test_on_a_noisy_machine_the_whole_interval_has_to_meet_the_target() -> None:
    """A shape with noise of a quarter on each side needs more than the margin of a tenth."""

    def measure(candidate: CandidateShape) -> ShapeMeasurement:
        ms = smooth(candidate)
        return ShapeMeasurement(ms, 0.75 * ms, 1.25 * ms, 0.1)

    plan = ShapeSearch(shapes(), Targets(ms=30), measure).run()
    assert plan.chosen.ms_interval is not None and plan.chosen.ms_interval[1] <= 30
    near = [row for row in plan.rows if "its interval reaches" in row.why]
    assert near and all(row.verdict == "misses" and row.ms is not None and 1.1 * row.ms <= 30 for row in near)
    assert plan.chosen.params >= 0.6 * max(candidate.params for candidate in shapes() if 1.25 * smooth(candidate) <= 30)


def test_finalists_are_measured_again_in_turns_and_once_where_time_is_up() -> None:
    for enough, looks in ((False, LOOKS), (True, 1)):
        clock = Clock(smooth)
        ShapeSearch(shapes(), Targets(ms=30), clock, enough=lambda share, enough=enough: enough and share > 1).run()
        first = len(set(clock.calls))
        again = clock.calls[first:]
        meeting = max(shape.params for shape in clock.calls if 1.1 * smooth(shape) <= 30)
        assert all(shape.params >= 0.75 * meeting for shape in again), "those that tie with the largest, and larger"
        assert len(set(clock.calls[:first])) == first, "each shape once, then the finalists"
        finalists = list(dict.fromkeys(again))
        assert 1 < len(finalists) <= 6 and again == finalists * looks


def test_a_shape_that_was_lucky_once_is_not_chosen() -> None:
    unlucky, calls = largest(smooth, 40), set()

    def measure(candidate: CandidateShape) -> ShapeMeasurement:
        ms = smooth(candidate) * (1.5 if candidate == unlucky and candidate in calls else 1.0)
        calls.add(candidate)
        return ShapeMeasurement(ms, ms, ms, 1.0)

    plan = ShapeSearch(shapes(), Targets(ms=40), measure).run()
    assert plan.chosen.name != unlucky.name
    assert next(row for row in plan.rows if row.name == unlucky.name).verdict == "misses"


def test_where_the_finalists_drop_out_what_lies_below_them_is_measured() -> None:
    """Shapes that met the target first are noisy when measured again, except the small ones that came first."""
    calls: list[CandidateShape] = []
    noisy: set[CandidateShape] = set()

    def measure(candidate: CandidateShape) -> ShapeMeasurement:
        if candidate in calls and not noisy:
            noisy.update(candidate for candidate in calls if candidate.params > 20_000)
        calls.append(candidate)
        ms = smooth(candidate)
        return ShapeMeasurement(ms, ms, 100.0 if candidate in noisy else ms, 1.0)

    plan = ShapeSearch(shapes(), Targets(ms=40), measure).run()
    dropped = [row for row in plan.rows if "its interval reaches 100.0 ms" in row.why]
    assert dropped and all(row.params > 20_000 for row in dropped)
    assert plan.chosen.params >= 0.5 * min(row.params for row in dropped)
    assert plan.chosen.name not in {candidate.name for candidate in noisy}
    again = next(number for number, candidate in enumerate(calls) if candidate in calls[:number])
    assert plan.chosen.name not in {shape.name for shape in calls[:again]}, "measured after the others dropped out"


def test_out_of_reach_names_the_fastest_and_what_would_reach_it() -> None:
    def remedies(excess: float) -> list[str]:
        return [f"an input {excess:.1f} times smaller", "--precision int8"]

    with pytest.raises(SrkdError, match=r"1000 FPS \(1.0 ms\) cannot be reached: the nearest shape, edsr 8x1") as error:
        ShapeSearch(shapes(), Targets(fps=1000), Clock(smooth), remedies=remedies).run()
    assert "what would reach it: an input 3.2 times smaller, or --precision int8" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(SrkdError, match=r" and \d\.\d+ MB$"):  # a smaller image makes no smaller file
        ShapeSearch(shapes(), Targets(ms=1000, megabytes=1e-6), Clock(smooth), remedies=remedies).run()


def test_no_further_shape_is_tried_when_time_is_up() -> None:
    clock = Clock(smooth)
    plan = ShapeSearch([*shapes(), *shapes("compact")], Targets(ms=40), clock, enough=lambda share: share > 0.5).run()
    tried = {kind: {shape for shape in clock.calls if shape.kind == kind} for kind in ("edsr", "compact")}
    assert len(tried["compact"]) == 3 < len(tried["edsr"]) and plan.chosen.kind == "edsr"
    assert plan.stopped and not ShapeSearch(shapes(), Targets(ms=40), Clock(smooth)).run().stopped


def test_several_targets_hold_at_once() -> None:
    targets = Targets(ms=100, megabytes=0.2, macs=9 * 32 * 32 * 9 * 57600)
    plan = ShapeSearch(shapes(), targets, Clock(smooth)).run()
    assert plan.chosen.megabytes <= 0.2 and plan.chosen.macs <= targets.macs  # type: ignore[operator]
    with pytest.raises(SrkdError, match="GMAC"):
        ShapeSearch(shapes(), Targets(macs=10), Clock(smooth)).run()


@pytest.mark.parametrize("fixed", [0.0, 0.05, 3.0])
def test_the_largest_file_below_a_target_is_found_whatever_a_file_has_beside_its_weights(fixed: float) -> None:
    def measure(candidate: CandidateShape) -> ShapeMeasurement:
        return ShapeMeasurement(1.0, 1.0, 1.0, fixed + candidate.params * 4e-6)

    for most in (0.1, 0.5, 1.0):
        right = max(shape.params for shape in shapes() if shape.params * 4e-6 <= most)
        plan = ShapeSearch(shapes(), Targets(megabytes=fixed + most), measure).run()
        assert plan.chosen.params >= 0.75 * right


def test_shapes_that_should_miss_by_a_third_are_not_measured() -> None:
    """Beside the first four, which are measured before the model of time is any good."""
    for most in (9.0, 12.0, 20.0, 40.0):
        clock = Clock(smooth)
        ShapeSearch(shapes(), Targets(ms=most), clock).run()
        assert all(1.1 * smooth(candidate) <= 1.35 * most for candidate in clock.calls[4:])
        assert len(set(clock.calls)) <= 8


def test_quality_decides_between_shapes_that_tie_and_unknown_loses() -> None:
    def prefers_narrow(candidate: CandidateShape) -> Scores | None:
        return Scores(psnr_y=30 - candidate.width / 100) if candidate.fits else None

    plain = ShapeSearch(shapes(), Targets(ms=40), Clock(smooth)).run()
    fitted = ShapeSearch(shapes(), Targets(ms=40), Clock(smooth), prefers_narrow).run()
    assert fitted.chosen.width <= plain.chosen.width and fitted.chosen.psnr_y is not None
    assert fitted.chosen.params >= 0.75 * plain.chosen.params
    both = [*shapes(), *shapes("compact", fits=False)]
    assert ShapeSearch(both, Targets(ms=40), Clock(smooth), prefers_narrow).run().chosen.kind == "edsr"


def test_a_shape_that_cannot_be_had_is_a_row_with_its_reason() -> None:
    best = largest(smooth, 30)

    def measure(candidate: CandidateShape) -> ShapeMeasurement:
        if candidate == best:
            raise SrkdError("the exporter fell over")
        return Clock(smooth)(candidate)

    plan = ShapeSearch(shapes(), Targets(ms=30), measure).run()
    row = next(row for row in plan.rows if row.name == best.name)
    assert (row.verdict, row.why, row.ms) == ("failed", "the exporter fell over", None)
    assert plan.chosen.name != best.name

    def never(candidate: CandidateShape) -> ShapeMeasurement:
        raise SrkdError("no runtime")

    with pytest.raises(SrkdError, match="no shape could be measured: no runtime"):
        ShapeSearch(shapes(), Targets(ms=30), never).run()


def candidate(params: int, *, macs: int = 1, width: int = 8) -> CandidateShape:
    return CandidateShape("edsr", width, 1, params, macs, f"edsr:width={width},depth=1", fits=True)


def test_a_shape_exactly_on_its_targets_meets_them_and_one_exactly_at_the_tie_ties() -> None:
    """Without a margin: 10 ms of 10, 0.5 MB of 0.5, 7 MACs of 7; 75 parameters of 100 tie."""
    some = [candidate(100, macs=7, width=8), candidate(75, macs=7, width=4)]
    shapes_and_larger = [*some, candidate(200, macs=8, width=9)]

    def plan_by(goal: Goal) -> Plan:
        return ShapeSearch(
            shapes_and_larger,
            Targets(ms=10, megabytes=0.5, macs=7),
            lambda _: ShapeMeasurement(10, 10, 10, 0.5),
            lambda shape: Scores(psnr_y=30.0 - shape.params / 100, psnr_y_teacher=30.0 + shape.params / 100),
            goal=goal,
            margin=0.0,
        ).run()

    plan = plan_by("original")
    assert (plan.chosen.params, plan.chosen.why) == (75, "best fitted quality of those that tie")
    assert {row.params: (row.verdict, row.why) for row in plan.rows} == {
        100: ("meets", "ties, and its fitted quality is no better"),
        75: ("chosen", plan.chosen.why),
    }
    near = plan_by("teacher").chosen
    assert (near.params, near.psnr_y, near.psnr_y_teacher) == (100, 29.0, 31.0)


def test_where_no_shape_meets_the_target_the_two_nearest_are_measured_again() -> None:
    clock = Clock(lambda candidate: 11.0 + candidate.params / 1e6)
    with pytest.raises(SrkdError):
        ShapeSearch(shapes(), Targets(ms=10), clock).run()
    again = {candidate for candidate in clock.calls if clock.calls.count(candidate) > 1}
    assert again == set(sorted(set(clock.calls), key=lambda candidate: candidate.params)[:2])


@pytest.mark.parametrize("values", [{"fps": 0}, {"megabytes": math.nan}, {"macs": math.inf}, {}])
def test_a_target_is_a_number_above_0(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--target-"):
        Targets(**values)


def test_the_model_of_time_follows_width_and_depth_and_remembers_a_slow_width() -> None:
    sizes = ((8, 1), (8, 8), (32, 1), (32, 8), (24, 4))
    points = [(w, d, stepped(CandidateShape("", w, d, 0, 0, ""))) for w, d in sizes]
    model = TimeModel.of(points)
    for width, depth, ms in points:
        assert model.ms(width, depth) == pytest.approx(ms, rel=0.1)
    assert model.ms(24, 1) > 0.95 * model.ms(32, 1)
    assert model.ms(64, 16) > model.ms(64, 4) > model.ms(16, 4)
