"""Maps in the plane: principal components and t-SNE, by what they keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from foldrace.analysis.reports.latent.maps import make_maps
from foldrace.analysis.statistics.embedding import (
    TsneJob,
    allowed_perplexities,
    principal_components,
    tsne,
    tsne_maps,
)
from foldrace.analysis.statistics.neighbours import neighbour_recall, neighbours
from foldrace.analysis.statistics.probes import knn_accuracy
from foldrace.errors import InputError


def blobs(count: int = 20, seed: int = 0) -> tuple[Any, Any]:
    """Three groups, far apart, in ten dimensions."""
    labels = np.arange(3 * count) % 3
    random = np.random.default_rng(seed)
    return (random.normal(size=(3 * count, 10)) + 8 * np.eye(10)[labels]).astype(
        np.float32
    ), labels


def test_principal_components_hold_the_largest_variances_and_are_uncorrelated() -> None:
    points = np.random.default_rng(0).normal(size=(300, 5)) * [5, 1, 0.5, 3, 0.1]
    scores = principal_components(points, 2)
    eigenvalues = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    assert np.cov(scores.T) == pytest.approx(np.diag(eigenvalues[:2]), abs=1e-9)


def test_there_are_no_more_components_than_dimensions_or_points() -> None:
    assert principal_components(np.eye(6)[:, :3], 9).shape == (6, 3)
    assert principal_components(np.eye(50)[:4], 9).shape == (4, 4)


def test_t_sne_keeps_neighbours_and_groups() -> None:
    points, labels = blobs()
    embedded = tsne(points, 10)
    assert embedded.shape == (60, 2)
    assert knn_accuracy(neighbours(embedded, 10), labels) == 1.0


def test_t_sne_keeps_more_neighbours_than_principal_components() -> None:
    codes = load_digits().data[:300]
    truth = neighbours(codes, 10)

    def kept(points: Any) -> float:
        return neighbour_recall(truth, neighbours(points, 10), 10)

    assert kept(tsne(codes, 30)) > kept(principal_components(codes, 2)) + 0.2


def test_the_same_seed_gives_the_same_map_and_threads_change_nothing() -> None:
    points, _ = blobs()
    jobs = [TsneJob(points, 10, seed) for seed in (0, 0, 1)] + [
        TsneJob(points, 10, 0, random_start=True)
    ]
    one, again, other, elsewhere = tsne_maps(jobs)
    assert np.array_equal(one, again) and np.array_equal(one, tsne(points, 10))
    assert not np.array_equal(one, other) and not np.array_equal(one, elsewhere)


def test_codes_of_one_number_are_laid_out_too() -> None:
    assert np.isfinite(tsne(np.linspace(0, 1, 40)[:, None], 5)).all()


def test_the_number_of_points_limits_the_perplexities() -> None:
    assert allowed_perplexities((100, 10, 30), 10_000) == (10, 30, 100)
    assert allowed_perplexities((10, 30, 100), 180) == (10, 30, 59)
    assert allowed_perplexities((10, 30, 100), 40) == (10, 13)


@pytest.mark.parametrize(
    ("points", "perplexity", "said"),
    [
        (np.eye(10), 2, "at least 16"),
        (np.eye(40), 30, "N = 40"),
        (np.ones((40, 3)), 5, "nothing to map"),
    ],
)
def test_what_cannot_be_mapped_is_refused(points: Any, perplexity: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        tsne(points, perplexity)


def test_what_is_mapped_depends_on_the_dimensions_and_the_number_of_images() -> None:
    points, _ = blobs(16)
    kinds = {
        name: [shown.kind for shown in make_maps(codes).full]
        for name, codes in {
            "many dimensions": points,
            "two": points[:, :2],
            "one": points[:, :1],
            "few images": points[:10],
        }.items()
    }
    assert kinds == {
        "many dimensions": ["tsne", "tsne", "pca"],
        "two": ["tsne", "tsne", "code"],
        "one": ["code"],
        "few images": ["pca"],
    }


def test_panels_start_from_components_twice_and_once_from_noise() -> None:
    points, _ = blobs(16)
    maps = make_maps(points)
    assert [(panel.perplexity, panel.seed, panel.random_start) for panel in maps.panels[:3]] == [
        (10, 0, False),
        (10, 1, False),
        (10, 2, True),
    ]
    assert all(0 < panel.recall <= 1 for panel in maps.panels)
    assert np.array_equal(maps.full[1].points, maps.panels[0].points)
