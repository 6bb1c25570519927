"""Accuracy of classifiers on a space: scikit-learn's values, and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from foldrace.analysis.statistics.neighbours import neighbours
from foldrace.analysis.statistics.probes import knn_accuracy, probe_accuracy
from tests.helpers.points import normal


def test_knn_accuracy_is_scikit_learns_leave_one_out() -> None:
    labels = np.arange(90) % 3 * 5
    points = normal(90, 2) + labels[:, None] / 6
    oracle = cross_val_score(KNeighborsClassifier(7), points, labels, cv=LeaveOneOut()).mean()
    assert 0.5 < oracle < 1
    assert knn_accuracy(neighbours(points, 10), labels, 7) == pytest.approx(oracle)


def test_a_linear_probe_tells_what_is_linear_and_only_that() -> None:
    points = normal(400, 2)
    linear, parity = points[:, 0] > 0, (points[:, 0] > 0) ^ (points[:, 1] > 0)
    assert probe_accuracy(points, linear.astype(np.int64)) > 0.97
    assert probe_accuracy(points, parity.astype(np.int64)) < 0.65
    assert knn_accuracy(neighbours(points, 10), parity.astype(np.int64)) > 0.9


def test_a_probe_does_not_mind_scale_or_a_pixel_that_never_changes() -> None:
    labels = np.arange(200) % 4
    points = normal(200, 5) + np.eye(5)[labels] * 3
    scaled = np.concatenate([points * [1, 1e4, 1e-4, 1, 1], np.ones((200, 1))], 1)
    assert probe_accuracy(scaled, labels) == pytest.approx(
        probe_accuracy(points, labels), abs=0.01
    )


def test_labels_by_chance_are_predicted_by_chance() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 400)
    assert probe_accuracy(normal(400, 3), labels) == pytest.approx(0.5, abs=0.08)


def test_a_probe_of_one_class_or_too_few_of_two_has_no_accuracy() -> None:
    assert np.isnan(probe_accuracy(normal(20, 2), np.zeros(20, np.int64)))
    assert np.isnan(probe_accuracy(normal(4, 2), np.array([0, 0, 1, 1])))
