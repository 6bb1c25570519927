"""One thread for every test, and small pictures to train on."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that tests start inherit it

import pytest


@pytest.fixture(scope="session")
def digits():
    """(300, 1, 8, 8) uint8: scikit-learn's handwritten digits. Not to be written to."""
    import torch
    from sklearn.datasets import load_digits

    return torch.from_numpy((load_digits().images[:300, None] * 15.9375).astype("uint8"))
