"""The best linear code: scikit-learn's figure, falling with its size, nothing lost with all
components."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from torch import Tensor

from foldrace.analysis.statistics.pca import linear_codes


def test_it_is_scikit_learns(digits: Tensor) -> None:
    images = digits.numpy()
    train, test = images[:200], images[200:]
    reference = PCA(8, svd_solver="full").fit(train.reshape(200, -1) / 255)
    pixels = test.reshape(100, -1) / 255
    error = np.square(pixels - reference.inverse_transform(reference.transform(pixels))).mean()
    found = linear_codes(train, test, [2, 8])
    assert found[8].mse == pytest.approx(error, rel=1e-4)
    assert found[2].mse > found[8].mse
    shown = np.square(found[8].reconstructions / 255 - test[:16] / 255).mean()
    assert shown == pytest.approx(
        np.square(
            pixels[:16]
            - np.clip(reference.inverse_transform(reference.transform(pixels[:16])), 0, 1)
        ).mean(),
        rel=0.02,
    )


def test_all_components_lose_nothing_and_more_there_are_not(digits: Tensor) -> None:
    images = digits.numpy()
    found = linear_codes(images[:200], images[200:], [64, 65])
    assert list(found) == [64]
    assert found[64].mse < 1e-9
