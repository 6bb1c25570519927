"""How well the classes of points can be predicted from their coordinates."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.statistics.neighbours import Points

__all__ = ["knn_accuracy", "probe_accuracy"]

_INVERSE_PENALTIES = (0.01, 0.1, 1.0)
_TOLERANCE, _ITERATIONS = 1e-3, 300


def knn_accuracy(found: NDArray[np.int64], labels: NDArray[np.int64], k: int = 10) -> float:
    """The share of points whose class is the most frequent one among their k nearest neighbours.

    This is leave-one-out cross-validation of a k-nearest-neighbour classifier. Among equally
    frequent classes the lowest label counts.

    Args:
        found: (N, at least k) neighbours of all points, from
            `foldrace.analysis.statistics.neighbours.neighbours`. They are computed once and serve
            other measures too, which scikit-learn's classifier does not allow.
        labels: (N,).
    """
    classes, indices = np.unique(labels, return_inverse=True)
    votes = (indices[found[:, :k], None] == np.arange(len(classes))).sum(1)
    return float(np.mean(votes.argmax(1) == indices))


def probe_accuracy(points: Points, labels: NDArray[np.int64], seed: int = 0) -> float:
    """The accuracy of a linear probe, by two-fold stratified cross-validation.

    The probe is multinomial logistic regression on standardised coordinates with an L2 penalty of
    100, 10 or 1, chosen on one half of the training fold, so that spaces of few and of many
    dimensions are treated alike (Alain and Bengio, "Understanding intermediate layers using linear
    classifier probes", 2017).

    Args:
        points: (N, D).
        labels: (N,).
        seed: draws the folds.

    Returns:
        The share of points whose class is predicted; NaN where a fold or the half of one has fewer
        than two classes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    probe = make_pipeline(
        StandardScaler(), LogisticRegression(tol=_TOLERANCE, max_iter=_ITERATIONS)
    )
    halves = _halves(labels, seed)
    correct = 0
    for train in (halves, ~halves):
        inner = _halves(labels[train], seed + 1)
        if min(len(np.unique(labels[train][part])) for part in (inner, ~inner)) < 2:
            return float("nan")
        # a point whose fold is −1 is never validated on
        search = GridSearchCV(
            probe,
            {"logisticregression__C": _INVERSE_PENALTIES},
            cv=PredefinedSplit(inner.astype(int) - 1),
        )
        # the products are small: with more threads BLAS only waits
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            search.fit(points[train], labels[train])
        correct += int((search.predict(points[~train]) == labels[~train]).sum())
    return correct / len(labels)


def _halves(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """(N,): True for a random half of each class."""
    drawn = np.random.default_rng(seed).random(len(labels))
    half = np.zeros(len(labels), bool)
    half[np.lexsort((drawn, labels))[::2]] = True
    return half
