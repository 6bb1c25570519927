"""Schedulers whose sweep does not depend on timing: results are taken in a virtual order."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.base import REPORT, LadderScheduler
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import StoppingRule
from foldrace.trainables.ray.trainable import RAISED
from foldrace.trainables.training.reports import EpochReport

__all__ = [
    "DeterministicFifo",
    "DeterministicPromotion",
    "DeterministicStopping",
    "ResultListener",
]


class ResultListener(Protocol):
    """What takes the results in their virtual order: the searcher
    (`foldrace.search.sampling.optuna_search.FoldSearch`)."""

    def hear(self, number: int, value: float, step: int) -> None:
        """A trial has this loss after ``step`` fold-epochs."""
        ...

    def conclude(
        self, number: int, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended: with this result, pruned (None), or with an error."""
        ...


class DeterministicPromotion(PromotionScheduler):
    """A race on a virtual clock: a function of the trials' results and the number of slots alone.

    Every trial that is promoted occupies a slot for the fold-epochs to its next rung, as if every
    fold-epoch took the same time. So the order in which slots become free is known in advance, and
    results are taken in that order: a trial whose result arrives early is paused until its turn.
    Which trial is promoted, and which results the sampler knows when it draws, follow from that
    order. The number and speed of the workers decide only how long the sweep takes.

    A resumed sweep starts its clock again from zero and takes the recorded results of its trials
    in their turn. So it reaches the point where it was interrupted, and continues there.

    Args:
        slots: how many trials train side by side on the virtual clock.
    """

    def __init__(self, key: str, race: Race, budget: Budget | None = None, *, slots: int) -> None:
        super().__init__(key, race, budget)
        assert slots > 0 and self._spending.budget.seconds is None
        self.listener: ResultListener | None = None
        self._now = 0
        self._free = list(range(slots))
        self._busy: list[tuple[int, int, int]] = []  # (end, slot, trial), a heap
        self._heading: dict[int, int] = {}  # busy trial → the rung that it trains for
        self._results: dict[int, Mapping[str, Any]] = {}  # trial → its last result
        self._failed: set[int] = set()
        self._stopped: set[int] = set()
        # trials that had finished, and were added again without their last checkpoint
        self._unsaved: set[int] = set()
        self._none_left = False

    # --- the virtual clock -----------------------------------------------------------------------

    def _advance(self) -> bool:
        """Takes every result whose turn has come.

        Returns:
            Whether a new configuration is needed before the next result.
        """
        while True:
            if self._fill():
                return True
            if not self._busy or not self._has_arrived(self._busy[0][2]):
                return False
            self._now, slot, number = heapq.heappop(self._busy)
            heapq.heappush(self._free, slot)
            self._take(number, self._heading.pop(number))

    def _fill(self) -> bool:
        """Assigns free slots, to promoted trials first, then to new ones.

        Returns:
            Whether a new trial has to be drawn.
        """
        while self._free:
            number = self._claim()
            if number is not None:
                self._continue(number)
                continue
            number = len(self._race.runners)
            if self._race.exhausted:
                return False
            if not self._affords_new():
                if self._busy:
                    return False  # these may end before they have trained all that is pledged
                self._race.exhausted = True
                continue
            if number not in self._trials:
                if not self._none_left:
                    return True
                self._race.exhausted = True
                continue
            self._race.enter(number)
            self._entered(number)
            self._hold_slot(number)
        return False

    def _entered(self, number: int) -> None:
        """A new trial has entered the race."""

    def _hold_slot(self, number: int) -> None:
        runner = self._race.runners[number]
        self._heading[number] = rung = max(len(runner.losses), runner.bracket.first)
        end = self._now + self._race.ladder[rung].cost - self._cost(number)
        heapq.heappush(self._busy, (end, heapq.heappop(self._free), number))

    def _has_arrived(self, number: int) -> bool:
        """Whether the result of a busy trial is known."""
        return number in self._failed or self._has_reached(number, self._heading[number])

    def _has_reached(self, number: int, rung: int) -> bool:
        """Whether a trial has reached a rung, or has ended before it."""
        if number not in self._results:
            return False
        report: EpochReport = self._results[number][REPORT]
        return len(report.rungs) > rung or (report.finished and report.heading <= rung)

    def _take(self, number: int, rung: int) -> None:
        """Takes the result of a busy trial: its score at a rung, or how it ended before it."""
        if not self._has_reached(number, rung):  # it has failed
            self._race.end(number)
            self._conclude(number, None, error=True)
            return
        report: EpochReport = self._results[number][REPORT]
        if report.finished and report.heading <= rung:
            self._note_spent(number, report.fold_epochs)
            self._race.arrive(number, report.rungs)
            self._race.end(number)
            self._conclude(number, self._results[number])
        else:
            self._note_spent(number, self._race.ladder[rung].cost)
            self._race.arrive(number, report.rungs[: rung + 1])
            if self.listener is not None:
                score = self._race.runners[number].score(rung)
                self.listener.hear(number, score, self._cost(number))
            self._judge(number, rung)
        self._note_incumbent()

    def _note_spent(self, number: int, fold_epochs: int) -> None:
        self._spending.fold_epochs += fold_epochs - self._cost(number)
        self._costs[number] = (fold_epochs, 0.0)

    def _conclude(
        self, number: int, result: Mapping[str, Any] | None, *, error: bool = False
    ) -> None:
        if self.listener is not None:
            self.listener.conclude(number, result, error)

    def _judge(self, number: int, rung: int) -> None:
        """Decides about a trial that has reached a rung. Here it stays paused until promoted."""

    def _continue(self, number: int) -> None:
        """Promotes a trial, which takes a slot."""
        self._race.promote(number)
        self._hold_slot(number)

    # --- the gate of the searcher ----------------------------------------------------------------

    def open(self) -> bool:
        return self._advance()

    def exhausted(self) -> None:
        # the race is exhausted only when all trials have entered it, on a clock that starts anew
        self._none_left = True

    def over(self) -> bool:
        return not self._advance() and LadderScheduler.over(self)

    def _running(self) -> dict[int, Trial]:
        return {number: self._trials[number] for _, _, number in self._busy}

    # --- Tune's events ---------------------------------------------------------------------------

    def _keep(self, number: int, result: Mapping[str, Any]) -> None:
        """Keeps a trial's result, unless it is a retry that has not got as far as before."""
        known = self._results.get(number)
        if REPORT in result and (
            known is None or result[REPORT].fold_epochs >= known[REPORT].fold_epochs
        ):
            self._results[number] = result

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        number = trial.config["trial"]
        again = number in self._failed and trial.status == Trial.PENDING
        self._failed.discard(number)
        self._trials[number] = trial
        result = trial.last_result or {}
        self._keep(number, result)
        if trial.status == Trial.ERROR or RAISED in result:
            self._failed.add(number)
        if trial.status == Trial.PENDING and self._has_finished(trial):
            self._unsaved.add(number)
        if trial.status == Trial.PENDING and REPORT in result and self._stands(result[REPORT]):
            # otherwise Tune, which retries it or restores an experiment, would start it
            if again:
                tune_controller._set_trial_status(trial, Trial.PAUSED)
            else:
                trial.set_status(Trial.PAUSED)

    def _stands(self, report: EpochReport) -> bool:
        """Whether this was reported at a rung, and the trial is not finished."""
        return report.heading == len(report.rungs) - 1 and not report.finished

    def _has_finished(self, trial: Trial) -> bool:
        known = self._results.get(trial.config["trial"], {})
        return REPORT in known and bool(known[REPORT].finished)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, report = trial.config["trial"], result[REPORT]
        self._keep(number, result)
        if not self._stands(report) or self._has_finished(trial):
            return str(TrialScheduler.CONTINUE)
        self._advance()
        promoted = number in self._heading and self._heading[number] >= len(report.rungs)
        return str(TrialScheduler.CONTINUE if promoted else TrialScheduler.PAUSE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Any) -> None:
        self._keep(trial.config["trial"], result)
        if RAISED in result:
            self._failed.add(trial.config["trial"])
        # nothing asks again after the last trial of a search that has ended
        self._advance()

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A paused trial has been ended."""

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._failed.add(trial.config["trial"])

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The paused trial whose slot ends first, if a worker is free. Ends pruned trials."""
        self._note_end_of_search(tune_controller)
        over = self.over()
        stopped = [*self._trials] if over else [*self._stopped]
        for number in stopped:
            if self._trials[number].status == Trial.PAUSED:
                tune_controller.stop_trial(self._trials[number])
                self._stopped.discard(number)
        for number in self._unsaved:
            if self._trials[number].status == Trial.PENDING:
                return self._trials[number]
        at_work = sum(
            trial.status in (Trial.PENDING, Trial.RUNNING) for trial in self._running().values()
        )
        for _, _, number in sorted(self._busy):
            trial = self._trials[number]
            if trial.status == Trial.PENDING and trial.last_result:
                return trial
            waits = trial.status == Trial.PAUSED and not self._has_arrived(number)
            if waits and at_work < self._run.slots():
                return trial
        return None

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: the state follows from the trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""


class DeterministicFifo(DeterministicPromotion):
    """Trains every trial to the top of the ladder, in the order of drawing."""

    def _judge(self, number: int, rung: int) -> None:
        self._continue(number)


class DeterministicStopping(DeterministicPromotion):
    """Ray's ASHAScheduler on the ladder, as in
    `foldrace.search.scheduling.stopping.StoppingLadder`."""

    def __init__(self, key: str, race: Race, budget: Budget | None = None, *, slots: int) -> None:
        super().__init__(key, race, budget, slots=slots)
        self._stopping = StoppingRule(race)

    def _entered(self, number: int) -> None:
        self._stopping.enter(self._trials[number])

    def _judge(self, number: int, rung: int) -> None:
        score = self._race.runners[number].score(rung)
        if self._stopping.continues(self._trials[number], rung, score):
            self._continue(number)
        else:
            self._race.end(number)
            self._stopped.add(number)
            self._conclude(number, None)
