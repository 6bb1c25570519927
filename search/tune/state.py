"""The trials of a running sweep, in memory: where each one is, what it has cost, which is best."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from foldrace.search.sampling.comparison_plan import Phase, TrialRole
from foldrace.search.text import score_text
from foldrace.trainables.tasks.objective import LOSS, Objective
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.reports import EpochReport

__all__ = ["TrialRecord", "TrialStatus", "TrialTable"]


class TrialStatus(Enum):
    """Where a trial is. Only a completed trial can be the best."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass
class TrialRecord:
    """One trial: its parameters, its last report, its status.

    Attributes:
        reason: why it failed, or where it was pruned or paused.
        part: its part in a comparison; None in a sweep.
        parameters: the number of trainable weights of its model.
        tags: further tags of its run, such as the node that it ran on last.
    """

    number: int
    params: Mapping[str, Value]
    status: TrialStatus = TrialStatus.RUNNING
    report: EpochReport | None = None
    reason: str = ""
    part: TrialRole | None = None
    parameters: int | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``trial 7``, or ``trial 7 [sgd default]``."""
        return f"trial {self.number}" + (f" [{self.part}]" if self.part else "")

    @property
    def competes(self) -> bool:
        """Whether the trial can be the best one. A repeat cannot: it only measures again."""
        return self.part is None or self.part.phase is not Phase.REPEAT

    @property
    def val_loss(self) -> float:
        """The mean over folds at the last report; infinite before the first."""
        return self.report.metrics["val_loss"] if self.report else math.inf

    @property
    def standard_error(self) -> float:
        """Of ``val_loss`` over the folds; NaN for a single fold."""
        return self.report.metrics["val_loss_se"] if self.report else math.nan

    def values(self, objectives: Sequence[str]) -> tuple[float, ...]:
        """The trial's value for each objective; infinite where it has none."""
        known = {
            "val_loss": self.val_loss,
            "parameters": self.parameters,
            "seconds": self.report.seconds if self.report else None,
        }
        values = (known[name] for name in objectives)
        return tuple(math.inf if value is None else float(value) for value in values)

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
    """All trials of a sweep, with their sums and the sweep's clock.

    A sweep of thousands of trials asks for the sums at each event, so they are updated as trials
    change: every change of a trial must be passed to `note`.

    Attributes:
        total: how many trials are planned.
        earlier: seconds spent on the sweep by earlier sessions.
        spent_before: fold-epochs of the sweep that are not in ``records``, where these are the
            survivors that an extension trains.
        started: when this session started, on the monotonic clock.
        objectives: all minimised, ``val_loss`` first; among trials of equal ``val_loss`` the next
            one decides, so that the best trial lies on the Pareto front.
        objective: what ``val_loss`` is, for people.
        records: the trials, by number.

    >>> trials = TrialTable(total=2)
    >>> trials.note(TrialRecord(0, {"lr": 0.1}))
    >>> trials.count(TrialStatus.RUNNING), trials.ended, trials.best
    (1, 0, None)
    """

    total: int
    earlier: float = 0.0
    spent_before: int = 0
    started: float = field(default_factory=time.monotonic)
    objectives: Sequence[str] = ("val_loss",)
    objective: Objective = LOSS
    records: dict[int, TrialRecord] = field(default_factory=dict)
    _noted: dict[int, tuple[TrialStatus, int]] = field(
        default_factory=dict, init=False, repr=False
    )
    _counts: Counter[TrialStatus] = field(default_factory=Counter, init=False, repr=False)
    _settled: set[int] = field(default_factory=set, init=False, repr=False)
    _best: TrialRecord | None = field(default=None, init=False, repr=False)
    _fold_epochs: int = field(default=0, init=False, repr=False)
    _start_up: float = field(default=0.0, init=False, repr=False)
    """Seconds until this session's first trial began."""

    def __post_init__(self) -> None:
        for trial in self.records.values():
            self.note(trial)

    def note(self, trial: TrialRecord) -> None:
        """Adds a trial, or updates the sums after a change of it."""
        if not self.records:
            self._start_up = time.monotonic() - self.started
        self.records[trial.number] = trial
        status, fold_epochs = trial.status, trial.report.fold_epochs if trial.report else 0
        before, spent = self._noted.get(trial.number, (None, 0))
        if before is not None:
            self._counts[before] -= 1
        self._counts[status] += 1
        self._fold_epochs += fold_epochs - spent
        self._noted[trial.number] = status, fold_epochs
        if status is not TrialStatus.RUNNING:
            self._settled.add(trial.number)
        if _can_be_best(trial) and (
            self._best is None or self._place(trial) < self._place(self._best)
        ):
            self._best = trial

    def score(self, trial: TrialRecord) -> str:
        """``0.95000 ± 0.01000``, in the objective's own sign."""
        return score_text(self.objective.score(trial.val_loss), trial.standard_error)

    def count(self, status: TrialStatus) -> int:
        """How many trials have a status."""
        return self._counts[status]

    @property
    def ended(self) -> int:
        """How many trials have ended: a paused one may still be promoted."""
        return sum(map(self.count, _ENDED))

    @property
    def settled(self) -> int:
        """How many trials have paused or ended at least once: it never falls.

        Most of the paused ones stay paused.
        """
        return len(self._settled)

    @property
    def fold_epochs(self) -> int:
        """Epochs of single folds that all trials have trained so far."""
        return self.spent_before + self._fold_epochs

    def ranking(self) -> list[TrialRecord]:
        """The completed trials that compete, best first; the earlier one of equals first."""
        return sorted(filter(_can_be_best, self.records.values()), key=self._place)

    def pruned(self) -> list[TrialRecord]:
        """The pruned and the paused trials, those that reached most folds and epochs first, the
        better of equals first."""
        reached = [
            ((-len(trial.report.folds), -trial.report.epoch, *self._place(trial)), trial)
            for trial in self.records.values()
            if trial.status in (TrialStatus.PRUNED, TrialStatus.PAUSED) and trial.report
        ]
        return [trial for _, trial in sorted(reached, key=lambda pair: pair[0])]

    def _place(self, trial: TrialRecord) -> tuple[float, ...]:
        """Smaller is better; the earlier one of equals."""
        return *trial.values(self.objectives), trial.number

    @property
    def best(self) -> TrialRecord | None:
        """The incumbent: the best completed trial."""
        return self._best

    @property
    def elapsed(self) -> float:
        """Seconds spent on the sweep, over all sessions."""
        return self.earlier + time.monotonic() - self.started

    def remaining(self, time_budget: float | None = None) -> float | None:
        """Estimated seconds to the end, from the trials that have settled; None before the first.

        A promoted trial that runs counts as one more to settle. The time until the first trial
        begins is not counted as a trial's: most of the first minute of a short sweep is Ray's
        start.
        """
        if not self.settled:
            return None
        running = self.count(TrialStatus.RUNNING)
        promoted = running - (len(self.records) - self.settled)
        trials = max(0, self.total - self.settled) + promoted
        left = (self.elapsed - self._start_up) / self.settled * trials
        return left if time_budget is None else min(left, max(0.0, time_budget - self.elapsed))


_ENDED = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)


def _can_be_best(trial: TrialRecord) -> bool:
    return (
        trial.status is TrialStatus.COMPLETED and trial.competes and math.isfinite(trial.val_loss)
    )
