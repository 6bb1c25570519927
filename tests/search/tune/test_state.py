"""The trials of a sweep in memory: the best one, the counts, the time that is left."""

from __future__ import annotations

import math
import time

import pytest

from foldrace.search.sampling.comparison_plan import Phase, TrialRole
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable
from foldrace.trainables.training.reports import EpochReport, FoldReport


def report(*losses: float, epoch: int = 3) -> EpochReport:
    folds = tuple(
        FoldReport(k, epoch, epoch, False, None, {"val_loss": loss})
        for k, loss in enumerate(losses)
    )
    return EpochReport(epoch, folds, epoch * len(losses), 1.0, True)


def record(number: int, status: TrialStatus, *losses: float, epoch: int = 3) -> TrialRecord:
    return TrialRecord(
        number, {"lr": 0.1}, status, report(*losses, epoch=epoch) if losses else None
    )


def trial_table(
    *records: TrialRecord, total: int = 10, ago: float = 0.0, earlier: float = 0.0
) -> TrialTable:
    started = time.monotonic() - ago
    return TrialTable(
        total=total, earlier=earlier, started=started, records={r.number: r for r in records}
    )


COMPLETED, PRUNED, FAILED, RUNNING = (
    TrialStatus.COMPLETED,
    TrialStatus.PRUNED,
    TrialStatus.FAILED,
    TrialStatus.RUNNING,
)


def test_the_best_comes_first_and_a_tie_goes_to_the_earlier_trial() -> None:
    race = trial_table(
        record(4, COMPLETED, 0.2, 0.4),
        record(0, COMPLETED, 0.5, 0.5),
        record(2, COMPLETED, 0.3, 0.3),
        record(1, COMPLETED, 0.1, 0.1),
    )
    assert [trial.number for trial in race.ranking()] == [1, 2, 4, 0]
    assert race.best is race.records[1]


def test_only_a_completed_trial_can_win() -> None:
    others = (
        record(0, PRUNED, 0.001),
        record(1, RUNNING, 0.002),
        record(2, FAILED, 0.003),
        record(3, COMPLETED, math.inf),
    )
    race = trial_table(*others)
    assert race.best is None
    race.note(record(4, COMPLETED, 0.9))
    assert (
        [trial.number for trial in race.ranking()]
        == [4]
        == [race.best.number if race.best else None]
    )


def test_the_sums_follow_what_changes_in_a_trial() -> None:
    race = trial_table(record(0, COMPLETED, 0.2), record(1, RUNNING, 0.3))
    assert (race.settled, race.ended, race.fold_epochs) == (1, 1, 6)
    trial = race.records[1]
    trial.status = TrialStatus.PAUSED
    race.note(trial)
    assert (race.settled, race.ended, race.count(TrialStatus.PAUSED), race.count(RUNNING)) == (
        2,
        1,
        1,
        0,
    )
    trial.status, trial.report = COMPLETED, record(1, COMPLETED, 0.1).report
    race.note(trial)
    assert race.best is trial and race.fold_epochs == 6 and race.ended == 2
    for state in TrialStatus:
        assert race.count(state) == sum(each.status is state for each in race.records.values())


def test_a_promoted_trial_neither_turns_progress_back_nor_leaves_no_time() -> None:
    race = trial_table(*(record(n, TrialStatus.PAUSED, 0.1) for n in range(4)), total=4, ago=8.0)
    assert (race.settled, race.ended, race.remaining()) == (4, 0, 0)
    race.records[2].status = RUNNING
    race.note(race.records[2])
    assert (race.settled, race.remaining()) == (4, pytest.approx(2.0, abs=0.5))


def test_what_was_spent_before_counts_whenever_it_is_told() -> None:
    full = trial_table(record(0, TrialStatus.COMPLETED, 0.3))
    spent = full.fold_epochs
    full.spent_before = 30  # an extension tells it once the sweep has begun
    assert full.fold_epochs == spent + 30
    full.note(record(1, TrialStatus.COMPLETED, 0.2))
    assert full.fold_epochs == 2 * spent + 30


