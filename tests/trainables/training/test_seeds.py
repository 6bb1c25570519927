"""Seeds depend only on what they are used for, and seeding leaves no trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from foldrace.trainables.training.seeds import derive_seed, seeded


def test_seeds_follow_from_what_they_are_for():
    assert derive_seed(0, 1, "train") == 3344726496874183843
    distinct = [(0, 1), (1, 0), (1,), ("1",), (11,), (1, 1), ("ab", "c"), ("a", "bc"), ("abc",)]
    assert len({derive_seed(*parts) for parts in distinct}) == len(distinct)
    assert all(0 <= derive_seed(i) < 2**63 for i in range(100))


def draw() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


def test_within_the_block_the_seed_decides_and_after_it_nothing_has_changed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = [draw(), draw()]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    outside, inside = [draw()], []
    for seed in (7, 7, 8):
        with seeded(seed, torch.device("cpu")):
            inside.append(draw())
    with pytest.raises(ValueError, match="task"), seeded(7, torch.device("cpu")):
        raise ValueError("from a task")
    outside.append(draw())
    assert inside[0] == inside[1] != inside[2] and outside == expected
