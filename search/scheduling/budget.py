"""When a sweep has had enough: fold-epochs, wall-clock time, or a target reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Budget", "Spending"]


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep; None: without that limit.

    Attributes:
        fold_epochs: epochs of single folds, all trials together.
        seconds: of wall-clock time, all sessions of the sweep together.
        target: a loss that ends the sweep once a trial evaluated to the end has it.
    """

    fold_epochs: int | None = None
    seconds: float | None = None
    target: float | None = None


@dataclass
class Spending:
    """What a sweep has spent, and what it has bound itself to.

    Attributes:
        fold_epochs: trained so far.
        pledged: what trials that are under way will yet train up to their next rung.
        train_seconds: that the trials have measured for ``fold_epochs``.
        elapsed: wall-clock seconds.
        best: the loss of the best trial evaluated to the end; infinite if there is none.
    """

    budget: Budget
    fold_epochs: int = 0
    pledged: int = 0
    train_seconds: float = 0.0
    elapsed: float = 0.0
    best: float = math.inf

    @property
    def exceeded(self) -> str | None:
        """Which limit has been reached, in words; None if none has."""
        limit = self.budget
        if limit.target is not None and self.best <= limit.target:
            return "the target is reached"
        if limit.seconds is not None and self.elapsed >= limit.seconds:
            return "the time budget is spent"
        if limit.fold_epochs is not None and self.fold_epochs >= limit.fold_epochs:
            return "the fold-epochs are spent"
        return None

    def affords(self, fold_epochs: int) -> bool:
        """Whether one trial can be trained for that many fold-epochs more, one after the other,
        within the limits."""
        if self.exceeded:
            return False
        limit = self.budget
        if (
            limit.fold_epochs is not None
            and self.fold_epochs + self.pledged + fold_epochs > limit.fold_epochs
        ):
            return False
        pace = self.train_seconds / self.fold_epochs if self.fold_epochs else 0.0
        return limit.seconds is None or self.elapsed + pace * fold_epochs <= limit.seconds
