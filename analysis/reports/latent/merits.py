"""Measures a code and its maps: what they keep of the neighbourhoods and the classes, and whether
folds agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
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

__all__ = ["Kept", "Merits", "Stability", "chance", "measure"]

NEAREST = (10, 20, 30)
QUERIES = 1000
_SPACES = ("pixels", "components", "code")


@dataclass(frozen=True)
class Kept:
    """What one space keeps of the neighbourhoods of another: the recall by number of
    neighbours."""

    trustworthiness: float
    continuity: float
    recall: Mapping[int, float]


@dataclass(frozen=True)
class Stability:
    """How alike the codes of the fold models are, a number a pair; ``shuffled``: after shuffling
    one of the two.

    Attributes:
        cka, procrustes, shared: of each pair; shared: of the k nearest neighbours.
        components: linear CKA of each fold's code with the pixels' principal components.
    """

    cka: tuple[float, ...]
    procrustes: tuple[float, ...]
    shared: tuple[float, ...]
    components: tuple[float, ...]
    shuffled_cka: float
    shuffled_procrustes: float
    shuffled_shared: float


@dataclass(frozen=True)
class Merits:
    """Figures of merit by space: pixels, components (of pixels, as many as the code has), code;
    and maps: pca, tsne.

    Attributes:
        k: neighbours that a figure counts unless it says otherwise.
        of_pixels, of_code: what each space or map keeps of them.
        knn, probe: accuracy by space; empty without labels.
        stability: None for fewer than two folds.
    """

    k: int
    queries: int
    of_pixels: Mapping[str, Kept]
    of_code: Mapping[str, Kept]
    knn: Mapping[str, float]
    probe: Mapping[str, float]
    stability: Stability | None


def measure(latent: Latent, maps: Maps, seed: int = 0) -> Merits:
    """All figures of merit. For three images or more."""
    n = len(latent.codes)
    drawn = np.sort(np.random.default_rng(seed).permutation(n)[:QUERIES])
    spaces: dict[str, Points] = {
        "pixels": latent.pixels,
        "components": principal_components(latent.pixels, latent.dimension),
        "code": latent.codes,
    }
    if latent.dimension > 1:
        spaces |= {kind: one.points for kind in ("pca", "tsne") if (one := maps.of(kind))}
    counts = [k for k in NEAREST if k < n / 2] or [(n - 1) // 2]
    found = {name: neighbours(points, counts[-1]) for name, points in spaces.items()}

    def kept(truth: str, names: list[str]) -> dict[str, Kept]:
        return {
            name: Kept(
                trustworthiness(spaces[truth], spaces[name], counts[0], drawn),
                continuity(spaces[truth], spaces[name], counts[0], drawn),
                {k: neighbour_recall(found[truth], found[name], k) for k in counts},
            )
            for name in names
        }

    knn, probe = {}, {}
    if latent.labels is not None:
        knn = {name: knn_accuracy(ours, latent.labels, counts[0]) for name, ours in found.items()}
        probe = {name: probe_accuracy(spaces[name], latent.labels, seed) for name in _SPACES}
    of_pixels = kept("pixels", [name for name in spaces if name != "pixels"])
    of_code = kept("code", [name for name in spaces if name not in _SPACES])
    stability = _stability(latent.fold_codes, spaces["components"], drawn, counts[0], seed)
    return Merits(counts[0], len(drawn), of_pixels, of_code, knn, probe, stability)


def _stability(
    folds: NDArray[np.float32], components: Points, drawn: NDArray[np.int64], k: int, seed: int
) -> Stability | None:
    if len(folds) < 2:
        return None
    pairs = list(itertools.combinations(range(len(folds)), 2))
    found = [neighbours(codes, k, drawn) for codes in folds]
    order = np.random.default_rng(seed).permutation(folds.shape[1])
    shuffled = [(folds[a], folds[b][order]) for a, b in pairs]
    return Stability(
        cka=tuple(linear_cka(folds[a], folds[b]) for a, b in pairs),
        procrustes=tuple(procrustes_distance(folds[a], folds[b]) for a, b in pairs),
        shared=tuple(neighbour_recall(found[a], found[b], k) for a, b in pairs),
        components=tuple(linear_cka(codes, components) for codes in folds),
        shuffled_cka=float(np.mean([linear_cka(*pair) for pair in shuffled])),
        shuffled_procrustes=float(np.mean([procrustes_distance(*pair) for pair in shuffled])),
        shuffled_shared=k / (folds.shape[1] - 1),
    )


def chance(n: int, counts: list[int]) -> Kept:
    """What is expected of a space whose neighbours are drawn at random among ``n`` points."""
    k = counts[0]
    trusted = 1 - (n - 1 - k) * (n - k) / ((n - 1) * (2 * n - 3 * k - 1))
    return Kept(trusted, trusted, {count: count / (n - 1) for count in counts})
