"""What the callback takes over of a restored experiment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial

from foldrace.search.tune.callback import RunningSweep, SweepCallback
from foldrace.search.tune.state import TrialTable
from foldrace.trainables.training.reports import EpochReport, FoldReport


def ended(number: int, loss: float, *, finished: bool) -> Any:
    folds = (FoldReport(0, 2, 2, False, None, {"val_loss": loss}),)
    report = EpochReport(2, folds, 2, 0.5, finished)
    config = {"trial": number, "params": {"lr": 0.1}}
    return SimpleNamespace(status=Trial.TERMINATED, config=config, last_result={"report": report})


def test_trials_that_had_all_ended_before_are_taken_over_without_a_step() -> None:
    trials, callback = TrialTable(total=2), SweepCallback("restored")
    with callback.acting_on(RunningSweep(trials, None, None, None)):  # type: ignore[arg-type]
        callback.on_experiment_end([ended(0, 0.3, finished=True), ended(1, 0.2, finished=False)])
    assert trials.best is not None
    assert (trials.best.number, trials.best.val_loss) == (0, 0.3)
    assert (len(trials.records), trials.ended) == (2, 2)


def test_trials_of_this_session_are_left_as_they_are() -> None:
    trials, callback = TrialTable(total=2), SweepCallback("fresh")
    trial = ended(0, 0.3, finished=True)
    with callback.acting_on(RunningSweep(trials, None, None, None)):  # type: ignore[arg-type]
        callback.on_step_begin(0, [trial])
        before = trials.records[0]
        callback.on_experiment_end([trial])
    assert trials.records[0] is before
