"""Figures of merit of a code and of its maps: which neighbours they keep, what they know of the
classes, how alike the codes of several models are.

Points are (N, D) arrays of real numbers, distances Euclidean; a space may be pixels, a code or a
map in the plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import InputError

__all__ = [
    "Points",
    "continuity",
    "knn_accuracy",
    "linear_cka",
    "neighbour_recall",
    "neighbours",
    "probe_accuracy",
    "procrustes_distance",
    "trustworthiness",
]

Points = NDArray[Any]
"""(N, D) real numbers."""

_BLOCK = 250
_PENALTIES = (0.01, 0.1, 1.0)
_TOLERANCE, _ITERATIONS = 1e-3, 300


def neighbours(
    points: Points, k: int, queries: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """(Q, k) the k nearest other points of each query, the nearest first.

    Args:
        queries: (Q,) positions in ``points``; None: all of them.

    Raises:
        InputError: ``k`` is not between 1 and N - 1.
    """
    from sklearn.neighbors import NearestNeighbors

    if not 1 <= k < len(points):
        raise InputError(
            "k", k, f"must be from 1 to {len(points) - 1}, the number of other points"
        )
    queries = np.arange(len(points)) if queries is None else queries
    index = NearestNeighbors(algorithm="brute").fit(points)
    found = index.kneighbors(points[queries], k + 1, return_distance=False)
    own = found == queries[:, None]
    own[~own.any(1), -1] = (
        True  # among more than k equal points a query need not be among its own nearest
    )
    return np.asarray(found[~own].reshape(len(queries), k), np.int64)


def trustworthiness(
    original: Points, embedded: Points, k: int = 10, queries: NDArray[np.int64] | None = None
) -> float:
    """How far the neighbours in ``embedded`` are neighbours in ``original`` too: 1 if all are,
    about ½ by chance.

    T(k) = 1 - 2 / (Q k (2N - 3k - 1)) · Σ_i Σ_{j ∈ U_k(i)} max(0, r(i, j) - k), where U_k(i) are
    the k nearest of i in ``embedded`` and r(i, j) is the rank of j by its distance from i in
    ``original``; among equal distances, the best rank. Venna and Kaski, "Neighborhood preservation
    in nonlinear projection methods" (2001), equation 1.

    Args:
        queries: (Q,) the points i to average over; None: all. Ranks count all points in any case.

    Raises:
        InputError: ``k`` is not between 1 and N / 2, or the two have not the same points.
    """
    n = len(original)
    _same_points(original, embedded)
    if not 1 <= k < n / 2:
        raise InputError("k", k, f"must be at least 1 and less than half of the {n} points")
    queries = np.arange(n) if queries is None else queries
    excess = _ranks(original, queries, neighbours(embedded, k, queries)) - k
    return 1.0 - 2.0 * float(np.maximum(excess, 0).sum()) / (
        len(queries) * k * (2 * n - 3 * k - 1)
    )


def continuity(
    original: Points, embedded: Points, k: int = 10, queries: NDArray[np.int64] | None = None
) -> float:
    """How far the neighbours in ``original`` are still neighbours in ``embedded``:
    `trustworthiness` with the two exchanged (Venna and Kaski, 2001, equation 2). Raises: as it
    does."""
    return trustworthiness(embedded, original, k, queries)


def _ranks(
    points: Points, queries: NDArray[np.int64], chosen: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(Q, k) the rank (1: nearest) of each chosen point by its distance from the query, among all
    others."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    squares = np.square(centred).sum(1)
    ranks = np.empty(chosen.shape, np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        distances = squares[block, None] + squares[None] - 2 * centred[block] @ centred.T
        distances[np.arange(len(block)), block] = np.inf
        ordered = np.sort(distances, axis=1)
        for row, ours in enumerate(chosen[start : start + _BLOCK]):
            ranks[start + row] = np.searchsorted(ordered[row], distances[row, ours]) + 1
    return ranks


def neighbour_recall(truth: NDArray[np.int64], found: NDArray[np.int64], k: int) -> float:
    """The share of the k nearest neighbours that are kept: the mean of |N_k(i) ∩ N'_k(i)| / k; k /
    (N - 1) by chance.

    Args:
        truth, found: (Q, at least k) of the same queries in two spaces, as `neighbours` gives
            them.
    """
    kept = [
        np.isin(ours, theirs).sum()
        for ours, theirs in zip(found[:, :k], truth[:, :k], strict=True)
    ]
    return float(np.mean(kept)) / k


def knn_accuracy(found: NDArray[np.int64], labels: NDArray[np.int64], k: int = 10) -> float:
    """The share of points whose class most of their k nearest neighbours have: leave-one-out
    cross-validation.

    Args:
        found: (N, at least k) of all points, as `neighbours` gives them; among equally frequent
            classes the first wins.
        labels: (N,).
    """
    classes, indices = np.unique(labels, return_inverse=True)
    votes = (indices[found[:, :k], None] == np.arange(len(classes))).sum(1)
    return float(np.mean(votes.argmax(1) == indices))


def probe_accuracy(points: Points, labels: NDArray[np.int64], seed: int = 0) -> float:
    """The share of points whose class a linear probe tells, two-fold cross-validated and
    stratified.

    The probe is multinomial logistic regression on standardised coordinates with an L2 penalty,
    chosen among 100, 10 and 1 on a half of the training fold, so that spaces of few and of many
    dimensions are treated alike. NaN where a part has fewer than two classes (Alain and Bengio,
    "Understanding intermediate layers using linear classifier probes", 2017).
    """
    halves = _halves(labels, seed)
    correct = 0
    for test in (False, True):
        trained = np.flatnonzero(halves != test)
        inner = _halves(labels[trained], seed + 1)
        if min(len(np.unique(labels[trained][inner == side])) for side in (False, True)) < 2:
            return float("nan")
        scores = [
            np.mean(
                _predict(points, labels, trained[~inner], trained[inner], penalty)
                == labels[trained[inner]]
            )
            for penalty in _PENALTIES
        ]
        held_out = np.flatnonzero(halves == test)
        predicted = _predict(points, labels, trained, held_out, _PENALTIES[int(np.argmax(scores))])
        correct += int((predicted == labels[held_out]).sum())
    return correct / len(labels)


def _halves(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """A random half of each class."""
    drawn = np.random.default_rng(seed).random(len(labels))
    half = np.zeros(len(labels), bool)
    half[np.lexsort((drawn, labels))[::2]] = True
    return half


def _predict(
    points: Points,
    labels: NDArray[np.int64],
    trained: NDArray[np.int64],
    asked: NDArray[np.int64],
    inverse: float,
) -> NDArray[np.int64]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(points[trained])
    probe = LogisticRegression(C=inverse, tol=_TOLERANCE, max_iter=_ITERATIONS)
    with (
        threadpool_limits(1),
        warnings.catch_warnings(),
    ):  # its products are small: more threads only wait
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(scaler.transform(points[trained]), labels[trained])
    return np.asarray(probe.predict(scaler.transform(points[asked])))


def linear_cka(one: Points, other: Points) -> float:
    """How alike two codes of the same points are: 1 if they agree up to rotation, scale and shift,
    near 0 if unrelated.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) in Frobenius norms, of centred X and Y: Kornblith et al., "Similarity of
    Neural Network Representations Revisited" (2019), equation 5. The numbers of dimensions may
    differ. NaN if a code is constant.
    """
    _same_points(one, other)
    x, y = _unit(one), _unit(other)
    if x is None or y is None:
        return float("nan")
    return float(np.square(y.T @ x).sum() / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def procrustes_distance(one: Points, other: Points) -> float:
    """What is left of one code when the other is shifted, rotated, reflected and scaled onto it: 0
    (nothing) to 1.

    1 - ‖YᵀX‖*², the squared nuclear norm, of centred X and Y with ‖X‖ = ‖Y‖ = 1: Gower,
    "Generalized Procrustes analysis" (1975). NaN if a code is constant.
    """
    _same_points(one, other)
    x, y = _unit(one), _unit(other)
    if x is None or y is None:
        return float("nan")
    return max(0.0, 1.0 - float(np.linalg.svd(y.T @ x, compute_uv=False).sum()) ** 2)


def _unit(points: Points) -> NDArray[np.float64] | None:
    """Centred, with a Frobenius norm of 1; None for points that are all the same."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    norm = float(np.linalg.norm(centred))
    spread = float(np.abs(points).max(initial=0.0)) * np.sqrt(centred.size)
    return centred / norm if norm > np.finfo(np.float32).eps * spread else None


def _same_points(one: Points, other: Points) -> None:
    if len(one) != len(other):
        raise InputError(
            "points", f"{len(one)} and {len(other)}", "two spaces must hold the same points"
        )
