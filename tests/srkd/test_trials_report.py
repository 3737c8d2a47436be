"""The rule of verdicts on gains, on numbers computed by hand and from Student's tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.inference.metric_table import LOOKS, worse_measures
from srkd.record.paired import PairedDifference, two_sided
from srkd.record.trials import Gain, Spread


def gain_of(recipe: Sequence[float], baseline: Sequence[float], rows: int = 1) -> Gain:
    return Gain.between("scratch", [[each] for each in recipe], [[each] for each in baseline], rows=rows)


def test_mean_and_sd_are_those_of_a_sample() -> None:
    """For 2, 4, 9: mean 5, sum of squares 9 + 1 + 16 = 26, divided by n-1 = 2 is 13."""
    spread = Spread.of([2.0, 4.0, 9.0])
    assert spread.mean == 5.0 and spread.sd == pytest.approx(13**0.5)
    assert Spread.of([31.5]) == Spread(31.5, None)
    assert str(Spread(29.9321, 0.0042)) == "29.932 ± 0.004" and str(Spread(29.9321, None)) == "29.932"


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (2.228, 10, 0.05), (1.980, 120, 0.05), (9.925, 2, 0.01), (0.816, 2, 0.5)],
)
def test_the_distribution_is_that_of_students_tables(t: float, freedom: float, p: float) -> None:
    assert two_sided(t, freedom) == pytest.approx(p, rel=1e-3)


def test_a_difference_over_seeds_alone_is_the_paired_t_test() -> None:
    """0.25, 0.5, 0.75: mean 0.5, standard error 0.25/√3, t = 3.46 with two degrees of freedom, p 0.0742."""
    paired = PairedDifference.of([[0.25], [0.5], [0.75]])
    assert (paired.mean, paired.error, paired.freedom) == (0.5, pytest.approx(0.25 / 3**0.5), 2)
    assert paired.p_value() == pytest.approx(0.0742, abs=5e-5)


def test_seeds_and_images_both_count() -> None:
    """Two seeds, three images, by hand: means of seeds 1 and 3, of images 1, 2, 3, no rest.

    MS of seeds 3·2/1 = 6, of images 2·2/2 = 2, rest 0: SE² = 8/6, freedom 8²/(6²/1 + 2²/2) = 64/38.
    """
    paired = PairedDifference.of([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    assert (paired.mean, paired.error, paired.freedom) == (2, pytest.approx((8 / 6) ** 0.5), pytest.approx(64 / 38))
    # Three equal seeds are one sample of the images: the error is their sd over √100, not over √300.
    assert PairedDifference.of([[0.1, -0.1] * 50] * 3).error == pytest.approx(0.1 * (100 / 99) ** 0.5 / 10)


def test_a_verdict_takes_three_seeds_a_p_value_or_a_bound() -> None:
    for recipe, baseline, mean, verdict in (
        ([30.5, 30.51, 30.49], [30.0] * 3, 0.5, "better"),
        ([29.5, 29.51, 29.49], [30.0] * 3, -0.5, "worse"),
        # The same mean, but p 0.074.
        ([30.25, 30.5, 30.75], [30.0] * 3, 0.5, "not settled"),
        # Within a thousandth of a decibel, so below 0.02; a larger spread shows nothing.
        ([30.001, 30.0, 29.999], [30.0] * 3, 0.0, "no difference"),
        ([30.02, 30.0, 29.98], [30.0] * 3, 0.0, "not settled"),
        ([30.5, 30.5], [30.0] * 2, 0.5, "not settled"),
        ([30.5], [30.0], 0.5, "not settled"),
        # Both are equal to the teacher: their infinite figures do not differ.
        ([inf] * 3, [inf] * 3, 0.0, "no difference"),
        ([nan, 31.0, 31.0], [30.0] * 3, nan, "not settled"),
    ):
        gain = gain_of(recipe, baseline)
        assert gain.mean == pytest.approx(mean, nan_ok=True) and gain.verdict == verdict, (recipe, baseline)


def test_a_verdict_of_a_longer_table_takes_more() -> None:
    three = ([30.5, 30.51, 30.49], [30.0] * 3)
    assert gain_of(*three).p == pytest.approx(two_sided(0.5 / (0.01 / 3**0.5), 2), rel=1e-6)
    assert gain_of(*three, rows=400).verdict == "not settled" and gain_of(*three, rows=400).p > 0.05


def test_a_figure_that_one_network_lacks_makes_no_other_one_worse() -> None:
    looks = dict.fromkeys(LOOKS, 1.0)
    far = {**looks, "sharpness": 3.0, "spectrum": 3.0}
    assert worse_measures({"psnr": 30.0, **far}, {"psnr": 31.0, **looks}) == ("psnr", "sharpness", "spectrum")
    assert worse_measures({"psnr": 30.0, **far}, {"psnr": 31.0, "gradient": 1.0}) == ()
    # Dots are sharp: without the overshoot the sharpness tells nothing.
    dotted = {"psnr": 30.0, "sharpness": 1.04, "overshoot": 0.574}
    assert worse_measures(dotted, {"psnr": 31.0, "sharpness": 0.7, "overshoot": 0.289}) == ()
    assert worse_measures({"psnr": 30.0, "sharpness": 0.5}, {"psnr": 31.0, "sharpness": 0.9}) == ("psnr",)
    assert worse_measures({"psnr": nan, **far}, {"psnr": 31.0, **looks}) == ()


def test_pairs_count_not_the_spread_of_seeds() -> None:
    """Seeds differ by whole dB, but the recipe gains 0.1 dB on each of them: that is a gain."""
    gain = gain_of([28.1, 30.11, 32.09], [28.0, 30.0, 32.0])
    assert gain.verdict == "better" and gain.sd == pytest.approx(0.01)
    assert [round(d, 6) for d in gain.differences] == [0.1, 0.11, 0.09]


def test_lines_say_what_is_there_and_what_is_not() -> None:
    assert gain_of([30.5, 30.51, 30.49], [30.0] * 3).line() == (
        "gain over scratch: +0.500 ± 0.010 dB (better; 3 seeds, p 0.00013)"
    )
    assert gain_of([30.0, 31.0], [30.5, 30.5]).line() == (
        "gain over scratch: +0.000 ± 0.707 dB (not settled; 2 seeds, a verdict takes 3)"
    )
    assert gain_of([30.5], [30.0]).line() == "gain over scratch: +0.500 dB (one seed, spread unknown: --seeds 3)"


@given(st.lists(st.tuples(st.floats(20, 40), st.floats(20, 40)), min_size=2, max_size=6))
def test_swapping_sides_swaps_the_sign_and_nothing_else(pairs) -> None:
    recipe, baseline = zip(*pairs, strict=True)
    one, other = gain_of(recipe, baseline), gain_of(baseline, recipe)
    assert one.mean == pytest.approx(-other.mean) and one.sd == pytest.approx(other.sd)
    swapped = {"better": "worse", "worse": "better"}
    assert swapped.get(one.verdict, one.verdict) == other.verdict


def test_unequal_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(ValueError):
        gain_of([30.0, 31.0], [30.0])
