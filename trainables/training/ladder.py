"""A trial's ladder of (folds, epochs), and what it costs. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["REDUCTION_FACTOR", "Rung", "aligned_points", "default_ladder", "lockstep_ladder"]

REDUCTION_FACTOR = 3.0
"""Default reduction factor η: one in η trials is promoted to the next rung."""


@dataclass(frozen=True)
class Rung:
    """A rung of the ladder: the first ``folds`` folds, each trained for ``epochs`` epochs."""

    folds: int
    epochs: int

    @property
    def cost(self) -> int:
        """Fold-epochs that a trial has cost at this rung, if no fold has stopped early."""
        return self.folds * self.epochs

    def __str__(self) -> str:
        return f"({self.folds}, {self.epochs})"


def _epoch_rungs(epochs: int, reduction_factor: float, grace_epochs: int) -> list[int]:
    """``grace_epochs`` times the powers of the reduction factor, and ``epochs`` as the last."""
    rungs: list[int] = []
    at = float(grace_epochs)
    while math.ceil(at - 1e-9) < epochs:
        rungs.append(math.ceil(at - 1e-9))
        at = max(at * reduction_factor, rungs[-1] + 1)
    return [*rungs, epochs]


def default_ladder(
    epochs: int, folds: int, *, reduction_factor: float = REDUCTION_FACTOR, grace_epochs: int = 1
) -> tuple[Rung, ...]:
    """The ladder that trains all epochs of the first fold before the other folds start.

    One fold predicts the others well, and an early epoch predicts the last one poorly. So a trial
    trains its first fold to the end before it spends anything on the others.

    Args:
        epochs: total epochs per fold.
        folds: number of folds.
        reduction_factor: ratio of the epochs of consecutive rungs, above 1.
        grace_epochs: epochs of the lowest rung.

    >>> print(*default_ladder(9, folds=3))
    (1, 1) (1, 3) (1, 9) (3, 9)
    """
    first = [Rung(1, at) for at in _epoch_rungs(epochs, reduction_factor, grace_epochs)]
    return tuple(first) if folds == 1 else (*first, Rung(folds, epochs))


def lockstep_ladder(
    epochs: int, folds: int, *, reduction_factor: float = REDUCTION_FACTOR, grace_epochs: int = 1
) -> tuple[Rung, ...]:
    """The ladder that trains all folds in lock-step. See `default_ladder` for the arguments.

    >>> print(*lockstep_ladder(9, folds=3))
    (3, 1) (3, 3) (3, 9)
    """
    return tuple(Rung(folds, at) for at in _epoch_rungs(epochs, reduction_factor, grace_epochs))


def aligned_points(ladder: Sequence[Rung]) -> list[Rung]:
    """The points at which a trial can report: all started folds are at the same epoch.

    There is one at every epoch of every rung, and one for each fold that joins. Folds that join
    between two rungs do so one at a time; each catches up with the others before training goes
    on.

    >>> print(*aligned_points([Rung(1, 2), Rung(3, 2)]))
    (1, 1) (1, 2) (2, 2) (3, 2)
    """
    points: list[Rung] = []
    folds = reached = 0
    for rung in ladder:
        if folds and reached:
            points += [Rung(count, reached) for count in range(folds + 1, rung.folds + 1)]
        points += [Rung(rung.folds, epoch) for epoch in range(reached + 1, rung.epochs + 1)]
        folds, reached = rung.folds, rung.epochs
    return points
