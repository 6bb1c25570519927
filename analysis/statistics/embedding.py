"""Maps of many-dimensional points in the plane: principal components and t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.statistics.neighbours import Points
from foldrace.errors import InputError

__all__ = [
    "MIN_POINTS",
    "TsneJob",
    "allowed_perplexities",
    "principal_components",
    "tsne",
    "tsne_maps",
]

MIN_POINTS = 16
"""The fewest points that t-SNE can map."""

_EXAGGERATION, _EXAGGERATED_STEPS, _PLAIN_STEPS = 12, 250, 500
_ANGLE = 0.8
_START_DEVIATION, _JITTER = 1e-4, 0.01


@dataclass(frozen=True)
class TsneJob:
    """The arguments of one call of `tsne`."""

    points: Points
    perplexity: float
    seed: int = 0
    random_start: bool = False


def principal_components(points: Points, count: int) -> NDArray[np.float64]:
    """The scores of points on their first principal components.

    Args:
        points: (N, D).
        count: components; at most the smaller of N and D are computed.

    Returns:
        (N, count).
    """
    from sklearn.decomposition import PCA

    count = min(count, *points.shape)
    solver = "covariance_eigh" if points.shape[1] <= len(points) else "full"
    scores: NDArray[np.float64] = PCA(count, svd_solver=solver).fit_transform(
        points.astype(np.float64)
    )
    return scores


def allowed_perplexities(perplexities: Sequence[float], n: int) -> tuple[float, ...]:
    """Perplexities limited to (n − 1) / 3, which is the most for ``n`` points: sorted, each once.

    >>> allowed_perplexities((10, 30, 100), 180)
    (10.0, 30.0, 59.0)
    """
    limit = float((n - 1) // 3)
    return tuple(sorted({min(float(perplexity), limit) for perplexity in perplexities}))


def tsne(
    points: Points, perplexity: float, seed: int = 0, *, random_start: bool = False
) -> NDArray[np.float64]:
    """The t-SNE map of points (van der Maaten and Hinton, 2008), by openTSNE with the Barnes-Hut
    approximation, on one thread. The same arguments give the same map.

    The start is the first two principal components, scaled to a standard deviation of 1e-4 (Kobak
    and Berens, "The art of using t-SNE for single-cell transcriptomics", 2019). 250 steps with an
    exaggeration of 12 and a learning rate of N / 12 are followed by 500 steps without exaggeration
    and a learning rate of N (Belkina et al., "Automated optimized parameters for t-SNE", 2019).

    Args:
        points: (N, D), N at least `MIN_POINTS`.
        perplexity: from 1 to (N − 1) / 3.
        seed: of the noise that is added to the start, a hundredth of its standard deviation.
        random_start: start from Gaussian noise of the same standard deviation, without the
            principal components.

    Returns:
        (N, 2).

    Raises:
        InputError: too few points, equal points, or a perplexity that is out of its range.
    """
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN

    if len(points) < MIN_POINTS:
        raise InputError("points", len(points), f"t-SNE needs at least {MIN_POINTS}")
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
    embedding = embedding.optimize(_EXAGGERATED_STEPS, exaggeration=_EXAGGERATION, momentum=0.8)
    return np.array(embedding.optimize(_PLAIN_STEPS, momentum=0.8), np.float64)


def _start(points: Points, seed: int, random_start: bool) -> NDArray[np.float64]:
    if float(points.std(0).max()) <= np.finfo(np.float32).eps * float(np.abs(points).max()):
        raise InputError("points", "all the same", "there is nothing to map")
    start = np.random.default_rng(seed).normal(0, 1 if random_start else _JITTER, (len(points), 2))
    if not random_start:
        scores = principal_components(points, 2)
        start[:, : scores.shape[1]] += scores / scores[:, 0].std()
    return start * _START_DEVIATION


def tsne_maps(jobs: Sequence[TsneJob], workers: int = 2) -> list[NDArray[np.float64]]:
    """The maps of all jobs, each on one thread, several at a time.

    openTSNE releases the GIL, and two maps on a thread each take less time than one after the
    other on two threads.

    Args:
        jobs: the largest first, so that no thread has to wait for it at the end.
        workers: threads.

    Raises:
        InputError: as `tsne`.
    """
    from threadpoolctl import threadpool_limits

    # Each search for neighbours sets BLAS to one thread and resets it at its end, which would
    # lift the limit of a search in the other thread.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda job: tsne(**vars(job)), jobs))
