"""Random seeds that depend only on what they are used for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "seeded"]


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) from the names and numbers that identify its use.

    It is the same on every computer and in every version of Python. Different parts give
    unrelated seeds.

    Args:
        parts: for example (sweep seed, fold, epoch, "train").

    >>> derive_seed(0, 1, "train")
    3344726496874183843
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the global generators of torch, NumPy and Python within the block.

    After it their states are as before.

    Args:
        seed: at least 0.
        device: a GPU's generator is seeded too.
    """
    import torch  # here, since most users of this module need no torch

    before, numpy_before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
