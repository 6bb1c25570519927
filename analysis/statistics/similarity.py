"""How similar two codes of the same points are, whatever their rotation, scale and shift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.statistics.neighbours import Points, same_points

__all__ = ["linear_cka", "procrustes_distance"]


def linear_cka(one: Points, other: Points) -> float:
    """Linear centred kernel alignment: 1 for equal codes, near 0 for unrelated ones.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) in Frobenius norms, of centred X and Y: Kornblith et al., "Similarity of
    Neural Network Representations Revisited" (2019), equation 5.

    >>> codes = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(linear_cka(codes, 2 * codes[:, ::-1] + 1), 6)
    1.0

    Args:
        one, other: (N, D) and (N, E).

    Returns:
        From 0 to 1; NaN if a code is constant.

    Raises:
        InputError: the numbers of points differ.
    """
    x, y = _normalised(one, other)
    if x is None or y is None:
        return float("nan")
    return float(np.square(y.T @ x).sum() / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def procrustes_distance(one: Points, other: Points) -> float:
    """What remains between two codes after shift, rotation, reflection and scale: 0 to 1.

    The sum of squares that `scipy.spatial.procrustes` leaves, both codes centred and of norm 1;
    Gower, "Generalized Procrustes analysis" (1975).

    Args:
        one, other: (N, D).

    Returns:
        0 for equal codes, at most 1; NaN if a code is constant.

    Raises:
        InputError: the numbers of points differ.
    """
    from scipy.spatial import procrustes

    x, y = _normalised(one, other)
    return float("nan") if x is None or y is None else float(procrustes(x, y)[2])


def _normalised(
    one: Points, other: Points
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    same_points(one, other)
    return _unit(one), _unit(other)


def _unit(points: Points) -> NDArray[np.float64] | None:
    """The points centred and of Frobenius norm 1; None if all points are the same."""
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    norm = float(np.linalg.norm(centred))
    spread = float(np.abs(points).max(initial=0.0)) * np.sqrt(centred.size)
    return centred / norm if norm > np.finfo(np.float32).eps * spread else None
