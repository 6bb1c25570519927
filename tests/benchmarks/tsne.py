"""Compares t-SNE implementations by quality and time.

``python -m tests.benchmarks.tsne EVIDENCE.npz``: all start from the same principal components with
the same schedule: 250 steps with early exaggeration and 500 without, on one thread. The divergence
is computed exactly, over all pairs, also for the methods that approximate it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.statistics.embedding import principal_components, tsne
from foldrace.analysis.statistics.neighbours import Points, neighbour_recall, neighbours

__all__ = ["main"]

PERPLEXITY = 30
_BLOCK = 500


def open_tsne(codes: Points, method: str, angle: float) -> NDArray[np.float64]:
    """openTSNE with its own learning rate, N over the exaggeration."""
    from openTSNE import TSNE

    made = TSNE(
        perplexity=PERPLEXITY,
        initialization=_start(codes),
        negative_gradient_method=method,
        theta=angle,
        neighbors="exact",
        n_iter=500,
        n_jobs=1,
        random_state=0,
    )
    return np.asarray(made.fit(codes))


def scikit_learn(codes: Points, angle: float) -> NDArray[np.float64]:
    """scikit-learn's, with its own learning rate; it counts N / 12 as N / 48."""
    from sklearn.manifold import TSNE

    made = TSNE(
        perplexity=PERPLEXITY,
        init=_start(codes),
        angle=angle,
        max_iter=750,
        n_jobs=1,
        random_state=0,
    )
    return np.asarray(made.fit_transform(codes))


def divergence(affinities: Any, points: NDArray[np.float64]) -> float:
    """KL(P ‖ Q) in nats, with the Student kernel's normaliser over all pairs."""
    total = -float(len(points))
    for start in range(0, len(points), _BLOCK):
        distances = np.square(points[start : start + _BLOCK, None] - points[None]).sum(-1)
        total += float((1 / (1 + distances)).sum())
    q = 1 / (1 + np.square(points[affinities.row] - points[affinities.col]).sum(1)) / total
    p = affinities.data / affinities.data.sum()
    return float((p * np.log(p / q)).sum())


def _start(codes: Points) -> NDArray[np.float32]:
    scores = principal_components(codes, 2)
    return np.asarray(scores / scores[:, 0].std() * 1e-4, np.float32)


def main() -> None:
    """Prints for each method CPU seconds, divergence, and the share of ten neighbours kept."""
    from openTSNE.affinity import PerplexityBasedNN
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Compares t-SNE methods on the codes of a refit.")
    parser.add_argument("evidence", help="the refit's evidence.npz")
    parser.add_argument("--limit", type=int, help="use only the first N codes")
    asked = parser.parse_args()
    codes = np.load(asked.evidence)["codes"][: asked.limit].astype(np.float32)
    affinities = PerplexityBasedNN(
        codes.astype(np.float64), perplexity=PERPLEXITY, method="exact"
    ).P.tocoo()
    truth = neighbours(codes, 10)
    methods: dict[str, Callable[[Points], NDArray[np.float64]]] = {
        "this report's": partial(tsne, perplexity=PERPLEXITY),
        "openTSNE, Barnes-Hut, angle 0.8": partial(open_tsne, method="bh", angle=0.8),
        "openTSNE, Barnes-Hut, angle 0.5": partial(open_tsne, method="bh", angle=0.5),
        "openTSNE, FFT": partial(open_tsne, method="fft", angle=0.5),
        "scikit-learn, angle 0.8": partial(scikit_learn, angle=0.8),
        "scikit-learn, angle 0.5": partial(scikit_learn, angle=0.5),
    }
    for name, method in methods.items():
        with threadpool_limits(1):
            started = time.process_time()
            points = method(codes)
            spent = time.process_time() - started
        kept = neighbour_recall(truth, neighbours(points, 10), 10)
        print(
            f"{name:32} {spent:6.1f} s  KL {divergence(affinities, points):.3f}  kept"
            f" {100 * kept:.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
