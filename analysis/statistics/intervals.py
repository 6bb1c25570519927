"""Statistics of cross-validated comparisons: corrected tests and intervals, and the expected best
of n trials.

Losses of the folds of one cross-validation are not independent, as their training sets overlap: a
plain t-test over them finds differences that are not there. Everything here is pure arithmetic on
arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from foldrace.analysis.text import digits

__all__ = [
    "Interval",
    "PairedTest",
    "corrected_interval",
    "corrected_paired_test",
    "expected_best",
    "holm",
    "plus_minus",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; infinite bounds where a single value says nothing about
    the spread."""

    mean: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """The two intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class PairedTest:
    """A test of the hypothesis that two arms have the same expected loss.

    Attributes:
        difference: the mean difference with its confidence interval.
        p: two-sided.
        count: how many pairs it rests on.
    """

    difference: Interval
    p: float
    count: int


def plus_minus(interval: Interval) -> str:
    """The mean and half the width of an interval, both to the second digit of the latter.

    >>> plus_minus(Interval(0.0172641, 0.0171, 0.0174282))
    '0.01726 ± 0.00016'
    """
    half = interval.high - interval.mean
    if not math.isfinite(half):
        return digits(interval.mean)
    places = 1 - math.floor(math.log10(half)) if half > 0 else 5
    if not 0 <= places <= 7:
        return f"{digits(interval.mean)} ± {digits(half, 2)}"
    return f"{interval.mean:.{places}f} ± {half:.{places}f}".replace("-", "−")


def corrected_interval(values: ArrayLike, test_share: float, level: float = 0.95) -> Interval:
    """The mean of losses over the folds of a (repeated) cross-validation, with its confidence
    interval.

    mean ± t(J − 1) · √((1/J + n_test/n_train) · s²), where s² is the unbiased variance of the J
    values. The term n_test/n_train makes up for the overlap of the training sets: Nadeau and
    Bengio, "Inference for the Generalization Error" (2003), section 5; for repeated k-fold
    cross-validation Bouckaert and Frank, "Evaluating the Replicability of Significance Tests for
    Comparing Learning Algorithms" (2004).

    Args:
        values: (J,) finite losses (or differences), of all repeats and folds.
        test_share: n_test/n_train; 1/(K − 1) for K folds.
        level: coverage.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    array = _finite(values)
    mean, error = _mean_and_error(array, test_share)
    if len(array) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stdtrit(len(array) - 1, 0.5 + level / 2)) * error
    return Interval(mean, mean - half, mean + half)


def corrected_paired_test(
    differences: ArrayLike, test_share: float, level: float = 0.95
) -> PairedTest:
    """The corrected resampled t-test of Nadeau and Bengio (2003).

    t = mean / √((1/J + n_test/n_train) · s²) with J − 1 degrees of freedom; see
    `corrected_interval` for the sources and arguments. Differences that are all zero have p = 1,
    equal ones that are not have p = 0, and a single one p = 1.

    Args:
        differences: (J,) one arm's loss minus the other's, on the same repeat, fold and seed.

    Raises:
        ValueError: no difference, or one that is not finite.
    """
    array = _finite(differences)
    mean, error = _mean_and_error(array, test_share)
    if len(array) < 2 or mean == 0:
        p = 1.0
    elif error == 0:
        p = 0.0
    else:
        p = 2 * float(stdtr(len(array) - 1, -abs(mean) / error))
    return PairedTest(corrected_interval(array, test_share, level), p, len(array))


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"needs one or more finite values in one dimension, not {values!r}")
    return array


def _mean_and_error(array: Floats, test_share: float) -> tuple[float, float]:
    """The mean and the square root of its corrected variance; NaN for a single value."""
    mean = math.fsum(array) / len(array)
    if len(array) < 2:
        return mean, math.nan
    if (array == array[0]).all():
        return float(array[0]), 0.0  # exactly: a rounded mean would leave a tiny variance
    return mean, math.sqrt((1 / len(array) + test_share) * float(array.var(ddof=1)))


def holm(p_values: Sequence[float]) -> Floats:
    """p values adjusted for their number: max over j ≤ i of min(1, (m − j + 1) · p_(j)), in the
    order given.

    Rejecting where they are below α keeps the probability of any false rejection at α, whatever
    the dependence: Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def expected_best(
    losses: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """The expected lowest loss of k trials drawn at random, for k = 1 to n: the curve, and a
    band's low and high edge.

    The unbiased estimator of Tang et al., "Showing Your Work Doesn't Always Work" (2020), for a
    minimum: the mean over all subsets of k of the n observed losses, Σ_i x_(i) · C(n − i, k − 1) /
    C(n, k), x_(1) the lowest. (The plug-in estimator of Dodge et al., 2019, draws with replacement
    and is biased.) It holds for trials that are drawn independently, as random search does.

    The band is a percentile bootstrap over the trials. Near k = n it rests on the few best trials
    and is too narrow.

    Args:
        losses: (n,); infinity for a trial that failed: a draw that never wins.
        level: coverage of the band.

    Returns:
        Three arrays (n,). The curve is NaN for k up to the number of failures, where all k draws
        may be failures and the expectation does not exist; the high edge is infinite where that is
        so in a resample.

    Raises:
        ValueError: no loss, or NaN or minus infinity among them.
    """
    array = np.asarray(losses, dtype=np.float64)
    if array.ndim != 1 or not len(array) or np.isnan(array).any() or np.isneginf(array).any():
        raise ValueError(
            f"needs one or more losses in one dimension, finite or plus infinity, not {losses!r}"
        )
    curve = _mean_minimum(array)
    draws = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    curves = _mean_minimum(array[draws])
    tail = (1 - level) / 2
    low, high = np.quantile(curves, (tail, 1 - tail), axis=0, method="inverted_cdf")
    return np.where(np.isinf(curve), np.nan, curve), low, high


def _mean_minimum(losses: Floats) -> Floats:
    """(…, n) → (…, n): the mean minimum of all subsets of k = 1 to n of the last axis; infinite
    where one can be."""
    count = losses.shape[-1]
    k = np.arange(1, count + 1)
    rank = np.arange(1, count)[:, None]
    # the weights C(n − i, k − 1) / C(n, k), each from the one before it: times (n − i − k + 1) /
    # (n − i)
    steps = np.maximum(count - rank - k + 1, 0) / (count - rank)
    weights = np.cumprod(np.vstack([k / count, steps]), axis=0)
    ordered = np.sort(losses, axis=-1)
    failures = np.isinf(ordered).sum(axis=-1, keepdims=True)
    means: Floats = np.where(np.isinf(ordered), 0.0, ordered) @ weights
    return np.where(k <= failures, np.inf, means)
