"""Principal components: what the best linear code of the same size loses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearCode", "linear_codes"]

_ROWS = 10_000


@dataclass(frozen=True)
class LinearCode:
    """The best linear code of so many numbers.

    Attributes:
        mse: on the test images, a mean over pixels in [0, 1].
        reconstructions: (n, C, H, W) uint8, of the first test images.
    """

    size: int
    mse: float
    reconstructions: NDArray[np.uint8]


def linear_codes(
    images: NDArray[np.uint8],
    test_images: NDArray[np.uint8],
    sizes: Iterable[int],
    shown: int = 16,
) -> dict[int, LinearCode]:
    """Fits the components on ``images`` (N, C, H, W) by an eigendecomposition of their covariance,
    and measures them on ``test_images``. A linear autoencoder with that many numbers cannot have a
    lower training error (Baldi and Hornik, 1989); one that is not linear can.

    Args:
        sizes: numbers of components; those above the number of pixels are left out.
    """
    mean, vectors = _components(images)
    pixels = test_images.reshape(len(test_images), -1).astype(np.float32) / 255 - mean
    found = {}
    for size in sizes:
        if size > len(vectors):
            continue
        basis = vectors[:, -size:]
        errors, start = 0.0, pixels[:shown] @ basis @ basis.T + mean
        for part in range(0, len(pixels), _ROWS):
            rows = pixels[part : part + _ROWS]
            errors += float(np.square(rows - rows @ basis @ basis.T, dtype=np.float64).sum())
        made = (
            np.rint(np.clip(start, 0, 1) * 255)
            .astype(np.uint8)
            .reshape(-1, *test_images.shape[1:])
        )
        found[size] = LinearCode(size, errors / pixels.size, made)
    return found


def _components(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean (P,) and the eigenvectors of the covariance as columns (P, P), the smallest
    eigenvalue's first."""
    flat = images.reshape(len(images), -1)
    total, products = np.zeros(flat.shape[1]), np.zeros((flat.shape[1],) * 2)
    for part in range(0, len(flat), _ROWS):
        rows = flat[part : part + _ROWS].astype(np.float32) / 255
        total += rows.sum(0, dtype=np.float64)
        products += rows.T @ rows
    mean = total / len(flat)
    covariance = products / len(flat) - np.outer(mean, mean)
    return mean.astype(np.float32), np.linalg.eigh(covariance)[1].astype(np.float32)
