"""The arithmetic of comparisons: against textbook values, brute force, and simulations of what
they promise."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foldrace.analysis.statistics.intervals import (
    Interval,
    corrected_interval,
    corrected_paired_test,
    expected_best,
    holm,
    plus_minus,
)

LOSSES = st.lists(st.floats(-10, 10), min_size=1, max_size=7)


# --- the corrected test --------------------------------------------------------------------------


def test_without_the_correction_it_is_the_plain_t_test() -> None:
    differences = [0.3, -0.1, 0.4, 0.2, 0.25]
    plain = stats.ttest_1samp(differences, 0)
    ours = corrected_paired_test(differences, 0)
    assert ours.p == pytest.approx(plain.pvalue)
    interval = plain.confidence_interval()
    assert (ours.difference.low, ours.difference.high) == pytest.approx(
        (interval.low, interval.high)
    )


def test_the_correction_widens_by_the_share_of_the_test_part() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])  # variance 10/3
    interval = corrected_interval(values, test_share=0.5)
    half = stats.t.ppf(0.975, 3) * math.sqrt((1 / 4 + 0.5) * 10 / 3)
    assert (interval.mean, interval.high, interval.low) == pytest.approx((3, 3 + half, 3 - half))
    t = 3 / math.sqrt((1 / 4 + 0.5) * 10 / 3)
    assert corrected_paired_test(values, 0.5).p == pytest.approx(2 * stats.t.sf(t, 3))


@pytest.mark.parametrize(
    ("differences", "p"),
    [([0.0, 0.0, 0.0], 1.0), ([0.1, 0.1, 0.1], 0.0), ([0.5], 1.0), ([1.0, -1.0], 1.0)],
)
def test_differences_without_a_spread(differences: list[float], p: float) -> None:
    test = corrected_paired_test(differences, 0.5)
    assert (test.p, test.count) == (p, len(differences))
    assert test.difference.low <= test.difference.mean <= test.difference.high


def test_one_value_says_nothing_about_the_spread() -> None:
    assert corrected_interval([0.2], 0.5) == Interval(0.2, -math.inf, math.inf)
    assert corrected_interval([0.2], 0.5).overlaps(corrected_interval([9.0, 9.1], 0.5))


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [0.1, math.inf], [[0.1, 0.2]]])
def test_what_is_not_finite_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        corrected_interval(values, 0.5)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [((0, 1), (1, 2), True), ((0, 1), (1.1, 2), False), ((0, 3), (1, 2), True)],
)
def test_intervals_overlap_where_they_share_a_point(
    one: tuple[float, float], other: tuple[float, float], overlap: bool
) -> None:
    first, second = (Interval(sum(ends) / 2, *ends) for ends in (one, other))
    assert first.overlaps(second) is second.overlaps(first) is overlap


def test_the_corrected_test_keeps_its_level_where_the_naive_one_does_not() -> None:
    """Two learners that are equally good by symmetry: y = x₁ + x₂ + noise, one regresses on x₁,
    the other on x₂."""
    rng = np.random.default_rng(0)
    samples, splits, repeats, studies = 60, 5, 6, 400
    naive = corrected = 0
    for _ in range(studies):
        x = rng.normal(size=(2, samples))
        y = x.sum(axis=0) + rng.normal(size=samples)
        differences = []
        for _ in range(repeats):
            for test in np.array_split(rng.permutation(samples), splits):
                train = np.setdiff1d(np.arange(samples), test)
                slopes = (x[:, train] @ y[train]) / (x[:, train] ** 2).sum(axis=1)
                losses = ((y[test] - slopes[:, None] * x[:, test]) ** 2).mean(axis=1)
                differences.append(losses[0] - losses[1])
        naive += corrected_paired_test(differences, 0).p < 0.05
        corrected += corrected_paired_test(differences, 1 / (splits - 1)).p < 0.05
    assert corrected / studies < 0.10
    assert naive / studies > 0.25


# --- several tests -------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert list(holm([])) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_raises_no_p_below_itself_keeps_the_order_and_is_milder_than_bonferroni(
    p: list[float],
) -> None:
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= 1).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


# --- the best of n -------------------------------------------------------------------------------


@given(LOSSES)
def test_the_expected_best_is_the_mean_over_all_subsets(losses: list[float]) -> None:
    curve, _, _ = expected_best(losses, resamples=1)
    for k in range(1, len(losses) + 1):
        assert curve[k - 1] == pytest.approx(
            np.mean([min(drawn) for drawn in combinations(losses, k)]), abs=1e-12
        )


@given(LOSSES, st.integers(1, 3))
def test_a_failure_never_wins_and_the_curve_begins_where_not_all_draws_can_be_failures(
    losses: list[float], failures: int
) -> None:
    every = [*losses, *[math.inf] * failures]
    curve, _, high = expected_best(every, resamples=20)
    assert np.isnan(curve[:failures]).all()
    for k in range(failures + 1, len(every) + 1):
        assert curve[k - 1] == pytest.approx(
            np.mean([min(drawn) for drawn in combinations(every, k)]), abs=1e-12
        )
    assert curve[-1] == min(losses)
    assert not np.isnan(high).any()


def test_the_estimator_is_unbiased_where_the_plug_in_is_not() -> None:
    """The minimum of k draws from the unit exponential distribution has the mean 1/k."""
    samples = np.random.default_rng(1).exponential(size=(20_000, 6))
    ours = np.array([expected_best(sample, resamples=1)[0] for sample in samples[:4000]])
    k = np.arange(1, 7)
    left = (
        6 - np.arange(7)[:, None]
    ) / 6  # Dodge et al. (2019): k draws with replacement from the observed ones
    plug_in = np.sort(samples, axis=1) @ (left[:-1] ** k - left[1:] ** k)
    errors = ours.std(axis=0) / math.sqrt(len(ours))
    assert (abs(ours.mean(axis=0) - 1 / k) < 4 * errors).all()
    assert (
        abs(plug_in.mean(axis=0) - 1 / k)[1:]
        > 10 * plug_in.std(axis=0)[1:] / math.sqrt(len(plug_in))
    ).all()


def test_the_band_is_about_the_curve_narrows_with_more_trials_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for count in (10, 160):
        losses = rng.exponential(size=count)
        curve, low, high = expected_best(losses)
        assert ((low <= curve) & (curve <= high)).all()
        assert np.array_equal(expected_best(losses)[2], high)
        widths.append((high - low)[2])
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("losses", [[], [math.nan, 0.1], [-math.inf, 0.1]])
def test_losses_that_mean_nothing_are_refused(losses: list[float]) -> None:
    with pytest.raises(ValueError, match="losses"):
        expected_best(losses)


def test_two_values_already_have_a_spread() -> None:
    interval = corrected_interval([1.0, 2.0], 0)
    assert math.isfinite(interval.low) and math.isfinite(interval.high)
    expected = stats.ttest_1samp([1.0, 2.0], 0).pvalue
    assert corrected_paired_test([1.0, 2.0], 0).p == pytest.approx(expected)


def test_an_interval_is_rounded_by_its_own_width() -> None:
    assert plus_minus(Interval(1.0, 0.5, 1.5)) == "1.00 ± 0.50"
    assert plus_minus(Interval(100.0, 50.0, 150.0)) == "100 ± 50"
    assert "±" in plus_minus(Interval(10000.0, 9500.0, 10500.0))
