"""The scheduler of a race: trials pause at every rung, and the best of them go on (see
search/race.py)."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.stopping import REPORT, LadderScheduler
from foldrace.trainables.training.ladder import Rung

__all__ = ["PromotionScheduler"]


class PromotionScheduler(LadderScheduler):
    """Asynchronous successive halving that pauses and promotes, for class Trainables with
    checkpoints.

    A paused trial holds no worker: its checkpoint lies on disk, and whichever worker is free takes
    it up. A worker that becomes free takes the trial that the race names, and a new configuration
    only if it names none. When no trial can go on and no new one is left, the paused ones are
    ended, and the experiment with them.
    """

    def __init__(self, key: str, race: Race, budget: Budget | None = None) -> None:
        super().__init__(key, race, budget)
        self._beyond: int | None = None
        self._stranded: list[int] = []
        self._failed_at: dict[
            int, int
        ] = {}  # the rung at which a trial waited when its worker died

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        number = trial.config["trial"]
        waits_at = self._race.runners[number].waits_at
        if waits_at is not None:
            self._failed_at[number] = waits_at
        super().on_trial_error(tune_controller, trial)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        number = trial.config["trial"]
        failed_at = self._failed_at.pop(number, None)
        if (
            failed_at is not None and trial.status == Trial.PENDING
        ):  # tried again, but it may not pass
            self._race.wait(number, failed_at)
            tune_controller._set_trial_status(trial, Trial.PAUSED)
            return
        waits_at = self._race.runners[number].waits_at
        if waits_at is None or trial.status != Trial.PENDING:
            return
        report = trial.last_result[REPORT]
        if Rung(len(report.folds), report.epoch) == self._race.ladder[waits_at]:
            trial.set_status(
                Trial.PAUSED
            )  # or else Tune, which restores an experiment, would start it
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

    def over(self) -> bool:
        return not self._stranded and super().over()

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The promoted trial that has no worker yet; else the paused one with the best claim, if a
        worker is free."""
        self._note_end_of_search(tune_controller)
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
        if self._stranded:
            return self._resumed(self._stranded.pop(0))
        number = self._claim()
        if (
            number is None or self._trials[number].status != Trial.PAUSED
        ):  # its checkpoint may still be being written
            return None
        self._race.promote(number)
        return self._resumed(number)

    def _resumed(self, number: int) -> Trial:
        self._active[number] = self._trials[number]
        return self._trials[number]

    def _claim(self) -> int | None:
        number = self._race.next()
        if number is None or self._affords(self._race.ladder[-1].cost - self._cost(number)):
            return number
        if not self._race.exhausted or self._race.leader is not None:
            return None
        # a sweep has a winner: if there is none yet when the budget ends, the nearest to the top
        # goes on all the same, alone, and nobody else after it
        number = self._race.nearest()
        if number is None or set(self._running()) - {number} or self._beyond not in (None, number):
            return None
        self._beyond = number
        return number

    def _ahead(self, number: int) -> int:
        runner, ladder = self._race.runners[number], self._race.ladder
        if runner.gone or runner.waits_at is not None:  # its pause may still be under way
            return 0
        reached = max(len(runner.losses), runner.bracket.first)
        return max(0, ladder[min(reached, len(ladder) - 1)].cost - self._cost(number))

    def restore(self, checkpoint_path: str) -> None:
        super().restore(checkpoint_path)
        on_its_way = [
            number for number, runner in self._race.runners.items() if runner.waits_at is None
        ]
        self._stranded = [
            n for n in on_its_way if n in self._active and self._active[n].status == Trial.PAUSED
        ]
