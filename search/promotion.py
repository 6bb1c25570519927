"""The scheduler of a race: trials pause at every rung, and the best of them go on (see search/race.py)."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search.scheduling import REPORT, LadderScheduler
from trainables.ladder import Rung

__all__ = ["PromotionScheduler"]


class PromotionScheduler(LadderScheduler):
    """Asynchronous successive halving that pauses and promotes, for class Trainables with checkpoints.

    A paused trial holds no worker: its checkpoint lies on disk, and whichever worker is free takes it up. A worker that
    becomes free takes the trial that the race names, and a new configuration only if it names none. When no trial can
    go on and no new one is left, the paused ones are ended, and the experiment with them.
    """

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        number = trial.config["trial"]
        waits_at = self._race.runners[number].waits_at
        if waits_at is None or trial.status != Trial.PENDING:
            return
        report = trial.last_result[REPORT]
        if Rung(len(report.folds), report.epoch) == self._race.ladder[waits_at]:
            trial.set_status(Trial.PAUSED)  # or else Tune, which restores an experiment, would start it
        else:
            self._race.promote(number)  # it was on its way already

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        if self._race.runners[number].waits_at is None:
            return str(TrialScheduler.CONTINUE)
        if self._claim() == number:
            self._race.promote(number)
            return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.PAUSE)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The promoted trial that has no worker yet; else the paused one with the best claim, if a worker is free."""
        running = self._running()
        for trial in running.values():
            if trial.status == Trial.PENDING and trial.last_result and REPORT in trial.last_result:
                return trial
        if self.over():
            for trial in list(self._trials.values()):
                if trial.status == Trial.PAUSED:
                    tune_controller.stop_trial(trial)
            return None
        if len(running) >= self._live.slots():
            return None
        number = self._claim()
        if number is None or self._trials[number].status != Trial.PAUSED:  # its checkpoint may still be being written
            return None
        self._race.promote(number)
        self._active[number] = self._trials[number]
        return self._trials[number]

    def _claim(self) -> int | None:
        number = self._race.next()
        if number is None or self._affords(self._race.ladder[-1].cost - self._costs[number][0]):
            return number
        # a sweep has a winner: if there is none yet when the budget ends, the nearest to the top goes on all the same
        alone = self._race.exhausted and self._race.leader is None and not set(self._running()) - {number}
        return number if alone else None
