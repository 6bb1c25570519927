"""When a sweep stops early: its fold-epochs or its time are spent, or its target is reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Budget", "Spending"]


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep; None: no such limit.

    Attributes:
        fold_epochs: epochs of single folds, over all trials.
        seconds: wall-clock time, over all sessions of the sweep.
        target: the sweep ends once a completed trial has a loss this low.
    """

    fold_epochs: int | None = None
    seconds: float | None = None
    target: float | None = None


@dataclass
class Spending:
    """What a sweep has spent of its budget, and what it has committed to spend.

    Attributes:
        fold_epochs: trained so far.
        pledged: fold-epochs that the running trials will still train up to their next rung.
        train_seconds: training time of ``fold_epochs``, as measured by the trials.
        elapsed: wall-clock seconds.
        best: the loss of the best completed trial; infinite if there is none.
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
        """Whether one trial can be trained for ``fold_epochs`` more within the limits.

        Time is estimated from the pace so far, as if the folds were trained one after another.

        >>> spending = Spending(Budget(fold_epochs=30), fold_epochs=12, pledged=9)
        >>> spending.affords(9), spending.affords(10)
        (True, False)
        """
        if self.exceeded:
            return False
        limit = self.budget
        committed = self.fold_epochs + self.pledged + fold_epochs
        if limit.fold_epochs is not None and committed > limit.fold_epochs:
            return False
        pace = self.train_seconds / self.fold_epochs if self.fold_epochs else 0.0
        return limit.seconds is None or self.elapsed + pace * fold_epochs <= limit.seconds
