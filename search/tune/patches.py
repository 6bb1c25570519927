"""Mends Ray Tune where a trial is lost by it, and where it keeps of each trial what nobody asks
for."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.trainable.metadata import _TrainingRunMetadata

__all__ = ["mend_tune"]

_process_failure = TuneController._process_trial_failure


def mend_tune() -> None:
    """Has Tune try a trial again that was given a worker which had died while it was kept for the
    next trial; and keep no statistics of a trial's metrics.

    Ray 2.60 tells Tune of such a death twice, of the actor and of the task that resets it. At the
    first word Tune puts the trial back into its queue, as it should; at the second it finds the
    trial waiting there and fails it for good, whatever ``max_failures`` says.

    The statistics are the means of each number's last five and ten values, and its extremes: to
    the sweep's end, half of what a trial takes in the driver's memory and in each snapshot. They
    are for `tune.ResultGrid.get_best_result` with another ``scope`` than the last result.
    """
    TuneController._process_trial_failure = _process_trial_failure
    _TrainingRunMetadata.update_metric = _keep_no_statistics


def _process_trial_failure(self: Any, trial: Trial, exception: Exception) -> None:
    if (
        trial in self._resetting_trials
        and trial.status != Trial.RUNNING
        and isinstance(exception, RayActorError)
    ):
        self._resetting_trials.discard(trial)  # the second word
    else:
        _process_failure(self, trial, exception)


def _keep_no_statistics(self: Any, metric: str, value: float, step: int | None = 1) -> None:
    """In place of what takes a metric's value into its statistics."""
