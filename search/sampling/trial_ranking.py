"""The trials of a study that a sampler learns from, ranked."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from copy import copy

from optuna.trial import FrozenTrial, TrialState

__all__ = ["TrialRanking"]

# Trials that TPE sees at most, and how many of them are the best ones of any age.
_MOST, _BEST = 1000, 200


class TrialRanking:
    """The trials of a study that TPE learns from, ranked by how good each is.

    A running trial that has reported counts as pruned at its last report, until it ends. In a
    race nearly all trials are paused at a rung until the sweep is over; Optuna calls them running
    and would learn nothing from their losses.

    The ranking is updated as trials change, since sorting thousands of trials at every suggestion
    takes longer than drawing one.
    """

    def __init__(self, trials: Iterable[FrozenTrial] = ()) -> None:
        self._trials: dict[int, FrozenTrial] = {}
        self._running: set[int] = set()  # without a report
        self._reported: list[int] = []
        self._ranked: list[tuple[tuple[bool, int, float], int]] = []
        for trial in trials:
            self.update(trial)

    def update(self, trial: FrozenTrial) -> None:
        """Adds a trial as it is now, or replaces what is known of it."""
        number, before = trial.number, self._trials.pop(trial.number, None)
        if before is None or number in self._running:
            self._running.discard(number)
        else:
            del self._ranked[bisect_left(self._ranked, (_rank(before), number))]
            del self._reported[bisect_left(self._reported, number)]
        if trial.state is TrialState.FAIL:
            return  # TPE learns nothing from it, so it must not take a place
        if trial.intermediate_values or trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            insort(self._reported, number)
            insort(self._ranked, (_rank(trial), number))
        elif trial.state is TrialState.RUNNING:
            self._running.add(number)
        else:
            return
        self._trials[number] = _as_pruned(trial)

    def shown(self) -> list[FrozenTrial]:
        """The trials that TPE sees, by number.

        Where more than 1,000 have reported, these are the 200 best, the 800 newest, and those that
        run. The cost of a suggestion grows with the trials that TPE sees. Beyond that many, it
        learns most from those near the best, and the newest are near the best.
        """
        shown = self._reported
        if len(shown) > _MOST:
            shown = [*(number for _, number in self._ranked[:_BEST]), *shown[_BEST - _MOST :]]
        return [self._trials[number] for number in sorted({*shown, *self._running})]


def _rank(trial: FrozenTrial) -> tuple[bool, int, float]:
    """Smaller is better: completed trials by value, then the others by their last step and value.

    This is the order in which TPE sorts trials.
    """
    if trial.state is TrialState.COMPLETE:
        return False, 0, trial.values[0]
    values = trial.intermediate_values
    if not values:  # with several objectives
        return True, 1, 0.0
    step = max(values)
    return True, -step, values[step]


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    if trial.state is not TrialState.RUNNING or not trial.intermediate_values:
        return trial
    pruned = copy(trial)
    pruned.state = TrialState.PRUNED
    return pruned
