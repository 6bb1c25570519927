"""The scheduler that pauses trials at every rung and promotes the best of them."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.base import REPORT, LadderScheduler
from foldrace.search.scheduling.budget import Budget
from foldrace.trainables.training.ladder import Rung

__all__ = ["PromotionScheduler"]


class PromotionScheduler(LadderScheduler):
    """Asynchronous successive halving that pauses and promotes (`Race`), for class Trainables
    with checkpoints.

    A paused trial has no worker: its checkpoint is on disk, and any worker can load it. A free
    worker takes the trial that the race promotes, and a new configuration only if there is none.
    When no trial can be promoted and no new one is left, the paused trials are ended, and the
    experiment with them.
    """

    def __init__(self, key: str, race: Race, budget: Budget | None = None) -> None:
        super().__init__(key, race, budget)
        # the one trial that is trained beyond the budget, so that the sweep has a result
        self._beyond: int | None = None
        # promoted trials of a restored sweep that Tune restored as paused
        self._stranded: list[int] = []
        # the rung at which a trial was paused when its worker died
        self._failed_at: dict[int, int] = {}

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        number = trial.config["trial"]
        paused_at = self._race.runners[number].paused_at
        if paused_at is not None:
            self._failed_at[number] = paused_at
        super().on_trial_error(tune_controller, trial)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        number = trial.config["trial"]
        failed_at = self._failed_at.pop(number, None)
        # a retried trial that has not been promoted stays paused
        if failed_at is not None and trial.status == Trial.PENDING:
            self._race.pause(number, failed_at)
            tune_controller._set_trial_status(trial, Trial.PAUSED)
            return
        paused_at = self._race.runners[number].paused_at
        if paused_at is None or trial.status != Trial.PENDING:
            return
        report = trial.last_result[REPORT]
        if Rung(len(report.folds), report.epoch) == self._race.ladder[paused_at]:
            # otherwise Tune would start it, as it restores an experiment
            trial.set_status(Trial.PAUSED)
        else:
            self._race.promote(number)  # it had been promoted before

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        if self._race.runners[number].paused_at is None:
            return str(TrialScheduler.CONTINUE)
        if self._claim() == number:
            self._race.promote(number)
            return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.PAUSE)

    def over(self) -> bool:
        return not self._stranded and super().over()

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The promoted trial that has no worker yet; else the paused trial to promote, if a worker
        is free."""
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
        if len(running) >= self._run.slots():
            return None
        if self._stranded:
            return self._resumed(self._stranded.pop(0))
        number = self._claim()
        # a trial that is not PAUSED yet is still writing its checkpoint
        if number is None or self._trials[number].status != Trial.PAUSED:
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
        if not self._race.exhausted or self._race.incumbent is not None:
            return None
        # A sweep has a best trial: if there is no incumbent when the budget ends, the trial that
        # is paused nearest to the top is trained to the end, alone, and no other after it unless
        # it diverges.
        number = self._race.nearest()
        if number is None or set(self._running()) - {number}:
            return None
        before = self._beyond
        if before not in (None, number) and not self._race.runners[before].ended:
            return None
        self._beyond = number
        return number

    def _ahead(self, number: int) -> int:
        runner, ladder = self._race.runners[number], self._race.ladder
        # a trial counts as running until its pause is complete
        if runner.ended or runner.paused_at is not None:
            return 0
        reached = max(len(runner.losses), runner.bracket.first)
        return max(0, ladder[min(reached, len(ladder) - 1)].cost - self._cost(number))

    def restore(self, checkpoint_path: str) -> None:
        super().restore(checkpoint_path)
        promoted = [
            number for number, runner in self._race.runners.items() if runner.paused_at is None
        ]
        self._stranded = [
            n for n in promoted if n in self._active and self._active[n].status == Trial.PAUSED
        ]
