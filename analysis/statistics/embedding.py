"""Maps of many-dimensional points in the plane: principal components and t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.statistics.neighbours import Points
from foldrace.errors import InputError

__all__ = ["SMALLEST", "TsneJob", "capped", "principal_components", "tsne", "tsne_maps"]

SMALLEST = 16
"""Fewer points than this make no t-SNE map."""

_EXAGGERATION, _EXAGGERATED, _PLAIN = 12, 250, 500
_ANGLE = 0.8
_START, _JITTER = 1e-4, 0.01


@dataclass(frozen=True)
class TsneJob:
    """One t-SNE map to make: the arguments of `tsne`."""

    points: Points
    perplexity: float
    seed: int = 0
    random_start: bool = False


def principal_components(points: Points, count: int) -> NDArray[np.float64]:
    """(N, D) → (N, count), each point's scores on the first principal components; fewer where D or
    N is smaller."""
    from sklearn.decomposition import PCA

    count = min(count, *points.shape)
    solver = "covariance_eigh" if points.shape[1] <= len(points) else "full"
    scores: NDArray[np.float64] = PCA(count, svd_solver=solver).fit_transform(
        points.astype(np.float64)
    )
    return scores


def capped(perplexities: Sequence[float], n: int) -> tuple[float, ...]:
    """The perplexities that ``n`` points allow, a third of them at most, in order and each
    once."""
    return tuple(
        sorted({min(float(perplexity), float((n - 1) // 3)) for perplexity in perplexities})
    )


def tsne(
    points: Points, perplexity: float, seed: int = 0, *, random_start: bool = False
) -> NDArray[np.float64]:
    """(N, D) → (N, 2): van der Maaten and Hinton's t-SNE (2008), by openTSNE, Barnes-Hut
    approximation.

    Started from the first two principal components, scaled to a standard deviation of 1e-4 (Kobak
    and Berens, "The art of using t-SNE for single-cell transcriptomics", 2019); 250 steps with an
    exaggeration of 12 at a learning rate of N / 12, then 500 plain ones at N (Belkina et al.,
    "Automated optimized parameters for t-SNE", 2019: N over the exaggeration). One thread; the
    same result every time.

    Args:
        seed: draws what is added to the start, a hundredth of its spread.
        random_start: start from Gaussian noise of the same spread, drawn with the seed, instead of
            the components.

    Raises:
        InputError: fewer than `SMALLEST` points, points that are all the same, or a perplexity
            that N does not allow.
    """
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

    if len(points) < SMALLEST:
        raise InputError("points", len(points), f"t-SNE needs at least {SMALLEST}")
    if not 1 <= perplexity <= (len(points) - 1) / 3:
        raise InputError(
            "perplexity", perplexity, f"must be from 1 to (N - 1) / 3 for N = {len(points)} points"
        )
    points = points.astype(np.float64)
    affinities = PerplexityBasedNN(
        points, perplexity=perplexity, method="exact", n_jobs=1, random_state=seed
    )
    embedding = TSNEEmbedding(
        _start(points, seed, random_start),
        affinities,
        negative_gradient_method="bh",
        theta=_ANGLE,
        n_jobs=1,
        random_state=seed,
    )
    embedding = embedding.optimize(_EXAGGERATED, exaggeration=_EXAGGERATION, momentum=0.8)
    return np.array(embedding.optimize(_PLAIN, momentum=0.8), np.float64)


def _start(points: Points, seed: int, random_start: bool) -> NDArray[np.float64]:
    if float(points.std(0).max()) <= np.finfo(np.float32).eps * float(np.abs(points).max()):
        raise InputError("points", "all the same", "there is nothing to map")
    start = np.random.default_rng(seed).normal(0, 1 if random_start else _JITTER, (len(points), 2))
    if not random_start:
        scores = principal_components(points, 2)
        start[:, : scores.shape[1]] += scores / scores[:, 0].std()
    return start * _START


def tsne_maps(jobs: Sequence[TsneJob], workers: int = 2) -> list[NDArray[np.float64]]:
    """The maps of all jobs, two at a time: openTSNE lets go of the interpreter, and two maps on a
    thread each gain more than one map on two threads. Give the largest job first. Raises: as
    `tsne`."""
    from threadpoolctl import threadpool_limits

    # each search for neighbours limits BLAS to one thread for itself, and the first to end would
    # lift the other's limit
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_run, jobs))


def _run(job: TsneJob) -> NDArray[np.float64]:
    return tsne(job.points, job.perplexity, job.seed, random_start=job.random_start)
