"""Random points and rotations."""

from __future__ import annotations

from typing import Any

import numpy as np


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def rotation(size: int, seed: int = 0) -> Any:
    return np.linalg.qr(normal(size, size, seed=seed))[0]
