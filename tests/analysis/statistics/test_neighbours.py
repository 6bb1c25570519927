"""Neighbourhoods that a space keeps: brute force, scikit-learn's values, known answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from foldrace.analysis.statistics.neighbours import (
    continuity,
    neighbour_recall,
    neighbours,
    trustworthiness,
)
from foldrace.errors import InputError
from tests.helpers.points import normal, rotation

# --- neighbours ----------------------------------------------------------------------------------


def test_neighbours_are_those_of_brute_force() -> None:
    points = normal(40, 3)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(neighbours(points, 5), np.argsort(distances, axis=1)[:, :5])
    assert np.array_equal(
        neighbours(points, 5, np.array([7, 3])), np.argsort(distances, axis=1)[[7, 3], :5]
    )


def test_a_point_is_never_its_own_neighbour_even_among_equals() -> None:
    found = neighbours(np.zeros((9, 2)), 4)
    assert found.shape == (9, 4)
    assert not (found == np.arange(9)[:, None]).any()


@pytest.mark.parametrize("k", [0, 10])
def test_as_many_neighbours_as_there_are_others_at_most(k: int) -> None:
    with pytest.raises(InputError, match="from 1 to 9"):
        neighbours(normal(10, 2), k)


def test_recall_counts_what_is_kept() -> None:
    truth = np.array([[1, 2, 3], [0, 2, 3]])
    found = np.array([[2, 1, 9], [8, 9, 7]])
    assert neighbour_recall(truth, found, 2) == 0.5
    assert neighbour_recall(truth, found, 3) == pytest.approx(2 / 6)
    assert neighbour_recall(truth, truth, 3) == 1.0


# --- trustworthiness and continuity --------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 12])
def test_trustworthiness_is_scikit_learns(k: int) -> None:
    original, embedded = normal(60, 6), normal(60, 2, seed=1)
    embedded += original[:, :2]
    assert trustworthiness(original, embedded, k) == pytest.approx(
        sklearn_trustworthiness(original, embedded, n_neighbors=k)
    )
    assert continuity(original, embedded, k) == pytest.approx(
        sklearn_trustworthiness(embedded, original, n_neighbors=k)
    )


def test_the_same_points_moved_turned_and_scaled_are_wholly_trustworthy() -> None:
    points = normal(80, 4)
    moved = 3 * points @ rotation(4) + 7
    assert trustworthiness(points, moved) == continuity(points, moved) == 1.0


def test_a_torn_map_is_trustworthy_and_not_continuous_and_a_folded_one_the_reverse() -> None:
    line = np.linspace(0, 1, 200)[:, None]
    circle = np.concatenate([np.cos(2 * np.pi * line), np.sin(2 * np.pi * line)], 1)
    assert trustworthiness(circle, line) > 0.999
    assert continuity(circle, line) < 0.99
    assert continuity(line, circle) > 0.999
    assert trustworthiness(line, circle) < 0.99


def test_some_queries_stand_for_all() -> None:
    original, embedded = normal(500, 4), normal(500, 4)[:, :2]
    some = np.arange(0, 500, 2)
    assert trustworthiness(original, embedded, 10, some) == pytest.approx(
        trustworthiness(original, embedded), abs=0.01
    )


def test_it_takes_more_than_twice_as_many_points_as_neighbours_and_the_same_points() -> None:
    with pytest.raises(InputError, match="less than half of the 20 points"):
        trustworthiness(normal(20, 3), normal(20, 2), 10)
    with pytest.raises(InputError, match="the same points"):
        continuity(normal(20, 3), normal(21, 2), 3)
