"""Similarity of codes: SciPy's values, closed forms, and invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes

from foldrace.analysis.statistics.similarity import linear_cka, procrustes_distance
from tests.helpers.points import normal, rotation


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_turning_scaling_and_moving_a_code_changes_nothing(
    seed: int, scale: float, shift: float
) -> None:
    one, other = normal(50, 4, seed=seed), normal(50, 4, seed=seed + 1)
    moved = scale * other @ rotation(4, seed) + shift
    assert linear_cka(one, moved) == pytest.approx(linear_cka(one, other), abs=1e-6)
    assert procrustes_distance(one, moved) == pytest.approx(
        procrustes_distance(one, other), abs=1e-6
    )
    assert linear_cka(other, moved) == pytest.approx(1)
    assert procrustes_distance(other, moved) == pytest.approx(0, abs=1e-6)


def test_cka_is_the_normalised_hsic_of_linear_kernels() -> None:
    one, other = normal(30, 4), normal(30, 6, seed=1)
    centre = np.eye(30) - 1 / 30

    def hsic(a: Any, b: Any) -> float:
        return float(np.trace(a @ a.T @ centre @ b @ b.T @ centre))

    expected = hsic(one, other) / np.sqrt(hsic(one, one) * hsic(other, other))
    assert linear_cka(one, other) == pytest.approx(expected)


def test_procrustes_is_scipys_disparity() -> None:
    one = normal(40, 3)
    other = one + normal(40, 3, seed=1)
    assert 0.05 < procrustes_distance(one, other) < 0.95
    assert procrustes_distance(one, other) == pytest.approx(procrustes(one, other)[2])


def test_unrelated_codes_hardly_agree() -> None:
    assert linear_cka(normal(2000, 8), normal(2000, 8, seed=1)) < 0.02
    assert procrustes_distance(normal(2000, 8), normal(2000, 8, seed=1)) > 0.98


def test_a_constant_code_agrees_with_nothing() -> None:
    assert np.isnan(linear_cka(normal(10, 2), np.ones((10, 2))))
    assert np.isnan(procrustes_distance(np.full((10, 2), 0.1, np.float32), normal(10, 2)))