def test_a_comparisons_repeat_does_not_compete() -> None:
    race = trial_table(
        record(0, COMPLETED, 0.2), record(1, COMPLETED, 0.3), record(2, COMPLETED, 0.1)
    )
    roles = [
        TrialRole("sgd", Phase.DEFAULT),
        TrialRole("sgd", Phase.SEARCH),
        TrialRole("sgd", Phase.REPEAT, 1),
    ]
    for trial, role in zip(race.records.values(), roles, strict=True):
        trial.part = role
    assert [trial.number for trial in race.ranking()] == [0, 1]
    assert [trial.name for trial in race.records.values()] == [
        "trial 0 [sgd default]",
        "trial 1 [sgd]",
        "trial 2 [sgd repeat 1]",
    ]
    assert race.fold_epochs == 9  # but it costs


def test_pruned_trials_that_reached_more_come_first() -> None:
    race = trial_table(
        record(0, PRUNED, 0.3, epoch=1),
        record(1, PRUNED, 0.9, epoch=3),
        record(2, PRUNED, 0.1, epoch=1),
        record(3, PRUNED),
        record(4, COMPLETED, 0.5),
    )
    assert [trial.number for trial in race.pruned()] == [1, 2, 0]


def test_a_record_reads_its_last_report() -> None:
    trial = record(0, COMPLETED, 0.1, 0.2, 0.3)
    assert trial.val_loss == pytest.approx(0.2)
    assert trial.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert trial.fold_losses == [0.1, 0.2, 0.3]
    assert trial.best_epochs == [3, 3, 3]
    fresh = record(1, RUNNING)
    assert (fresh.val_loss, fresh.fold_losses, fresh.best_epochs) == (math.inf, [], [])
    assert math.isnan(fresh.standard_error)
    assert math.isnan(record(2, RUNNING, 0.1).standard_error)


def test_counts_and_costs() -> None:
    race = trial_table(
        record(0, COMPLETED, 0.1, 0.2), record(1, PRUNED, 0.3, 0.3, epoch=1), record(2, RUNNING)
    )
    assert [race.count(status) for status in (COMPLETED, PRUNED, FAILED, RUNNING)] == [1, 1, 0, 1]
    assert race.fold_epochs == 6 + 2


def test_what_remains_follows_from_the_trials_that_ended() -> None:
    race = trial_table(
        record(0, COMPLETED, 0.1), record(1, PRUNED, 0.1), record(2, RUNNING), ago=10.0
    )
    assert race.remaining() == pytest.approx(40.0, abs=1)  # 5 s a trial, 8 to go
    assert race.remaining(time_budget=25.0) == pytest.approx(15.0, abs=1)
    assert race.remaining(time_budget=5.0) == 0.0


def test_the_time_before_the_first_trial_is_no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    race = TrialTable(total=10, started=now)
    now += 60.0
    race.note(record(0, RUNNING))
    now += 4.0
    race.note(record(0, COMPLETED, 0.1))
    race.note(record(1, RUNNING))
    assert race.elapsed == 64.0
    assert race.remaining() == pytest.approx(36.0)  # 4 s a trial, 9 to go


def test_nothing_is_known_before_a_trial_has_ended() -> None:
    assert trial_table(record(0, RUNNING), ago=10.0).remaining() is None
    assert trial_table(record(0, RUNNING), ago=10.0).remaining(time_budget=60.0) is None
    assert trial_table(record(0, COMPLETED, 0.1), total=100, ago=10.0).remaining(
        60.0
    ) == pytest.approx(50.0, abs=1)


def test_the_time_before_an_interruption_counts() -> None:
    race = trial_table(
        record(0, COMPLETED, 0.1), record(1, COMPLETED, 0.1), total=4, ago=10.0, earlier=30.0
    )
    assert race.elapsed == pytest.approx(40.0, abs=1)
    assert race.remaining() == pytest.approx(40.0, abs=2)
