"""Corrected intervals and tests of cross-validated losses, and the expected best of n trials.

The losses of the folds of one cross-validation are not independent, because their training parts
overlap: a plain t-test over them reports differences that do not exist. The functions here correct
for that. They compute on arrays alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from foldrace.analysis.text import digits
from foldrace.trainables.tasks.objective import Objective

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
    """A mean and its confidence interval; the bounds of a single value are infinite."""

    mean: float
    low: float
    high: float

    def of(self, objective: Objective) -> Interval:
        """The same in the sign of the metric, if it is one of losses."""
        low, high = sorted((objective.score(self.low), objective.score(self.high)))
        return Interval(objective.score(self.mean), low, high)

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class PairedTest:
    """A test of the hypothesis that two arms have the same expected loss.

    Attributes:
        difference: the mean difference with its confidence interval.
        p: two-sided p value.
        count: the number of pairs.
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
    """The mean loss of a (repeated) cross-validation with its corrected confidence interval.

    mean ± t(J − 1) · √((1/J + n_test/n_train) · s²), where s² is the unbiased variance of the J
    values. The term n_test/n_train corrects for the overlap of the training parts: Nadeau and
    Bengio, "Inference for the Generalization Error" (2003), section 5; for repeated k-fold
    cross-validation Bouckaert and Frank, "Evaluating the Replicability of Significance Tests for
    Comparing Learning Algorithms" (2004).

    >>> interval = corrected_interval([0.31, 0.33, 0.32], test_share=1 / 2)
    >>> round(interval.low, 4), round(interval.mean, 4), round(interval.high, 4)
    (0.2807, 0.32, 0.3593)

    Args:
        values: (J,) finite losses (or differences), of all repeats and folds.
        test_share: n_test/n_train; 1/(K − 1) for K folds.
        level: coverage, from 0 to 1.

    Raises:
        ValueError: there is no value, or one is not finite.
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
    `corrected_interval` for the sources. p is 1 if all differences are zero or there is only one,
    and 0 if all are equal and not zero.

    Args:
        differences: (J,) one arm's loss minus the other's, on the same repeat, fold and seed.
        test_share: n_test/n_train; 1/(K − 1) for K folds.
        level: coverage of the interval, from 0 to 1.

    Raises:
        ValueError: there is no difference, or one is not finite.
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
    """The mean and its corrected standard error; the latter is NaN for a single value."""
    mean = math.fsum(array) / len(array)
    if len(array) < 2:
        return mean, math.nan
    if (array == array[0]).all():
        # exact: with a rounded mean the variance would not be 0
        return float(array[0]), 0.0
    return mean, math.sqrt((1 / len(array) + test_share) * float(array.var(ddof=1)))


def holm(p_values: Sequence[float]) -> Floats:
    """p values adjusted for multiple testing: Holm, "A Simple Sequentially Rejective Multiple
    Test Procedure" (1979).

    The i-th smallest becomes the maximum over j ≤ i of min(1, (m − j + 1) · p_(j)). Rejecting the
    hypotheses whose adjusted p is below α limits the probability of any false rejection to α,
    whatever the dependence between the tests.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]

    Returns:
        (m,), in the order given.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def expected_best(
    losses: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """The expected lowest loss of k trials drawn at random, for k = 1 to n, with a band.

    This is the unbiased estimator of Tang et al., "Showing Your Work Doesn't Always Work" (2020),
    for a minimum: the mean over all subsets of k of the n observed losses, Σ_i x_(i) ·
    C(n − i, k − 1) / C(n, k), x_(1) the lowest. (The plug-in estimator of Dodge et al., 2019,
    draws with replacement and is biased.) It is valid for trials that are drawn independently, as
    in random search.

    The band is a percentile bootstrap over the trials. Near k = n it depends on the few best
    trials and is too narrow.

    Args:
        losses: (n,); infinity for a failed trial.
        level: coverage of the band, from 0 to 1.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The curve, the lower and the upper edge of the band, (n,) each. The curve is NaN for k up
        to the number of failed trials, where all k draws can be failures and the expectation does
        not exist; the upper edge is infinite where that happens in a resample.

    Raises:
        ValueError: there is no loss, or NaN or minus infinity among them.
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
    """(…, n) → (…, n): the mean minimum over all subsets of k = 1 to n of the last axis; infinite
    where a subset can consist of infinite losses."""
    count = losses.shape[-1]
    k = np.arange(1, count + 1)
    rank = np.arange(1, count)[:, None]
    # the weights C(n − i, k − 1) / C(n, k): each is the one before it times
    # (n − i − k + 1) / (n − i)
    steps = np.maximum(count - rank - k + 1, 0) / (count - rank)
    weights = np.cumprod(np.vstack([k / count, steps]), axis=0)
    ordered = np.sort(losses, axis=-1)
    failures = np.isinf(ordered).sum(axis=-1, keepdims=True)
    means: Floats = np.where(np.isinf(ordered), 0.0, ordered) @ weights
    return np.where(k <= failures, np.inf, means)
