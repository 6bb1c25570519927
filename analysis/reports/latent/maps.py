"""The maps of a code that the report shows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.statistics.embedding import (
    MIN_POINTS,
    TsneJob,
    allowed_perplexities,
    principal_components,
    tsne_maps,
)
from foldrace.analysis.statistics.neighbours import neighbour_recall, neighbours

__all__ = ["STARTS", "Map", "Maps", "Panel", "make_maps"]

MAIN_PERPLEXITY = 30.0
PERPLEXITIES = (10.0, 30.0, 100.0)
STARTS = ((0, False), (1, False), (2, True))
"""The seeds of the panels, and whether they start at random."""

_PANEL_POINTS = 1000
_K = 10


@dataclass(frozen=True)
class Map:
    """A map of all images.

    Attributes:
        kind: tsne, pca or code.
        title: for a list of maps.
        points: (N, 2).
    """

    kind: str
    title: str
    points: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """A t-SNE map of the images ``Maps.chosen``.

    Attributes:
        perplexity, seed, random_start: see `foldrace.analysis.statistics.embedding.tsne`.
        points: (M, 2).
        recall: the share of ten nearest neighbours in the code that the map keeps.
    """

    perplexity: float
    seed: int
    random_start: bool
    points: NDArray[np.float64]
    recall: float


@dataclass(frozen=True)
class Maps:
    """All maps of a code.

    Attributes:
        full: of all images; t-SNE first where there is one.
        panels: by perplexity, then by start.
        chosen: (M,) the images of the panels.
        agreement: the mean share of ten nearest neighbours that two panels of one perplexity have
            in common; NaN without panels.
    """

    full: tuple[Map, ...]
    panels: tuple[Panel, ...] = ()
    chosen: NDArray[np.int64] | None = None
    agreement: float = float("nan")

    def first(self, kind: str) -> Map | None:
        """The first map of a kind."""
        return next((found for found in self.full if found.kind == kind), None)


def make_maps(codes: NDArray[np.float32], seed: int = 0) -> Maps:
    """The maps that suit a code.

    Codes of one number are drawn along one axis, codes of two numbers as they are, longer codes by
    PCA. For codes of two numbers or more there are also t-SNE maps, if there are at least
    `foldrace.analysis.statistics.embedding.MIN_POINTS` images.

    Args:
        codes: (N, D), not all the same.
        seed: draws the images of the panels, and seeds t-SNE.
    """
    n, dimension = codes.shape
    plain: list[Map] = []
    if dimension == 1:
        # the second coordinate only spreads the points
        spread = np.random.default_rng(seed).uniform(0, np.ptp(codes) / 3, n)
        points = np.stack([codes[:, 0].astype(np.float64), spread], 1)
        return Maps((Map("code", "the code itself", points),))
    if dimension == 2:
        plain = [Map("code", "the code itself", codes.astype(np.float64))]
    elif n > 2:
        plain = [Map("pca", "PCA", principal_components(codes, 2))]
    return _with_tsne(codes, plain, seed) if n >= MIN_POINTS else Maps(tuple(plain))


def _with_tsne(codes: NDArray[np.float32], plain: list[Map], seed: int) -> Maps:
    n = len(codes)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:_PANEL_POINTS])
    main = allowed_perplexities([MAIN_PERPLEXITY], n)[0]
    jobs = [
        TsneJob(codes[chosen], perplexity, seed + number, random_start)
        for perplexity in allowed_perplexities(PERPLEXITIES, len(chosen))
        for number, random_start in STARTS
    ]
    large = [TsneJob(codes, main, seed)] if len(chosen) < n else []
    points = tsne_maps([*large, *jobs])
    panels, agreement = _panels(jobs, points[len(large) :])
    if large:
        full = [_tsne_map(main, points[0])]
    else:
        # the panels show all images, so their first starts serve as maps; the main one first
        firsts = sorted(panels[:: len(STARTS)], key=lambda panel: panel.perplexity != main)
        full = [_tsne_map(panel.perplexity, panel.points) for panel in firsts]
    return Maps((*full, *plain), panels, chosen, agreement)


def _tsne_map(perplexity: float, points: NDArray[np.float64]) -> Map:
    return Map("tsne", f"t-SNE, perplexity {perplexity:g}", points)


def _panels(
    jobs: list[TsneJob], points: list[NDArray[np.float64]]
) -> tuple[tuple[Panel, ...], float]:
    """The panels, and the agreement between those of one perplexity."""
    codes = jobs[0].points
    k = min(_K, len(codes) - 1)
    truth = neighbours(codes, k)
    found = [neighbours(one, k) for one in points]
    panels = tuple(
        Panel(job.perplexity, job.seed, job.random_start, one, neighbour_recall(truth, ours, k))
        for job, one, ours in zip(jobs, points, found, strict=True)
    )
    shared = [
        neighbour_recall(ours, theirs, k)
        for (one, theirs), (other, ours) in itertools.combinations(
            zip(jobs, found, strict=True), 2
        )
        if one.perplexity == other.perplexity
    ]
    return panels, float(np.mean(shared)) if shared else float("nan")
