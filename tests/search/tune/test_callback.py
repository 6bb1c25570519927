"""What the callback takes over of a restored experiment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from foldrace.search.tune.callback import RunningSweep, SweepCallback, Waiting
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


def test_failures_are_counted_anew_from_each_checkpoint_with_more_training() -> None:
    """A trial may lose as many machines as it likes, as long as there is progress between."""
    callback = SweepCallback("counting")
    trial: Any = Trial("none", stub=True, config={"trial": 3}, max_failures=1)

    def fail() -> bool:
        trial.run_metadata.num_failures += 1
        return bool(trial.should_recover())

    def save(fold_epochs: int) -> None:
        trial.run_metadata.last_result = {"fold_epochs": fold_epochs}
        callback.on_checkpoint(0, [trial], trial, SimpleNamespace(path="x"))  # type: ignore[arg-type]

    with callback.acting_on(RunningSweep(TrialTable(total=2), None, None, None)):  # type: ignore[arg-type]
        for fold_epochs in range(1, 6):
            save(fold_epochs)
            assert fail()
        save(5)  # again what was saved before
        assert not fail()


def test_a_minute_without_a_trial_is_said_with_what_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seconds = iter([0.0, 30.0, 61.0, 120.0, 599.0, 601.0, 700.0, 800.0])
    waiting = Waiting(lambda: {"CPU": 3.0}, lambda: next(seconds))
    asked = SimpleNamespace(required_resources={"CPU": 1.0, "GPU": 1.0})
    pending: Any = SimpleNamespace(status=Trial.PENDING, placement_group_factory=asked)
    running: Any = SimpleNamespace(status=Trial.RUNNING)
    for _ in range(6):
        waiting.look([pending])
    assert [record.getMessage() for record in caplog.records] == [
        f"no trial could begin for {said} s: it asks for 1 CPU, 1 GPU on one machine; free are"
        " 3 CPU, 0 GPU on all together"
        for said in (61, 601)
    ]
    waiting.look([pending, running])
    waiting.look([pending])  # at 700 s it begins anew
    waiting.look([pending])
    assert len(caplog.records) == 3
    caplog.clear()
    starting = Waiting(lambda: None, iter([0.0, 100.0]).__next__)
    for _ in range(2):
        starting.look([pending])  # it has its CPU, and its worker imports torch
    assert not caplog.records
