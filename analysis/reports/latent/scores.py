"""Scores of a code and its maps: neighbourhoods, classes, and the agreement between folds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.latent import Latent
from foldrace.analysis.reports.latent.maps import Maps
from foldrace.analysis.statistics.embedding import principal_components
from foldrace.analysis.statistics.neighbours import (
    Points,
    continuity,
    neighbour_recall,
    neighbours,
    trustworthiness,
)
from foldrace.analysis.statistics.probes import knn_accuracy, probe_accuracy
from foldrace.analysis.statistics.similarity import linear_cka, procrustes_distance

__all__ = [
    "CodeScores",
    "FoldAgreement",
    "NeighbourhoodScores",
    "chance_scores",
    "score_code",
]

NEAREST = (10, 20, 30)
"""The numbers of neighbours for which the recall is reported."""

_QUERIES = 1000
_SPACES = ("pixels", "components", "code")


@dataclass(frozen=True)
class NeighbourhoodScores:
    """How well a space keeps the neighbourhoods of another.

    Attributes:
        trustworthiness, continuity: see `foldrace.analysis.statistics.neighbours`.
        recall: by k, the share of the k nearest neighbours that both spaces have.
    """

    trustworthiness: float
    continuity: float
    recall: Mapping[int, float]


@dataclass(frozen=True)
class FoldAgreement:
    """A measure of similarity between the codes of fold models.

    Attributes:
        values: one per pair of folds (or per fold, where each is compared with one space).
        shuffled: the expected value for images in random order.
    """

    values: tuple[float, ...]
    shuffled: float

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return float(np.mean(self.values))


@dataclass(frozen=True)
class CodeScores:
    """The scores of a code, by space or map.

    The spaces are pixels, components (of the pixels, as many as the code has numbers) and code;
    the maps are pca and tsne.

    Attributes:
        k: the number of neighbours, unless a score says otherwise.
        queries: the number of images that trustworthiness and continuity average over.
        pixel_neighbourhoods, code_neighbourhoods: how well each space or map keeps them.
        knn, probe: accuracy of the k-nearest-neighbour classifier and of the linear probe; empty
            without labels.
        agreement: of the fold models, by measure: cka, procrustes, neighbours, and components (CKA
            with the pixels' principal components); empty for fewer than two folds.
    """

    k: int
    queries: int
    pixel_neighbourhoods: Mapping[str, NeighbourhoodScores]
    code_neighbourhoods: Mapping[str, NeighbourhoodScores]
    knn: Mapping[str, float]
    probe: Mapping[str, float]
    agreement: Mapping[str, FoldAgreement]


def score_code(latent: Latent, maps: Maps, seed: int = 0) -> CodeScores:
    """All scores of a code.

    Args:
        latent: three images or more.
        maps: of the code.
        seed: draws the queries and the folds of the probe.
    """
    n = len(latent.codes)
    drawn = np.sort(np.random.default_rng(seed).permutation(n)[:_QUERIES])
    spaces: dict[str, Points] = {
        "pixels": latent.pixels,
        "components": principal_components(latent.pixels, latent.dimension),
        "code": latent.codes,
    }
    if latent.dimension > 1:
        spaces |= {kind: one.points for kind in ("pca", "tsne") if (one := maps.first(kind))}
    counts = [k for k in NEAREST if k < n / 2] or [(n - 1) // 2]
    k = counts[0]
    found = {name: neighbours(points, counts[-1]) for name, points in spaces.items()}

    def kept(truth: str, names: list[str]) -> dict[str, NeighbourhoodScores]:
        return {
            name: NeighbourhoodScores(
                trustworthiness(spaces[truth], spaces[name], k, drawn),
                continuity(spaces[truth], spaces[name], k, drawn),
                {count: neighbour_recall(found[truth], found[name], count) for count in counts},
            )
            for name in names
        }

    knn, probe = {}, {}
    if latent.labels is not None:
        knn = {name: knn_accuracy(ours, latent.labels, k) for name, ours in found.items()}
        probe = {name: probe_accuracy(spaces[name], latent.labels, seed) for name in _SPACES}
    return CodeScores(
        k=k,
        queries=len(drawn),
        pixel_neighbourhoods=kept("pixels", [name for name in spaces if name != "pixels"]),
        code_neighbourhoods=kept("code", [name for name in spaces if name not in _SPACES]),
        knn=knn,
        probe=probe,
        agreement=_agreement(latent.fold_codes, spaces["components"], drawn, k, seed),
    )


def _agreement(
    folds: NDArray[np.float32], components: Points, drawn: NDArray[np.int64], k: int, seed: int
) -> dict[str, FoldAgreement]:
    if len(folds) < 2:
        return {}
    pairs = list(itertools.combinations(folds, 2))
    order = np.random.default_rng(seed).permutation(folds.shape[1])

    def compare(measure: Callable[[Points, Points], float]) -> FoldAgreement:
        shuffled = np.mean([measure(one, other[order]) for one, other in pairs])
        return FoldAgreement(tuple(itertools.starmap(measure, pairs)), float(shuffled))

    cka = compare(linear_cka)
    found = itertools.combinations([neighbours(codes, k, drawn) for codes in folds], 2)
    shared = tuple(neighbour_recall(one, other, k) for one, other in found)
    return {
        "cka": cka,
        "procrustes": compare(procrustes_distance),
        "neighbours": FoldAgreement(shared, k / (folds.shape[1] - 1)),
        "components": FoldAgreement(
            tuple(linear_cka(codes, components) for codes in folds), cka.shuffled
        ),
    }


def chance_scores(n: int, counts: list[int]) -> NeighbourhoodScores:
    """The expected scores of a space whose neighbours are random.

    Args:
        n: number of points.
        counts: numbers of neighbours; trustworthiness and continuity are of the first.
    """
    k = counts[0]
    trusted = 1 - (n - 1 - k) * (n - k) / ((n - 1) * (2 * n - 3 * k - 1))
    return NeighbourhoodScores(trusted, trusted, {count: count / (n - 1) for count in counts})
