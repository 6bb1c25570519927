"""The ladder that a trial climbs: folds × epochs, and what it costs. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["REDUCTION_FACTOR", "Rung", "aligned_points", "default_ladder", "lockstep_ladder"]

REDUCTION_FACTOR = 3.0
"""One in so many trials passes a rung, if nothing else is said."""


@dataclass(frozen=True)
class Rung:
    """A place on the ladder: the first ``folds`` folds, each trained for ``epochs`` epochs."""

    folds: int
    epochs: int

    @property
    def cost(self) -> int:
        """Fold-epochs that a trial has behind it here, if no fold of it has stopped early."""
        return self.folds * self.epochs

    def __str__(self) -> str:
        return f"({self.folds}, {self.epochs})"


def _epoch_rungs(epochs: int, reduction_factor: float, grace_epochs: int) -> list[int]:
    """``grace_epochs``, that times the reduction factor, and so on, and ``epochs`` at the end."""
    rungs: list[int] = []
    at = float(grace_epochs)
    while math.ceil(at - 1e-9) < epochs:
        rungs.append(math.ceil(at - 1e-9))
        at = max(at * reduction_factor, rungs[-1] + 1)
    return [*rungs, epochs]


def default_ladder(
    epochs: int, folds: int, *, reduction_factor: float = REDUCTION_FACTOR, grace_epochs: int = 1
) -> tuple[Rung, ...]:
    """Epochs first, on one fold; the other folds last.

    A fold tells much of what the others will say, and an epoch little of what the last one will:
    so a trial is trained to the end on its first fold before it costs anything on the others.
    """
    first = [Rung(1, at) for at in _epoch_rungs(epochs, reduction_factor, grace_epochs)]
    return tuple(first) if folds == 1 else (*first, Rung(folds, epochs))


def lockstep_ladder(
    epochs: int, folds: int, *, reduction_factor: float = REDUCTION_FACTOR, grace_epochs: int = 1
) -> tuple[Rung, ...]:
    """All folds side by side."""
    return tuple(Rung(folds, at) for at in _epoch_rungs(epochs, reduction_factor, grace_epochs))


def aligned_points(ladder: Sequence[Rung]) -> list[Rung]:
    """Where a trial stops to report: every epoch of every rung, and every fold that joins.

    Folds that join between two rungs do so one by one, each catching up with the others before
    anything else; at an aligned point all folds that have started stand at the same epoch.
    """
    points: list[Rung] = []
    folds = reached = 0
    for rung in ladder:
        if folds and reached:
            points += [Rung(count, reached) for count in range(folds + 1, rung.folds + 1)]
        points += [Rung(rung.folds, epoch) for epoch in range(reached + 1, rung.epochs + 1)]
        folds, reached = rung.folds, rung.epochs
    return points
