"""A sweep that is cut off at any step and taken up again ends like one that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial

from foldrace.search.scheduling.base import FifoLadder
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import StoppingLadder
from foldrace.trainables.training.ladder import Rung, default_ladder
from tests.helpers.racing import (
    PLAIN,
    FakeTune,
    Plan,
    budgets,
    check_race,
    check_sweep,
    plans,
    reloaded,
    restarted,
    standing,
)

ORDERS = st.permutations(range(14))
"""In which Tune adds the trials again: that of their last results."""


def begin(plan: Plan, until: int | None = None) -> FakeTune:
    return FakeTune(plan, plan.scheduler()).run(check_sweep, until=until)


def waiting(sweep: FakeTune) -> list[list[tuple[float, int]]]:
    """Who waits at each rung, of those that neither train nor are about to."""
    idle = {trial.number for trial in sweep.trials if trial.status == Trial.PAUSED}
    return [
        [one for one in rung if one[1] in idle]
        for bracket in sweep.race.brackets
        for rung in bracket.paused
    ]


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(plan=plans(fail=True), data=st.data())
def test_a_saved_scheduler_goes_on_exactly_as_it_would_have(
    tmp_path: Path, plan: Plan, data: st.DataObject
) -> None:
    plan = replace(plan, retries=False)  # else a trial may be pending with a result: see below
    whole = begin(plan)
    part = begin(plan, until=data.draw(st.integers(0, whole.steps)))
    again = reloaded(part, plan.scheduler(), str(tmp_path / "state")).run(check_sweep)
    assert standing(again) == standing(whole)
    assert again.race.promotions == whole.race.promotions
    assert (again.fold_epochs, again.steps) == (whole.fold_epochs, whole.steps)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(plans(diverging=(0.0,), fail=True), st.data(), ORDERS)
def test_a_new_scheduler_learns_from_the_trials_where_all_of_them_stand(
    plan: Plan, data: st.DataObject, order: list[int]
) -> None:
    part = begin(plan, until=data.draw(st.integers(0, 60)))
    again = restarted(part, plan.scheduler(), order)
    check_race(again.race)
    assert standing(again) == standing(part)
    still = {trial.number for trial in part.trials if trial.status == Trial.PAUSED}
    both = [[one for one in rung if one[1] in still] for rung in waiting(again)]
    assert both == waiting(part)
    ends = {
        trial.number: trial.status
        for trial in part.trials
        if trial.status in (Trial.ERROR, Trial.TERMINATED)
    }
    assert {number: again.trials[number].status for number in ends} == ends


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plans(diverging=(0.0,), fail=True, workers=1), st.data(), ORDERS)
def test_with_one_worker_a_restored_sweep_ends_like_the_uninterrupted_one(
    plan: Plan, data: st.DataObject, order: list[int]
) -> None:
    in_training = frozenset(
        place for place in plan.failures if place[1] >= 0
    )  # a pause that is cut off cannot fail
    plan = replace(plan, retries=False, failures=in_training)
    whole = begin(plan)
    part = begin(plan, until=data.draw(st.integers(0, whole.steps)))
    again = restarted(part, plan.scheduler(), order).run(check_sweep)
    assert standing(again) == standing(whole)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(plans(diverging=(0.0,), workers=1), st.integers(0, 2), st.data(), ORDERS)
def test_with_one_worker_a_restored_sweep_spends_the_same_budget(
    plan: Plan, number: int, data: st.DataObject, order: list[int]
) -> None:
    plan = replace(plan, budget=list(budgets(plan.ladder[-1].cost))[number], saves=False)
    whole = begin(plan)
    part = begin(plan, until=data.draw(st.integers(0, whole.steps)))
    again = restarted(part, plan.scheduler(), order).run(check_sweep)
    assert standing(again) == standing(whole)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(plans(fail=True), st.data(), ORDERS)
def test_however_many_workers_and_interruptions_a_sweep_ends_soundly(
    plan: Plan, data: st.DataObject, order: list[int]
) -> None:
    sweep = begin(plan, until=data.draw(st.integers(0, 30)))
    for _ in range(data.draw(st.integers(1, 3))):
        sweep = restarted(sweep, plan.scheduler(), order)
        sweep.run(check_sweep, until=sweep.steps + data.draw(st.integers(0, 20)))
    sweep.run(check_sweep)
    assert all(trial.status in (Trial.TERMINATED, Trial.ERROR) for trial in sweep.trials)
    if not plan.failures:
        assert (sweep.race.incumbent is not None) == bool(plan.good)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(plans(diverging=(0.0,)), ORDERS)
def test_a_sweep_whose_search_had_ended_ends_when_it_is_taken_up(
    plan: Plan, order: list[int]
) -> None:
    """Tune does not write down that paused trials were ended."""
    whole = begin(plan)
    for trial in whole.trials:
        if not trial.last_result["report"].finished:
            trial.set_status(Trial.PAUSED)
    again = restarted(whole, plan.scheduler(), order).run(check_sweep)
    assert standing(again) == standing(whole)
    assert all(trial.status == Trial.TERMINATED for trial in again.trials)


def test_a_diverged_trial_keeps_its_places_at_the_rungs_below() -> None:
    losses = np.array([[[8.0, np.nan, np.nan]], [[9.0, 9.0, 9.0]], [[9.5, 9.5, 9.5]]])
    plan = Plan((Rung(1, 1), Rung(1, 2), Rung(1, 3)), Rule(first_wave=0.0), losses)
    part = begin(plan, until=2)
    assert part.trials[0].status == Trial.TERMINATED
    again = restarted(part, plan.scheduler(), [0])
    assert standing(again) == standing(part)


def test_a_saved_state_and_trials_that_tune_has_made_pending_go_together(tmp_path: Path) -> None:
    losses = np.array([[[8.0, 7.0, 6.0]]])
    plan = Plan((Rung(1, 1), Rung(1, 3)), Rule(first_wave=0.0), losses)
    part = begin(plan, until=1)  # promoted as it arrived, and has not reported since
    part.scheduler.save(str(tmp_path / "state"))
    again = restarted(part, plan.scheduler(), [0])
    again.scheduler.restore(str(tmp_path / "state"))
    assert again.run().arrivals == [0]


def test_a_trial_that_waited_waits_again_and_one_on_its_way_starts() -> None:
    losses = np.array([[[5.0] * 9], [[4.0] * 9], [[3.0] * 9], [[2.0] * 9]])
    plan = Plan(default_ladder(9, 1), replace(PLAIN, reduction_factor=2.0), losses)
    part = begin(plan, until=2)
    assert [trial.status for trial in part.trials] == [Trial.PAUSED, Trial.RUNNING]
    again = restarted(part, plan.scheduler(), [1, 0])
    assert [trial.status for trial in again.trials] == [Trial.PAUSED, Trial.PAUSED]
    part = begin(plan, until=3)
    again = restarted(part, plan.scheduler(), [1, 0])
    assert [trial.status for trial in again.trials] == [Trial.PAUSED, Trial.PENDING]
    assert again.race.runners[1].paused_at is None


@pytest.mark.parametrize("kind", [PromotionScheduler, StoppingLadder, FifoLadder])
def test_every_kind_saves_and_restores_what_it_has_spent(kind: type, tmp_path: Path) -> None:
    losses = np.array([[[5.0] * 9] * 2, [[4.0] * 9] * 2])
    plan = Plan(default_ladder(9, 2), Rule(), losses, budget=Budget(fold_epochs=18))
    sweep = FakeTune(plan, plan.scheduler(kind)).run(until=5)
    spent = sweep.scheduler._spending.fold_epochs
    again = reloaded(sweep, plan.scheduler(kind), str(tmp_path / "state"))
    assert again.scheduler._spending.fold_epochs == spent == sweep.fold_epochs
    assert again.run().arrivals
