"""Ladders rise from the grace epochs to all folds and epochs; at each aligned point one rises."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldrace.trainables.training.ladder import (
    Rung,
    aligned_points,
    default_ladder,
    lockstep_ladder,
)
from tests.helpers.racing import ladders

SIZES = {
    "epochs": st.integers(1, 50),
    "folds": st.integers(1, 10),
    "reduction_factor": st.floats(1.1, 10) | st.sampled_from([1.1, 2.0, 3.0, 4.0, 10.0]),
    "grace_epochs": st.integers(1, 60),
}


def rises(ladder: tuple[Rung, ...]) -> bool:
    return all(a.folds <= b.folds and a.epochs <= b.epochs and a != b for a, b in pairwise(ladder))


def most_rungs(epochs: int, reduction_factor: float, grace_epochs: int) -> int:
    """Below the top the epochs grow η-fold from rung to rung."""
    return 1 + max(
        0, math.ceil(math.log(epochs / grace_epochs) / math.log(reduction_factor) - 1e-6)
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(**SIZES)
def test_the_default_ladder_trains_one_fold_to_the_end_first(
    epochs: int, folds: int, reduction_factor: float, grace_epochs: int
) -> None:
    ladder = default_ladder(
        epochs, folds, reduction_factor=reduction_factor, grace_epochs=grace_epochs
    )
    assert rises(ladder)
    assert ladder[0] == Rung(1, min(grace_epochs, epochs)) and ladder[-1] == Rung(folds, epochs)
    assert Rung(1, epochs) in ladder
    assert all(rung.folds == 1 for rung in ladder[:-1])
    assert len(ladder) <= most_rungs(epochs, reduction_factor, grace_epochs) + (folds > 1)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(**SIZES)
def test_the_lockstep_ladder_has_the_same_epochs_with_all_folds_at_each(
    epochs: int, folds: int, reduction_factor: float, grace_epochs: int
) -> None:
    ladder = lockstep_ladder(
        epochs, folds, reduction_factor=reduction_factor, grace_epochs=grace_epochs
    )
    one_fold = default_ladder(
        epochs, 1, reduction_factor=reduction_factor, grace_epochs=grace_epochs
    )
    assert rises(ladder)
    assert {rung.folds for rung in ladder} == {folds}
    assert [rung.epochs for rung in ladder] == [rung.epochs for rung in one_fold]


@pytest.mark.parametrize(
    ("epochs", "factor", "grace", "rungs"),
    [
        (9, 3, 1, [1, 3, 9]),
        (27, 3, 1, [1, 3, 9, 27]),
        (30, 3, 1, [1, 3, 9, 27, 30]),
        (8, 2, 1, [1, 2, 4, 8]),
        (9, 3, 2, [2, 6, 9]),
        (1, 3, 1, [1]),
        (5, 3, 7, [5]),
        (5, 3, 5, [5]),
        (6, 1.5, 1, [1, 2, 3, 5, 6]),
    ],
)
def test_epoch_rungs(epochs: int, factor: float, grace: int, rungs: list[int]) -> None:
    ladder = default_ladder(epochs, 1, reduction_factor=factor, grace_epochs=grace)
    assert [rung.epochs for rung in ladder] == rungs


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ladders())
def test_at_each_aligned_point_one_thing_happens(ladder: tuple[Rung, ...]) -> None:
    points = aligned_points(ladder)
    assert points[0] == Rung(ladder[0].folds, 1) and points[-1] == ladder[-1]
    assert set(ladder) <= set(points)
    for before, after in pairwise(points):
        an_epoch = after == Rung(before.folds, before.epochs + 1)
        a_fold = after == Rung(before.folds + 1, before.epochs)
        assert an_epoch or a_fold
        assert after.cost > before.cost


def test_folds_that_join_catch_up_before_the_next_epoch() -> None:
    points = aligned_points((Rung(1, 2), Rung(3, 3)))
    assert [(point.folds, point.epochs) for point in points] == [
        (1, 1),
        (1, 2),
        (2, 2),
        (3, 2),
        (3, 3),
    ]
