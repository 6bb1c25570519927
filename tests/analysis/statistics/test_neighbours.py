"""Figures of merit of a code: known answers, brute force, other people's implementations; and what
training does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness as sklearn_trustworthiness
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from foldrace.analysis.records.latent import latent_of
from foldrace.analysis.reports.latent.maps import Maps
from foldrace.analysis.reports.latent.merits import chance, measure
from foldrace.analysis.statistics.neighbours import (
    continuity,
    neighbour_recall,
    neighbours,
    trustworthiness,
)
from foldrace.analysis.statistics.probes import knn_accuracy, probe_accuracy
from foldrace.analysis.statistics.similarity import linear_cka, procrustes_distance
from foldrace.errors import InputError
from foldrace.search.sweeps.evidence import Codec
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.splits import Split


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def rotation(size: int, seed: int = 0) -> Any:
    return np.linalg.qr(normal(size, size, seed=seed))[0]


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


def test_unrelated_points_are_trustworthy_by_chance_alone() -> None:
    original, unrelated = normal(600, 5), normal(600, 2, seed=1)
    expected = chance(600, [10])
    assert expected.trustworthiness == pytest.approx(0.5, abs=0.01)
    assert trustworthiness(original, unrelated) == pytest.approx(
        expected.trustworthiness, abs=0.02
    )
    assert continuity(original, unrelated) == pytest.approx(expected.continuity, abs=0.02)
    kept = neighbour_recall(neighbours(original, 10), neighbours(unrelated, 10), 10)
    assert kept == pytest.approx(expected.recall[10], abs=0.01)


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


# --- classes -------------------------------------------------------------------------------------


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


# --- whether codes agree -------------------------------------------------------------------------


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


# --- outcome -------------------------------------------------------------------------------------


def test_every_figure_of_merit_is_clearly_worse_on_random_weights_than_on_trained_ones() -> None:
    digits = load_digits()
    images = (digits.images[:1000, None] * 15.9375).astype("uint8")
    task = load_task("autoencoder")
    params = task.complete(
        {"latent_dim": 8, "hidden": 64, "batch_size": 32, "lr": 5e-3, "dropout": 0.1}
    )
    everything = np.arange(300, 1000)
    split = Split(everything, everything[:0])
    run = Fold(task, params, torch.from_numpy(images), split, TrainingOptions(15))

    def merits() -> Any:
        codes = Codec(run.task, run.model, params, run.device, 0).encode(images[:300])
        evidence = {"images": images[:300], "labels": digits.target[:300], "codes": codes}
        return measure(latent_of(evidence), Maps(()))

    untrained = merits()
    for _ in range(15):
        run.train_only_epoch()
    trained = merits()
    assert trained.knn["code"] > untrained.knn["code"] + 0.15
    assert trained.probe["code"] > untrained.probe["code"] + 0.15
    better, worse = trained.of_pixels["code"], untrained.of_pixels["code"]
    assert better.recall[10] > worse.recall[10] + 0.15
    assert better.trustworthiness > worse.trustworthiness + 0.1
    assert better.continuity > worse.continuity + 0.05
    assert trained.knn["pixels"] == untrained.knn["pixels"]
