"""The scheduler that all kinds share: where each trial stands, what is spent, who may start."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from foldrace.search.live_objects import attached, live_object
from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.budget import Budget, Spending
from foldrace.trainables.training.reports import EpochReport

__all__ = ["REPORT", "FifoLadder", "LadderScheduler", "RunState"]

REPORT = "report"
"""The key of the `EpochReport` in a trial's result."""


@dataclass(frozen=True)
class RunState:
    """What a scheduler reads of the process that it runs in.

    Attributes:
        slots: how many trials can train side by side now.
        elapsed: seconds spent on the sweep, over all sessions.
    """

    slots: Callable[[], int]
    elapsed: Callable[[], float]


class LadderScheduler(TrialScheduler):  # type: ignore[misc]
    """A Tune scheduler that knows the ladder, the race and the budget.

    Tune pickles its scheduler when a sweep begins, and starts from that pickle when the sweep is
    restored; it then adds every trial again, with its last result. So a scheduler's state is a
    function of its trials, and the scheduler keeps only a key to the live `RunState`
    (`foldrace.search.live_objects`).

    It is also the gate of the sweep's searcher (`foldrace.search.sampling.optuna_search.Gate`): a
    new configuration is drawn only when a worker is free for it.

    Args:
        key: unique to the sweep in this process.
    """

    def __init__(self, key: str, race: Race, budget: Budget | None = None) -> None:
        super().__init__()
        self._key, self._race, self._spending = key, race, Spending(budget or Budget())
        self._trials: dict[int, Trial] = {}
        self._costs: dict[int, tuple[int, float]] = {}
        self._active: dict[int, Trial] = {}

    def acting_on(self, state: RunState) -> AbstractContextManager[None]:
        """Within this block, schedulers with this one's key read ``state``."""
        return attached(self._key, state)

    @property
    def _run(self) -> RunState:
        return live_object(RunState, self._key)

    @property
    def race(self) -> Race:
        """Where every trial stands."""
        return self._race

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accepts the objective, which is minimised; refuses ``mode="max"``."""
        return mode in (None, "min") and bool(super().set_search_properties(metric, mode, **spec))

    # --- the gate of the searcher ----------------------------------------------------------------

    def open(self) -> bool:
        """Whether a new configuration may start now: a worker is free for it, and no paused trial
        is to be promoted instead."""
        if self._race.exhausted or len(self._running()) >= self._run.slots():
            return False
        return self._claim() is None and self._affords_new()

    def over(self) -> bool:
        """Whether no trial will ever run again."""
        if self._running() or self._claim() is not None:
            return False
        # no trial is running here, so nothing that is pledged can become free later
        if not self._race.exhausted and not self._affords_new():
            self._race.exhausted = True
        return self._race.exhausted and self._claim() is None

    def exhausted(self) -> None:
        """No new configurations are left."""
        self._race.exhausted = True

    def _note_end_of_search(self, tune_controller: Any) -> None:
        """Calls `exhausted` if the searcher has finished: a finished searcher calls nothing any
        more, and that of a restored sweep may have finished before its trials."""
        if tune_controller.search_alg.is_finished():
            self.exhausted()

    def _claim(self) -> int | None:
        """The paused trial to run next, if there is one."""
        return None

    def _affords_new(self) -> bool:
        # starting Ray may take as long as a small time budget: the first trial always runs
        return not self._race.runners or self._affords(self._race.ladder[-1].cost)

    def _affords(self, fold_epochs: int) -> bool:
        """Whether the budget allows that many fold-epochs beside those that the running trials
        will still train."""
        self._spending.elapsed = self._run.elapsed()
        if self._spending.budget.fold_epochs is not None:
            self._spending.pledged = sum(map(self._ahead, self._running()))
        return self._spending.affords(fold_epochs)

    def _ahead(self, number: int) -> int:
        """The fold-epochs that a trial will train before the next decision about it."""
        runner = self._race.runners[number]
        return 0 if runner.ended else max(0, self._race.ladder[-1].cost - self._cost(number))

    def _cost(self, number: int) -> int:
        """The fold-epochs that a trial has trained."""
        return self._costs.get(number, (0, 0.0))[0]

    def _running(self) -> dict[int, Trial]:
        """The trials that have a worker, or are about to get one."""
        at_work = (Trial.PENDING, Trial.RUNNING)
        self._active = {
            number: trial for number, trial in self._active.items() if trial.status in at_work
        }
        return self._active

    # --- Tune's events ---------------------------------------------------------------------------

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A new trial, or one of a restored experiment with its last result."""
        number = trial.config["trial"]
        self._trials[number] = trial
        self._race.enter(number)
        report = (trial.last_result or {}).get(REPORT)
        if report is not None:
            self._note(number, report)
        if trial.status in (Trial.TERMINATED, Trial.ERROR):
            self._race.end(number)
        else:
            self._active[number] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Notes the result; stops the trial if the budget is spent and there is an incumbent."""
        number = trial.config["trial"]
        self._note(number, result[REPORT])
        self._spending.elapsed = self._run.elapsed()
        if self._spending.exceeded and self._race.incumbent is not None:
            return str(TrialScheduler.STOP)
        return self._decide(tune_controller, trial, result)

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        raise NotImplementedError

    def on_trial_complete(
        self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]
    ) -> None:
        """The trial has ended with this result: completed, diverged, or stopped."""
        number = trial.config["trial"]
        if REPORT in result:
            self._note(number, result[REPORT])
        self._race.end(number)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A paused or pending trial has been ended."""
        self._race.end(trial.config["trial"])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial has failed; if Tune retries it, it adds it again."""
        self._race.end(trial.config["trial"])

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """None: Tune starts pending trials by itself."""
        return None

    def debug_string(self) -> str:
        """How many trials have reached each rung."""
        seen = [
            sum(len(bracket.scores[at]) for bracket in self._race.brackets)
            for at in range(len(self._race.ladder))
        ]
        return ", ".join(
            f"{count} at {rung}" for count, rung in zip(seen, self._race.ladder, strict=True)
        )

    def _note(self, number: int, report: EpochReport) -> None:
        """Enters a report into the race and the spending."""
        fold_epochs, seconds = self._costs.get(number, (0, 0.0))
        if report.fold_epochs >= fold_epochs:
            self._costs[number] = (report.fold_epochs, report.seconds)
            self._spending.fold_epochs += report.fold_epochs - fold_epochs
            self._spending.train_seconds += report.seconds - seconds
        self._race.arrive(number, report.rungs)
        if report.diverged is not None:
            self._race.end(number)
        self._note_incumbent()

    def _note_incumbent(self) -> None:
        if self._race.incumbent is not None:
            self._spending.best = self._race.incumbent.score(len(self._race.ladder) - 1)

    def save(self, checkpoint_path: str) -> None:
        """Writes the state of the race; Tune keeps the trials itself."""
        state = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_trials", "_active")
        }
        Path(checkpoint_path).write_bytes(pickle.dumps((state, list(self._active))))

    def restore(self, checkpoint_path: str) -> None:
        """Continues from the state that `save` wrote, with the trials added since."""
        state, numbers = pickle.loads(Path(checkpoint_path).read_bytes())
        self.__dict__.update(state)
        self._active = {
            number: self._trials[number] for number in numbers if number in self._trials
        }


class FifoLadder(LadderScheduler):
    """Trains every trial to the top of the ladder, in the order of drawing."""

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return str(TrialScheduler.CONTINUE)
