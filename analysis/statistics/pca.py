"""The best linear code of a size: what principal components lose of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearCode", "linear_codes"]


@dataclass(frozen=True)
class LinearCode:
    """The best linear code of a size.

    Attributes:
        size: numbers in a code.
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
    """Principal components of images, measured on test images.

    No linear autoencoder with a code of the same size has a lower training error (Baldi and
    Hornik, 1989); a nonlinear one can have.

    Args:
        images: (N, C, H, W), to fit the components on.
        test_images: (M, C, H, W), to measure them on.
        sizes: numbers of components; those above C · H · W are left out.
        shown: how many test images to reconstruct.

    Returns:
        The linear code of each size.
    """
    from sklearn.decomposition import PCA

    # scikit-learn's default may be a randomised solver
    pca = PCA(svd_solver="covariance_eigh").fit(_pixels(images))
    pixels = _pixels(test_images) - pca.mean_
    found = {}
    for size in sizes:
        if size > len(pca.components_):
            continue
        basis = pca.components_[:size]
        reconstructed = pixels @ basis.T @ basis
        errors = np.square(pixels - reconstructed)
        shown_pixels = np.clip(reconstructed[:shown] + pca.mean_, 0, 1) * 255
        found[size] = LinearCode(
            size,
            float(errors.mean(dtype=np.float64)),
            np.rint(shown_pixels).astype(np.uint8).reshape(-1, *test_images.shape[1:]),
        )
    return found


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, C · H · W) in [0, 1]."""
    return np.asarray(images.reshape(len(images), -1) / np.float32(255), np.float32)
