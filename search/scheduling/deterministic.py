"""Schedulers whose sweep does not depend on time: results are taken on a virtual clock, whenever
they may arrive."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import REPORT, LadderScheduler, StoppingRule
from foldrace.trainables.ray.trainable import RAISED
from foldrace.trainables.training.reports import EpochReport


class Listener(Protocol):
    """The searcher's side of an order: `foldrace.search.sampling.optuna_search.FoldSearch`."""

    def hear(self, number: int, value: float, step: int) -> None:
        """A trial has this loss after so many fold-epochs."""
        ...

    def conclude(
        self, number: int, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended, with this result, or by being given up, or by an error."""
        ...


__all__ = ["OrderedFifo", "OrderedPromotion", "OrderedStopping"]


class OrderedPromotion(PromotionScheduler):
    """A race on a virtual clock: a function of the trials' numbers and of how many slots there
    are, of nothing else.

    Every trial that has been let go on holds a slot for the fold-epochs to its next rung, as if
    each took the same time. The slots' ends are thus known beforehand, and the results are taken
    in their order: one that arrives early is held, its trial paused, until it is its turn. Who
    goes on, and what the sampler knows when it draws, follow from that order. How many workers
    there are, and how fast, decides only how long it takes.

    A sweep that was interrupted begins its clock anew, and takes what its trials have reported
    before as it comes to it; so it arrives where it was, or goes on where it was cut off.

    Args:
        slots: how many trials train side by side, on the virtual clock.
    """

    def __init__(self, key: str, race: Race, budget: Budget | None = None, *, slots: int) -> None:
        super().__init__(key, race, budget)
        assert slots > 0 and self._spending.budget.seconds is None
        self.listener: Listener | None = None
        self._now = 0
        self._free = list(range(slots))
        self._busy: list[tuple[int, int, int]] = []  # (when it ends, slot, trial), a heap
        self._heading: dict[int, int] = {}  # of a busy trial, the rung
        self._said: dict[int, Mapping[str, Any]] = {}  # of each trial, its last result
        self._failed: set[int] = set()
        self._stopped: set[int] = set()
        self._unsaved: set[int] = (
            set()
        )  # those that had finished, and were added again without their last checkpoint
        self._none_left = False

    # the virtual clock

    def _advance(self) -> bool:
        """Takes every result whose turn has come; returns whether a new configuration is wanted
        before the next."""
        while True:
            if self._fill():
                return True
            if not self._busy or not self._has_arrived(self._busy[0][2]):
                return False
            self._now, slot, number = heapq.heappop(self._busy)
            heapq.heappush(self._free, slot)
            self._take(number, self._heading.pop(number))

    def _fill(self) -> bool:
        """Gives free slots away: to those that may go on, to new ones; returns whether one waits
        to be drawn."""
        while self._free:
            number = self._claim()
            if number is not None:
                self._goes_on(number)
                continue
            number = len(self._race.runners)
            if self._race.exhausted:
                return False
            if not self._affords_new():
                if self._busy:
                    return False  # what is pledged to those may lapse
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
        """A new trial has been let in."""

    def _hold_slot(self, number: int) -> None:
        runner = self._race.runners[number]
        self._heading[number] = rung = max(len(runner.losses), runner.bracket.first)
        end = self._now + self._race.ladder[rung].cost - self._cost(number)
        heapq.heappush(self._busy, (end, heapq.heappop(self._free), number))

    def _has_arrived(self, number: int) -> bool:
        """Whether it is known how a busy trial has got on."""
        return number in self._failed or self._has_reached(number, self._heading[number])

    def _has_reached(self, number: int, rung: int) -> bool:
        """Whether a trial has been at a rung, or has ended on the way there."""
        if number not in self._said:
            return False
        report: EpochReport = self._said[number][REPORT]
        return len(report.rungs) > rung or (report.finished and report.heading <= rung)

    def _take(self, number: int, rung: int) -> None:
        """A busy trial's turn has come: what it has found at a rung, or how it has ended on the
        way there."""
        if not self._has_reached(number, rung):  # it has failed
            self._race.end(number)
            self._conclude(number, None, error=True)
            return
        report: EpochReport = self._said[number][REPORT]
        if report.finished and report.heading <= rung:
            self._note_spent(number, report.fold_epochs)
            self._race.arrive(number, report.rungs)
            self._race.end(number)
            self._conclude(number, self._said[number])
        else:
            self._note_spent(number, self._race.ladder[rung].cost)
            self._race.arrive(number, report.rungs[: rung + 1])
            if self.listener is not None:
                self.listener.hear(
                    number, self._race.runners[number].score(rung), self._cost(number)
                )
            self._judge(number, rung)
        if self._race.leader is not None:
            self._spending.best = self._race.leader.score(len(self._race.ladder) - 1)

    def _note_spent(self, number: int, fold_epochs: int) -> None:
        self._spending.fold_epochs += fold_epochs - self._cost(number)
        self._costs[number] = (fold_epochs, 0.0)

    def _conclude(
        self, number: int, result: Mapping[str, Any] | None, *, error: bool = False
    ) -> None:
        if self.listener is not None:
            self.listener.conclude(number, result, error)

    def _judge(self, number: int, rung: int) -> None:
        """A trial waits at a rung: for its claim, if this does nothing."""

    def _goes_on(self, number: int) -> None:
        """It does not wait, and keeps its slot."""
        self._race.promote(number)
        self._hold_slot(number)

    # the gate of the searcher

    def open(self) -> bool:
        return self._advance()

    def exhausted(self) -> None:
        # the race is told when all that are there have entered, on a clock that began anew
        self._none_left = True

    def over(self) -> bool:
        return not self._advance() and LadderScheduler.over(self)

    def _running(self) -> dict[int, Trial]:
        return {number: self._trials[number] for _, _, number in self._busy}

    # Tune's events

    def _hear(self, number: int, result: Mapping[str, Any]) -> None:
        """Notes what a trial says, unless it has been tried again and has said more before."""
        known = self._said.get(number)
        if REPORT in result and (
            known is None or result[REPORT].fold_epochs >= known[REPORT].fold_epochs
        ):
            self._said[number] = result

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        number = trial.config["trial"]
        again = number in self._failed and trial.status == Trial.PENDING
        self._failed.discard(number)
        self._trials[number] = trial
        result = trial.last_result or {}
        self._hear(number, result)
        if trial.status == Trial.ERROR or RAISED in result:
            self._failed.add(number)
        if trial.status == Trial.PENDING and self._has_finished(trial):
            self._unsaved.add(number)
        if trial.status == Trial.PENDING and REPORT in result and self._stands(result[REPORT]):
            # or else Tune, which tries it again or restores an experiment, would start it
            if again:
                tune_controller._set_trial_status(trial, Trial.PAUSED)
            else:
                trial.set_status(Trial.PAUSED)

    def _stands(self, report: EpochReport) -> bool:
        """Whether this was reported at a rung, and there is more to train."""
        return report.heading == len(report.rungs) - 1 and not report.finished

    def _has_finished(self, trial: Trial) -> bool:
        known = self._said.get(trial.config["trial"], {})
        return REPORT in known and bool(known[REPORT].finished)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, report = trial.config["trial"], result[REPORT]
        self._hear(number, result)
        if not self._stands(report) or self._has_finished(trial):
            return str(TrialScheduler.CONTINUE)
        self._advance()
        on_its_way = number in self._heading and self._heading[number] >= len(report.rungs)
        return str(TrialScheduler.CONTINUE if on_its_way else TrialScheduler.PAUSE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Any) -> None:
        self._hear(trial.config["trial"], result)
        if RAISED in result:
            self._failed.add(trial.config["trial"])
        self._advance()  # nobody asks again after the last one of a search that has ended

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A paused trial has been ended."""

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._failed.add(trial.config["trial"])

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The paused trial whose slot ends first, if a worker is free; those that have been given
        up are ended."""
        self._note_end_of_search(tune_controller)
        over = self.over()
        for trial in (
            list(self._trials.values())
            if over
            else [self._trials[number] for number in self._stopped]
        ):
            if trial.status == Trial.PAUSED:
                tune_controller.stop_trial(trial)
                self._stopped.discard(trial.config["trial"])
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
            if (
                trial.status == Trial.PAUSED
                and not self._has_arrived(number)
                and at_work < self._live.slots()
            ):
                return trial
        return None

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: all that counts follows from the trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing."""


class OrderedFifo(OrderedPromotion):
    """Every trial is trained to the end, in the order of drawing."""

    def _judge(self, number: int, rung: int) -> None:
        self._goes_on(number)


class OrderedStopping(OrderedPromotion):
    """Ray's ASHAScheduler on the rungs of the ladder, see
    `foldrace.search.scheduling.stopping.StoppingLadder`."""

    def __init__(self, key: str, race: Race, budget: Budget | None = None, *, slots: int) -> None:
        super().__init__(key, race, budget, slots=slots)
        self._stopping = StoppingRule(race)

    def _entered(self, number: int) -> None:
        self._stopping.enter(self._trials[number])

    def _judge(self, number: int, rung: int) -> None:
        if self._stopping.goes_on(
            self._trials[number], rung, self._race.runners[number].score(rung)
        ):
            self._goes_on(number)
        else:
            self._race.end(number)
            self._stopped.add(number)
            self._conclude(number, None)
