"""Tune schedulers that know ladders and budgets: what all kinds share, and the two that wrap Ray's
own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.budget import Budget, Spending

if TYPE_CHECKING:
    from foldrace.trainables.training.reports import EpochReport

__all__ = ["FifoLadder", "LadderScheduler", "Live", "StoppingLadder"]

REPORT = "report"
_RUNG_TIME = "rung_time"


@dataclass(frozen=True)
class Live:
    """What a scheduler must ask of the process that it runs in.

    Attributes:
        slots: how many trials can train side by side now.
        elapsed: seconds spent on the sweep, all sessions together.
    """

    slots: Callable[[], int]
    elapsed: Callable[[], float]


_LIVE: dict[str, Live] = {}


class LadderScheduler(TrialScheduler):  # type: ignore[misc]
    """What every kind of scheduler keeps: where each trial stands, what has been spent, and
    whether more may start.

    Tune pickles its scheduler when a sweep begins and starts from that pickle when it is restored;
    it then adds every trial again, with its last result. So a scheduler is a function of its
    trials, and holds nothing of the process but a key (`acting_on`).

    It is the gate of the sweep's searcher as well: a new configuration is drawn when a worker is
    free for it.
    """

    def __init__(self, key: str, race: Race, budget: Budget | None = None) -> None:
        super().__init__()
        self._key, self._race, self._spending = key, race, Spending(budget or Budget())
        self._trials: dict[int, Trial] = {}
        self._costs: dict[int, tuple[int, float]] = {}
        self._active: dict[int, Trial] = {}

    @contextmanager
    def acting_on(self, live: Live) -> Iterator[None]:
        """Within this block, schedulers of this one's key ask ``live``."""
        _LIVE[self._key] = live
        try:
            yield
        finally:
            del _LIVE[self._key]

    @property
    def _live(self) -> Live:
        return _LIVE[self._key]

    @property
    def race(self) -> Race:
        """Where every trial stands."""
        return self._race

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The metric is the objective, which is minimised; nothing else will do."""
        return mode in (None, "min") and bool(super().set_search_properties(metric, mode, **spec))

    # the gate of the searcher

    def open(self) -> bool:
        """Whether a new configuration may start now: a worker is free for it, and no other trial
        has a better claim."""
        if self._race.exhausted or len(self._running()) >= self._live.slots():
            return False
        return self._claim() is None and self._affords_new()

    def over(self) -> bool:
        """Whether no trial will ever run again."""
        if self._running() or self._claim() is not None:
            return False
        if (
            not self._race.exhausted and not self._affords_new()
        ):  # asked when nothing runs: what was pledged may lapse
            self._race.exhausted = True
        return self._race.exhausted and self._claim() is None

    def exhausted(self) -> None:
        """There are no more new configurations."""
        self._race.exhausted = True

    def _note_end_of_search(self, tune_controller: Any) -> None:
        """A search that has ended says nothing any more. One that is taken up may have ended
        before its trials had."""
        if tune_controller.search_alg.is_finished():
            self.exhausted()

    def _claim(self) -> int | None:
        """The paused trial that should run next, if one should."""
        return None

    def _affords_new(self) -> bool:
        # starting Ray may take as long as a small time budget: one trial there is
        return not self._race.runners or self._affords(self._race.ladder[-1].cost)

    def _affords(self, fold_epochs: int) -> bool:
        """Whether a trial can be brought to the top, if that takes so much, beside those that are
        under way."""
        self._spending.elapsed = self._live.elapsed()
        if self._spending.budget.fold_epochs is not None:
            self._spending.pledged = sum(map(self._ahead, self._running()))
        return self._spending.affords(fold_epochs)

    def _ahead(self, number: int) -> int:
        """The fold-epochs that a trial will train before anything is decided about it."""
        runner = self._race.runners[number]
        return 0 if runner.gone else max(0, self._race.ladder[-1].cost - self._cost(number))

    def _cost(self, number: int) -> int:
        """The fold-epochs that a trial has behind it."""
        return self._costs.get(number, (0, 0.0))[0]

    def _running(self) -> dict[int, Trial]:
        """The trials that hold a worker, or wait for one that is free for them."""
        at_work = (Trial.PENDING, Trial.RUNNING)
        self._active = {
            number: trial for number, trial in self._active.items() if trial.status in at_work
        }
        return self._active

    # Tune's events

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A new trial, or one of a restored experiment with all that it has reached."""
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
        """Where the trial stands now, and whether it goes on."""
        number = trial.config["trial"]
        self._note(number, result[REPORT])
        self._spending.elapsed = self._live.elapsed()
        if self._spending.exceeded and self._race.leader is not None:
            return str(TrialScheduler.STOP)
        return self._decide(tune_controller, trial, result)

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        raise NotImplementedError

    def on_trial_complete(
        self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]
    ) -> None:
        """The trial has ended, and this is its last result: finished, diverged, or stopped."""
        number = trial.config["trial"]
        if REPORT in result:
            self._note(number, result[REPORT])
        self._race.end(number)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A paused or pending trial has been ended."""
        self._race.end(trial.config["trial"])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial has failed; if Tune tries it again, it adds it again."""
        self._race.end(trial.config["trial"])

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Pending trials are started by Tune itself."""
        return None

    def debug_string(self) -> str:
        """How many trials stand at each rung."""
        seen = [
            sum(len(bracket.scores[at]) for bracket in self._race.brackets)
            for at in range(len(self._race.ladder))
        ]
        return ", ".join(
            f"{count} at {rung}" for count, rung in zip(seen, self._race.ladder, strict=True)
        )

    def _note(self, number: int, report: EpochReport) -> None:
        """Takes a report into the race and the account."""
        fold_epochs, seconds = self._costs.get(number, (0, 0.0))
        if report.fold_epochs >= fold_epochs:
            self._costs[number] = (report.fold_epochs, report.seconds)
            self._spending.fold_epochs += report.fold_epochs - fold_epochs
            self._spending.train_seconds += report.seconds - seconds
        self._race.arrive(number, report.rungs)
        if report.diverged is not None:
            self._race.end(number)
        if self._race.leader is not None:
            self._spending.best = self._race.leader.score(len(self._race.ladder) - 1)

    def save(self, checkpoint_path: str) -> None:
        """Writes the state of the race; the trials themselves are Tune's to keep."""
        state = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_trials", "_active")
        }
        Path(checkpoint_path).write_bytes(pickle.dumps((state, list(self._active))))

    def restore(self, checkpoint_path: str) -> None:
        """Takes up where `save` was called; trials that this scheduler knows keep their places."""
        state, numbers = pickle.loads(Path(checkpoint_path).read_bytes())
        self.__dict__.update(state)
        self._active = {
            number: self._trials[number] for number in numbers if number in self._trials
        }


