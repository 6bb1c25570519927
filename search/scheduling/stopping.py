"""Ray's ASHAScheduler on a ladder: a trial that is not among the best 1/η at a rung is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.base import REPORT, LadderScheduler
from foldrace.search.scheduling.budget import Budget

__all__ = ["StoppingLadder", "StoppingRule"]

_RUNG_TIME = "rung_time"


class StoppingLadder(LadderScheduler):
    """Stops a trial for good unless it is among the best 1/η that have reached its rung."""

    def __init__(self, key: str, race: Race, budget: Budget | None = None) -> None:
        super().__init__(key, race, budget)
        self._rule = StoppingRule(race)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        self._rule.enter(trial)
        if trial.last_result and REPORT in trial.last_result:
            # a restored trial: the rungs that it has reached before
            for rung, losses in enumerate(trial.last_result[REPORT].rungs):
                self._rule.continues(trial, rung, sum(losses) / len(losses))

    def _decide(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        rung = len(result[REPORT].rungs) - 1
        on = rung < 0 or self._rule.continues(trial, rung, result.get("val_loss"))
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]
    ) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        if REPORT in result:
            self._rule.complete(trial, len(result[REPORT].rungs) - 1, result.get("val_loss"))


class StoppingRule:
    """Ray's ASHAScheduler with rungs of a ladder in place of its milestones in time."""

    def __init__(self, race: Race) -> None:
        self._factor = race.rule.reduction_factor
        # ASHA's milestones are powers of η, so rung r is reported as the time η^r
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

    def continues(self, trial: Trial, rung: int, val_loss: float | None) -> bool:
        """Whether a trial with this loss is among the best 1/η that have reached ``rung``."""
        decision = self.asha.on_trial_result(None, trial, self._result(rung, val_loss))
        return bool(decision == TrialScheduler.CONTINUE)

    def complete(self, trial: Trial, rung: int, val_loss: float | None) -> None:
        """A trial has ended; ``rung`` is the last one that it has reached."""
        self.asha.on_trial_complete(None, trial, self._result(rung, val_loss))

    def _result(self, rung: int, val_loss: float | None) -> dict[str, Any]:
        return {
            _RUNG_TIME: self._factor**rung if rung >= 0 else 0,
            **({} if val_loss is None else {"val_loss": val_loss}),
        }
