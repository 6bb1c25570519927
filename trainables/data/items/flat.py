"""The fields of one item of a map-style data set."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["drawn_from", "named_leaves"]


def named_leaves(item: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and tuples, each by the name of its field.

    Those of a pair are x and y, those of a picture and its class images and labels.

    >>> dict(named_leaves({"pair": (1, 2), "age": 3}))
    {'pair_x': 1, 'pair_y': 2, 'age': 3}
    """
    if isinstance(item, Mapping):
        for key, each in item.items():
            yield from named_leaves(each, f"{prefix}{key}_")
    elif isinstance(item, tuple | list):
        names = [f"field_{index}" for index in range(len(item))]
        if len(item) == 2:
            names = ["images", "labels"] if hasattr(item[0], "getbands") else ["x", "y"]
        for key, each in zip(names, item, strict=True):
            yield from named_leaves(each, f"{prefix}{key}_")
    else:
        yield prefix[:-1] or ("images" if hasattr(item, "getbands") else "x"), item


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """A block in which Python, NumPy and torch draw on the CPU from this seed; then as before.

    Args:
        seed: from 0 to 2³² - 1.
    """
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
