"""The maps that the report draws of a code: which points, which perplexities, which seeds."""

from __future__ import annotations

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
"""The panels' seeds, and whether they start at random."""

_PANEL_POINTS = 1000
_K = 10


@dataclass(frozen=True)
class Map:
    """A map of all images: (N, 2) points.

    Attributes:
        kind: tsne, pca or code.
    """

    kind: str
    title: str
    points: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """A t-SNE map of the panels' images, and the share of the code's ten nearest neighbours that
    it keeps."""

    perplexity: float
    seed: int
    random_start: bool
    points: NDArray[np.float64]
    kept: float


@dataclass(frozen=True)
class Maps:
    """All maps of a code.

    Attributes:
        full: of all images; t-SNE first where there is one.
        panels: by perplexity, then start; of the images ``chosen``.
        chosen: (M,) positions.
        agreement: the mean share of ten nearest neighbours that two panels of one perplexity have
            in common; NaN without panels.
    """

    full: tuple[Map, ...]
    panels: tuple[Panel, ...] = ()
    chosen: NDArray[np.int64] | None = None
    agreement: float = float("nan")

    def of(self, kind: str) -> Map | None:
        """The first map of a kind."""
        return next((found for found in self.full if found.kind == kind), None)


def make_maps(codes: NDArray[np.float32], seed: int = 0) -> Maps:
    """Every map of the codes (N, D) that makes sense: none of t-SNE for codes of one number or for
    a handful of points; no principal components of codes that have two dimensions at most. Codes
    may not all be the same."""
    n, dimension = codes.shape
    plain = [Map("pca", "PCA", principal_components(codes, 2))] if dimension > 2 and n > 2 else []
    if dimension == 2:
        plain = [Map("code", "the code itself", codes.astype(np.float64))]
    if dimension == 1:  # drawn along one axis; the other only spreads the points
        spread = np.random.default_rng(seed).uniform(0, np.ptp(codes) / 3, n)
        return Maps(
            (
                Map(
                    "code",
                    "the code itself",
                    np.stack([codes[:, 0].astype(np.float64), spread], 1),
                ),
            )
        )
    if n < MIN_POINTS:
        return Maps(tuple(plain))
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:_PANEL_POINTS])
    main = allowed_perplexities([MAIN_PERPLEXITY], n)[0]
    jobs = [
        TsneJob(codes[chosen], perplexity, seed + number, random_start)
        for perplexity in allowed_perplexities(PERPLEXITIES, len(chosen))
        for number, random_start in STARTS
    ]
    large = [TsneJob(codes, main, seed)] if len(chosen) < n else []
    points = tsne_maps([*large, *jobs])  # the longest first
    panels, agreement = _panels(jobs, points[len(large) :])
    if large:
        full = [_tsne_map(main, points[0])]
    else:
        full = [_tsne_map(panel.perplexity, panel.points) for panel in panels[:: len(STARTS)]]
        full.sort(key=lambda found: found.title != _title(main))
    return Maps((*full, *plain), panels, chosen, agreement)


def _title(perplexity: float) -> str:
    return f"t-SNE, perplexity {perplexity:g}"


def _tsne_map(perplexity: float, points: NDArray[np.float64]) -> Map:
    return Map("tsne", _title(perplexity), points)


def _panels(
    jobs: list[TsneJob], points: list[NDArray[np.float64]]
) -> tuple[tuple[Panel, ...], float]:
    codes = jobs[0].points
    k = min(_K, len(codes) - 1)
    truth = neighbours(codes, k)
    found = [neighbours(one, k) for one in points]
    panels = tuple(
        Panel(job.perplexity, job.seed, job.random_start, one, neighbour_recall(truth, ours, k))
        for job, one, ours in zip(jobs, points, found, strict=True)
    )
    shared = [
        neighbour_recall(found[one], found[other], k)
        for one, panel in enumerate(panels)
        for other in range(one)
        if panels[other].perplexity == panel.perplexity
    ]
    return panels, float(np.mean(shared)) if shared else float("nan")
