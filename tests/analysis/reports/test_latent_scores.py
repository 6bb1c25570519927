"""Scores of a code: what is expected by chance, and what training does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from foldrace.analysis.records.latent import latent_of
from foldrace.analysis.reports.latent.maps import Maps
from foldrace.analysis.reports.latent.scores import chance_scores, score_code
from foldrace.analysis.statistics.neighbours import (
    continuity,
    neighbour_recall,
    neighbours,
    trustworthiness,
)
from foldrace.search.sweeps.evidence import Codec
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import Split
from tests.helpers.points import normal


def test_unrelated_points_are_trustworthy_by_chance_alone() -> None:
    original, unrelated = normal(600, 5), normal(600, 2, seed=1)
    expected = chance_scores(600, [10])
    assert expected.trustworthiness == pytest.approx(0.5, abs=0.01)
    assert trustworthiness(original, unrelated) == pytest.approx(
        expected.trustworthiness, abs=0.02
    )
    assert continuity(original, unrelated) == pytest.approx(expected.continuity, abs=0.02)
    kept = neighbour_recall(neighbours(original, 10), neighbours(unrelated, 10), 10)
    assert kept == pytest.approx(expected.recall[10], abs=0.01)


def test_every_score_is_clearly_worse_on_random_weights_than_on_trained_ones() -> None:
    digits = load_digits()
    images = (digits.images[:1000, None] * 15.9375).astype("uint8")
    task = load_task("autoencoder")
    params = task.complete(
        {"latent_dim": 8, "hidden": 64, "batch_size": 32, "lr": 5e-3, "dropout": 0.1}
    )
    everything = np.arange(300, 1000)
    split, options = Split(everything, everything[:0]), TrainingOptions(epochs=15)
    fold = Fold(task, params, Samples.of_images(torch.from_numpy(images)), split, options)

    def scores() -> Any:
        codes = Codec(fold.task, fold.model, params, fold.device, 0).encode(images[:300])
        evidence = {"images": images[:300], "labels": digits.target[:300], "codes": codes}
        return score_code(latent_of(evidence), Maps(()))

    untrained = scores()
    for _ in range(15):
        fold.train_only_epoch()
    trained = scores()
    assert trained.knn["code"] > untrained.knn["code"] + 0.15
    assert trained.probe["code"] > untrained.probe["code"] + 0.15
    better, worse = trained.pixel_neighbourhoods["code"], untrained.pixel_neighbourhoods["code"]
    assert better.recall[10] > worse.recall[10] + 0.15
    assert better.trustworthiness > worse.trustworthiness + 0.1
    assert better.continuity > worse.continuity + 0.05
    assert trained.knn["pixels"] == untrained.knn["pixels"]