class FifoLadder(LadderScheduler):
    """Every trial is trained to the end, in the order of drawing."""

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return str(FIFOScheduler.CONTINUE)


class StoppingLadder(LadderScheduler):
    """Ray's ASHAScheduler, its rungs those of the ladder: a trial not among the best 1/η there
    stops for good."""

    def __init__(self, key: str, race: Race, budget: Budget | None = None) -> None:
        super().__init__(key, race, budget)
        self._rule = StoppingRule(race)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        self._rule.enter(trial)
        if trial.last_result and REPORT in trial.last_result:
            for rung, losses in enumerate(
                trial.last_result[REPORT].rungs
            ):  # that a restored trial has passed
                self._rule.goes_on(trial, rung, sum(losses) / len(losses))

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        rung = len(result[REPORT].rungs) - 1
        on = rung < 0 or self._rule.goes_on(trial, rung, result.get("val_loss"))
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]
    ) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        if REPORT in result:
            self._rule.complete(trial, len(result[REPORT].rungs) - 1, result.get("val_loss"))


class StoppingRule:
    """Ray's ASHAScheduler, told rungs where it expects a time."""

    def __init__(self, race: Race) -> None:
        self._factor = race.rule.reduction_factor
        # ASHA's milestones are powers of η: time is told to it as the power of the rung that a
        # trial has reached
        self.asha = ASHAScheduler(
            time_attr=_RUNG_TIME,
            max_t=self._factor ** (len(race.ladder) - 1) * (1 + 1e-9),
            grace_period=1,
            reduction_factor=self._factor,
            metric="val_loss",
            mode="min",
        )

    def enter(self, trial: Trial) -> None:
        """A trial starts."""
        self.asha.on_trial_add(None, trial)

    def goes_on(self, trial: Trial, rung: int, val_loss: float | None) -> bool:
        """Whether a trial that has reached this rung with this loss is among the best 1/η
        there."""
        return bool(
            self.asha.on_trial_result(None, trial, self._told(rung, val_loss))
            == TrialScheduler.CONTINUE
        )

    def complete(self, trial: Trial, rung: int, val_loss: float | None) -> None:
        """A trial has ended, and this is the last rung that it has reached."""
        self.asha.on_trial_complete(None, trial, self._told(rung, val_loss))

    def _told(self, rung: int, val_loss: float | None) -> dict[str, Any]:
        return {
            _RUNG_TIME: self._factor**rung if rung >= 0 else 0,
            **({} if val_loss is None else {"val_loss": val_loss}),
        }
