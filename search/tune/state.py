"""The sweep's state in memory: every trial, what it has cost, and who leads."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from foldrace.search.sampling.comparison_plan import Phase, TrialRole
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from foldrace.trainables.training.cross_validation import EpochReport

__all__ = ["TrialRecord", "TrialStatus", "TrialTable"]


class TrialStatus(Enum):
    """Where a trial is; ``completed`` alone can win."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass
class TrialRecord:
    """One trial: its parameters, its last report and its end; in a comparison, its part in it."""

    number: int
    params: Mapping[str, Value]
    status: TrialStatus = TrialStatus.RUNNING
    report: EpochReport | None = None
    reason: str = ""
    part: TrialRole | None = None
    parameters: int | None = None
    """Trainable weights of its model."""
    tags: dict[str, str] = field(default_factory=dict)
    """What else there is to say of it: where it ran last, that it printed too much."""

    @property
    def name(self) -> str:
        """``trial 7``, or ``trial 7 [sgd default]``."""
        return f"trial {self.number}" + (f" [{self.part}]" if self.part else "")

    @property
    def competes(self) -> bool:
        """Whether the trial can be the best one; a repeat only measures one that is there."""
        return self.part is None or self.part.phase is not Phase.REPEAT

    @property
    def val_loss(self) -> float:
        """The mean over folds at the last report; infinite before the first."""
        return self.report.metrics["val_loss"] if self.report else math.inf

    @property
    def standard_error(self) -> float:
        """Of ``val_loss`` over the folds; NaN for a single fold."""
        return self.report.metrics["val_loss_se"] if self.report else math.nan

    @property
    def fold_losses(self) -> list[float]:
        """The objective of each fold."""
        return [fold.val_loss for fold in self.report.folds] if self.report else []

    @property
    def best_epochs(self) -> list[int]:
        """The epoch of each fold's kept weights."""
        return [fold.best_epoch for fold in self.report.folds] if self.report else []


@dataclass
class TrialTable:
    """All trials of a sweep, and the clock.

    Its sums are kept as trials change, since a sweep of thousands asks for them at each of its
    events: what is changed in a trial must be told to `note`.
    """

    total: int
    earlier: float = 0.0
    spent_before: int = 0
    """Fold-epochs that are in none of its trials, where these are the survivors of a sweep that
    has ended."""
    started: float = field(default_factory=time.monotonic)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    _noted: dict[int, tuple[TrialStatus, int]] = field(
        default_factory=dict, init=False, repr=False
    )
    _counts: Counter[TrialStatus] = field(default_factory=Counter, init=False, repr=False)
    _best: TrialRecord | None = field(default=None, init=False, repr=False)
    _fold_epochs: int = field(default=0, init=False, repr=False)
    _start_up: float = field(default=0.0, init=False, repr=False)
    """Seconds until this process's first trial began."""

    def __post_init__(self) -> None:
        for trial in self.trials.values():
            self.note(trial)

    def note(self, trial: TrialRecord) -> None:
        """Takes a trial up, or what has changed in it."""
        if not self.trials:
            self._start_up = time.monotonic() - self.started
        self.trials[trial.number] = trial
        status, fold_epochs = trial.status, trial.report.fold_epochs if trial.report else 0
        before, spent = self._noted.get(trial.number, (None, 0))
        if before is not None:
            self._counts[before] -= 1
        self._counts[status] += 1
        self._fold_epochs += fold_epochs - spent
        self._noted[trial.number] = status, fold_epochs
        if _is_done(trial) and (self._best is None or _place(trial) < _place(self._best)):
            self._best = trial

    def count(self, status: TrialStatus) -> int:
        """How many trials are in a status."""
        return self._counts[status]

    @property
    def ended(self) -> int:
        """How many trials have ended, one way or another; a paused one may yet go on."""
        return len(self.trials) - self.count(TrialStatus.RUNNING) - self.count(TrialStatus.PAUSED)

    @property
    def settled(self) -> int:
        """How many trials are not running: most of those that are paused stay so."""
        return len(self.trials) - self.count(TrialStatus.RUNNING)

    @property
    def fold_epochs(self) -> int:
        """Epochs of single folds trained by all trials so far."""
        return self.spent_before + self._fold_epochs

    def ranking(self) -> list[TrialRecord]:
        """The completed trials that compete, the best first; a tie goes to the earlier one."""
        return sorted(filter(_is_done, self.trials.values()), key=_place)

    def given_up(self) -> list[TrialRecord]:
        """The pruned and the paused trials: those that got furthest first, the better of equals
        first."""
        early = (TrialStatus.PRUNED, TrialStatus.PAUSED)
        pruned = [
            ((len(t.report.folds), t.report.epoch), t)
            for t in self.trials.values()
            if t.status in early and t.report
        ]
        return [
            t
            for _, t in sorted(
                pruned, key=lambda p: (-p[0][0], -p[0][1], p[1].val_loss, p[1].number)
            )
        ]

    @property
    def best(self) -> TrialRecord | None:
        """The incumbent: the best completed trial."""
        return self._best

    @property
    def elapsed(self) -> float:
        """Seconds spent on the sweep, those before an interruption included."""
        return self.earlier + time.monotonic() - self.started

    def remaining(self, time_budget: float | None = None) -> float | None:
        """Estimated seconds to the end, from the trials that have ended or paused; None while
        there is none.

        The time before the first trial is not a trial's: most of a short sweep's first minute is
        Ray's start.
        """
        if not self.settled:
            return None
        left = (self.elapsed - self._start_up) / self.settled * max(0, self.total - self.settled)
        return left if time_budget is None else min(left, max(0.0, time_budget - self.elapsed))


def _is_done(trial: TrialRecord) -> bool:
    return (
        trial.status is TrialStatus.COMPLETED and trial.competes and math.isfinite(trial.val_loss)
    )


def _place(trial: TrialRecord) -> tuple[float, int]:
    return trial.val_loss, trial.number
