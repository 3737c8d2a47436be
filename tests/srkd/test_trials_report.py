"""The rule of 'no difference', on numbers computed by hand."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.inference.metric_table import LOOKS, worse_measures
from srkd.record.trials import Gain, Spread


def test_mean_and_sd_are_those_of_a_sample() -> None:
    """For 2, 4, 9: mean 5, sum of squares 9 + 1 + 16 = 26, divided by n-1 = 2 is 13."""
    spread = Spread.of([2.0, 4.0, 9.0])
    assert spread.mean == 5.0 and spread.sd == pytest.approx(13**0.5)
    assert Spread.of([31.5]) == Spread(31.5, None)
    assert str(Spread(29.9321, 0.0042)) == "29.932 ± 0.004" and str(Spread(29.9321, None)) == "29.932"


def test_a_gain_below_two_sd_of_the_paired_difference_is_none() -> None:
    for recipe, baseline, mean, sd, verdict in (
        # Differences 0.25, 0.5, 0.75: mean 0.5, sd 0.25, so exactly two of them: a gain; a little less is none.
        ([30.25, 30.5, 30.75], [30.0, 30.0, 30.0], 0.5, 0.25, "better"),
        ([30.25, 30.5, 30.75], [30.015625] * 3, 0.484375, 0.25, "no difference"),
        ([30.0, 30.0], [30.5, 30.75], -0.625, 0.17677669529663687, "worse"),
        # A constant shift has no spread.
        ([30.25, 31.25], [30.0, 31.0], 0.25, 0.0, "better"),
        # The difference is below three digits, although it has no spread.
        ([30.0 + 2**-12, 31.0 + 2**-12], [30.0, 31.0], 2**-12, 0.0, "no difference"),
        ([30.5], [30.0], 0.5, None, "spread unknown"),
        # Both are equal to the teacher: their infinite figures do not differ.
        ([inf, inf], [inf, inf], 0.0, 0.0, "no difference"),
        ([nan, 31.0], [30.0, 30.0], nan, nan, "spread unknown"),
    ):
        gain = Gain.between("scratch", recipe, baseline)
        assert gain.mean == pytest.approx(mean, nan_ok=True) and gain.verdict == verdict
        assert gain.sd == (None if sd is None else pytest.approx(sd, nan_ok=True))


def test_a_figure_that_one_network_lacks_makes_no_other_one_worse() -> None:
    looks = dict.fromkeys(LOOKS, 1.0)
    far = {**looks, "sharpness": 3.0, "spectrum": 3.0}
    assert worse_measures({"psnr": 30.0, **far}, {"psnr": 31.0, **looks}) == ("psnr", "sharpness", "spectrum")
    assert worse_measures({"psnr": 30.0, **far}, {"psnr": 31.0, "gradient": 1.0}) == ()
    assert worse_measures({"psnr": nan, **far}, {"psnr": 31.0, **looks}) == ()


def test_pairs_count_not_the_spread_of_seeds() -> None:
    """Seeds differ by whole dB, but the recipe gains 0.1 dB on each of them: that is a gain."""
    gain = Gain.between("scratch", [28.1, 30.11, 32.09], [28.0, 30.0, 32.0])
    assert gain.verdict == "better" and gain.sd == pytest.approx(0.01)
    assert [round(d, 6) for d in gain.differences] == [0.1, 0.11, 0.09]


def test_lines_say_what_is_there_and_what_is_not() -> None:
    assert Gain.between("scratch", [30.25, 30.5, 30.75], [30.0] * 3).line() == (
        "gain over scratch: +0.500 ± 0.250 dB (3 seeds)"
    )
    assert Gain.between("inherit", [30.0, 31.0], [30.5, 30.5]).line() == (
        "gain over inherit: no difference (+0.000 ± 0.707 dB, 2 seeds)"
    )
    assert "-0.625 ± 0.177 dB (worse, 2 seeds)" in Gain.between("scratch", [30.0, 30.0], [30.5, 30.75]).line()
    assert Gain.between("scratch", [30.5], [30.0]).line() == (
        "gain over scratch: +0.500 dB (one seed, spread unknown: --seeds 3)"
    )


@given(st.lists(st.tuples(st.floats(20, 40), st.floats(20, 40)), min_size=2, max_size=6))
def test_swapping_sides_swaps_the_sign_and_nothing_else(pairs) -> None:
    recipe, baseline = zip(*pairs, strict=True)
    one, other = Gain.between("b", recipe, baseline), Gain.between("a", baseline, recipe)
    assert one.mean == pytest.approx(-other.mean) and one.sd == pytest.approx(other.sd)
    swapped = {"better": "worse", "worse": "better", "no difference": "no difference"}
    assert swapped[one.verdict] == other.verdict


def test_unequal_numbers_of_seeds_are_refused() -> None:
    with pytest.raises(ValueError):
        Gain.between("scratch", [30.0, 31.0], [30.0])
