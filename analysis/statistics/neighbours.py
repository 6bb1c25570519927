"""How well a space keeps the nearest neighbours of another space.

A space is an array (N, D) of N points: pixels, codes, or a map in the plane. Distances are
Euclidean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import InputError

__all__ = [
    "Points",
    "continuity",
    "neighbour_recall",
    "neighbours",
    "trustworthiness",
]

Points = NDArray[Any]
"""(N, D) real numbers."""

Indices = NDArray[np.int64]

_BLOCK = 250


def neighbours(points: Points, k: int, queries: Indices | None = None) -> Indices:
    """The k nearest other points of each query, the nearest first.

    >>> neighbours(np.array([[0.0], [1.0], [3.0]]), 2).tolist()
    [[1, 2], [0, 2], [1, 0]]

    Args:
        points: (N, D).
        k: from 1 to N − 1.
        queries: (Q,) indices of points; None: all points.

    Returns:
        (Q, k) indices of points.

    Raises:
        InputError: ``k`` is out of its range.
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
    # among more than k equal points, a query can be missing from its own k + 1 nearest
    own[~own.any(1), -1] = True
    return np.asarray(found[~own].reshape(len(queries), k), np.int64)


def trustworthiness(
    original: Points, embedded: Points, k: int = 10, queries: Indices | None = None
) -> float:
    """How many neighbours in ``embedded`` are neighbours in ``original`` too: 1 for all, about ½
    for random points.

    T(k) = 1 − 2 / (Q k (2N − 3k − 1)) · Σ_i Σ_{j ∈ U_k(i)} max(0, r(i, j) − k). U_k(i) are the k
    nearest of i in ``embedded``; r(i, j) is the rank of j by its distance from i in ``original``,
    the lowest rank among equal distances. Venna and Kaski, "Neighborhood preservation in nonlinear
    projection methods" (2001), equation 1.

    scikit-learn's function of this name gives the same value. It holds several N × N arrays, 2 GB
    for 10,000 points, and cannot average over some of the points.

    Args:
        original, embedded: (N, D) and (N, E), the same points.
        k: at least 1 and less than N / 2.
        queries: (Q,) the points i to average over; None: all. Ranks are among all points.

    Raises:
        InputError: ``k`` is out of its range, or the numbers of points differ.
    """
    n = len(original)
    same_points(original, embedded)
    if not 1 <= k < n / 2:
        raise InputError("k", k, f"must be at least 1 and less than half of the {n} points")
    queries = np.arange(n) if queries is None else queries
    excess = _ranks(original, queries, neighbours(embedded, k, queries)) - k
    return 1.0 - 2.0 * float(np.maximum(excess, 0).sum()) / (
        len(queries) * k * (2 * n - 3 * k - 1)
    )


def continuity(
    original: Points, embedded: Points, k: int = 10, queries: Indices | None = None
) -> float:
    """How many neighbours in ``original`` are neighbours in ``embedded`` too.

    This is `trustworthiness` with the two spaces exchanged (Venna and Kaski, 2001, equation 2),
    with the same arguments and errors.
    """
    return trustworthiness(embedded, original, k, queries)


def _ranks(points: Points, queries: Indices, chosen: Indices) -> Indices:
    """(Q, k): the rank of each chosen point by its distance from the query, 1 for the nearest."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    squares = np.square(centred).sum(1)
    ranks = np.empty(chosen.shape, np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        distances = squares[block, None] + squares - 2 * centred[block] @ centred.T
        distances[np.arange(len(block)), block] = np.inf
        ordered = np.sort(distances, axis=1)
        for row, others in enumerate(chosen[start : start + _BLOCK]):
            ranks[start + row] = np.searchsorted(ordered[row], distances[row, others]) + 1
    return ranks


def neighbour_recall(truth: Indices, found: Indices, k: int) -> float:
    """The share of the k nearest neighbours that two spaces have in common.

    The mean of |N_k(i) ∩ N'_k(i)| / k over the queries i; k / (N − 1) is expected by chance.

    >>> neighbour_recall(np.array([[1, 2, 3]]), np.array([[2, 1, 9]]), 2)
    1.0

    Args:
        truth, found: (Q, at least k), from `neighbours` with the same queries.
    """
    common = truth[:, :k, None] == found[:, None, :k]
    return float(common.sum((1, 2)).mean()) / k


def same_points(one: Points, other: Points) -> None:
    """Checks that two spaces hold equally many points.

    Raises:
        InputError: they do not.
    """
    if len(one) != len(other):
        raise InputError(
            "points", f"{len(one)} and {len(other)}", "two spaces must hold the same points"
        )
