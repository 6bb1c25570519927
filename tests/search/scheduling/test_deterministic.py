"""A sweep on a virtual clock is a function of its curves and its slots: of no worker, no order, no
restart, no failure.

The controller is a fake of Tune's (tests/helpers/racing.py).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.deterministic import (
    DeterministicFifo,
    DeterministicPromotion,
    DeterministicStopping,
)
from foldrace.trainables.training.ladder import Rung
from tests.helpers.racing import FakeTune, Plan, check_race, make_report, make_result, plans

KINDS = st.sampled_from([DeterministicPromotion, DeterministicStopping, DeterministicFifo])


@dataclass
class Log:
    """What a searcher is told, and how much of it before each configuration that it draws."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def hear(self, number: int, value: float, step: int) -> None:
        self.told.append(("hear", number, value, step))

    def conclude(
        self, number: int, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        self.told.append(
            ("conclude", number, None if result is None else result.get("val_loss"), error)
        )


def scheduler_of(
    plan: Plan, kind: type[DeterministicPromotion], slots: int, log: Log
) -> DeterministicPromotion:
    class Told(Race):
        def enter(self, trial: int) -> None:
            log.told.append(("draw", trial))
            super().enter(trial)

        def promote(self, trial: int) -> None:
            log.told.append(("promote", trial, self.runners[trial].paused_at))
            super().promote(trial)

    scheduler = kind(
        "fake", Told(plan.ladder, plan.rule, trials=len(plan.losses)), plan.budget, slots=slots
    )
    scheduler.listener = log
    return scheduler


def check(sweep: FakeTune) -> None:
    check_race(sweep.scheduler.race)
    assert len(sweep.busy) <= sweep.plan.workers


def run(plan: Plan, kind: type[DeterministicPromotion], slots: int) -> tuple[Log, FakeTune]:
    log = Log()
    sweep = FakeTune(plan, scheduler_of(plan, kind, slots, log))
    return log, sweep.run(check)


def ends(sweep: FakeTune) -> dict[int, tuple[Any, ...]]:
    """Of each trial, how it has ended and the last that it has said."""
    return {
        trial.number: (
            trial.status,
            trial.last_result.get("fold_epochs"),
            trial.last_result.get("val_loss"),
        )
        for trial in sweep.trials
    }


@st.composite
def cases(draw: st.DrawFn, **options: Any) -> tuple[Plan, type[DeterministicPromotion], int]:
    plan = draw(plans(**options))
    budget = Budget(fold_epochs=draw(st.sampled_from([None, 1, 2, 4])))
    if budget.fold_epochs is not None:
        budget = Budget(fold_epochs=plan.ladder[-1].cost * budget.fold_epochs)
    if draw(st.booleans()):
        budget = replace(
            budget,
            target=float(np.nanmin(np.where(np.isfinite(plan.losses), plan.losses, 99.0))) + 1,
        )
    kind = draw(KINDS)
    rule = replace(plan.rule, brackets=1) if kind is not DeterministicPromotion else plan.rule
    return replace(plan, budget=budget, rule=rule), kind, draw(st.integers(1, 5))


PICKS = st.lists(st.integers(0, 9), min_size=1, max_size=7).map(tuple)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(), st.integers(1, 6), st.booleans(), PICKS)
def test_workers_and_the_order_of_events_change_nothing(
    case: tuple[Plan, type[DeterministicPromotion], int],
    workers: int,
    saves: bool,
    picks: tuple[int, ...],
) -> None:
    plan, kind, slots = case
    log, sweep = run(replace(plan, workers=1, saves=False, picks=None), kind, slots)
    other_log, other = run(replace(plan, workers=workers, saves=saves, picks=picks), kind, slots)
    assert other_log.told == log.told
    assert ends(other) == ends(sweep)
    assert all(trial.status == Trial.TERMINATED for trial in sweep.trials)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(fail=True), st.integers(1, 4), PICKS)
def test_failures_that_are_tried_again_change_nothing(
    case: tuple[Plan, type[DeterministicPromotion], int], workers: int, picks: tuple[int, ...]
) -> None:
    plan, kind, slots = case
    log, sweep = run(replace(plan, workers=1, failures=frozenset(), picks=None), kind, slots)
    other_log, other = run(
        replace(plan, workers=workers, saves=True, retries=True, picks=picks), kind, slots
    )
    assert other_log.told == log.told
    assert ends(other) == ends(sweep)


# none are drawn any more, and one that waits gets its last chance; cut off at its end, and again
# soon after
SPENT = Plan(
    (Rung(1, 1), Rung(1, 2)),
    Rule(1.5, first_wave=None),
    np.array([[[15.0, 13.5]], [[8.0, 9.0]]]),
    budget=Budget(4),
)


@example((SPENT, DeterministicPromotion, 1), 1, (0,), [6, 1], 9)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    cases(),
    st.integers(1, 4),
    PICKS,
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_a_sweep_that_is_cut_off_again_and_again_goes_on_as_if_it_had_not_been(
    case: tuple[Plan, type[DeterministicPromotion], int],
    workers: int,
    picks: tuple[int, ...],
    cuts: list[int],
    seed: int,
) -> None:
    plan, kind, slots = case
    log, sweep = run(replace(plan, workers=1, picks=None), kind, slots)
    plan = replace(plan, workers=workers, saves=True, picks=picks)
    part = FakeTune(plan, scheduler_of(plan, kind, slots, Log()))
    for cut in cuts:
        part.run(check, until=part.steps + cut)
        part = restored(part, kind, slots, random.Random(seed))
    assert isinstance(part.scheduler, DeterministicPromotion) and isinstance(
        part.scheduler.listener, Log
    )
    goes_on = part.alive  # else Tune takes no step, and all has been told before
    part.run(check)
    assert part.scheduler.listener.told == (log.told if goes_on else [])
    assert ends(part) == ends(sweep)
    assert all(trial.status == Trial.TERMINATED for trial in part.trials)
    finished = [
        trial
        for trial in part.trials
        if trial.last_result and trial.last_result["report"].finished
    ]
    assert all(
        trial.position == sweep.trials[trial.number].position for trial in finished
    )  # its checkpoint was written


def forget(trial: Any, sweep: FakeTune, position: int) -> None:
    """All that a trial has done since it was at a position is lost, but for what was told of it
    elsewhere."""
    trial.checkpoint = position
    report = (
        make_report(sweep.plan.losses[trial.number], sweep.plan.ladder, position - 1)
        if position
        else None
    )
    trial.last_result = make_result(trial.number, report) if report else {}


def restored(
    part: FakeTune, kind: type[DeterministicPromotion], slots: int, rng: random.Random
) -> FakeTune:
    """As Tune restores an experiment: what had not ended is pending, and added in whatever order.
    Some trials are known as they were earlier; Tune does not write down that a paused one was
    ended, but that the searcher has."""
    again = FakeTune(part.plan, scheduler_of(part.plan, kind, slots, Log()), ended=part.ended)
    trials = copy.deepcopy(part.trials)
    again.trials = list(trials)
    for trial in sorted(trials, key=lambda _: rng.random()):
        if trial.status != Trial.ERROR and not (
            trial.last_result and trial.last_result["report"].finished
        ):
            trial.set_status(Trial.PENDING)
            if rng.random() < 0.3:
                forget(trial, part, rng.randint(0, trial.checkpoint))
        elif (
            trial.status == Trial.TERMINATED and rng.random() < 0.3
        ):  # its end, and its last checkpoint, are lost
            trial.set_status(Trial.PENDING)
            trial.checkpoint = rng.randint(0, trial.position - 1)
        elif trial.status == Trial.RUNNING:  # again, after such a loss
            trial.set_status(Trial.PENDING)
        again.add(trial)
    return again


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases(fail=True), st.integers(1, 4), PICKS)
def test_what_fails_for_good_ends_and_the_sweep_goes_on(
    case: tuple[Plan, type[DeterministicPromotion], int], workers: int, picks: tuple[int, ...]
) -> None:
    plan, kind, slots = case
    _, sweep = run(
        replace(plan, workers=workers, retries=False, saves=False, picks=picks), kind, slots
    )
    assert all(trial.status in (Trial.TERMINATED, Trial.ERROR) for trial in sweep.trials)


def test_a_result_that_arrives_before_its_turn_is_held() -> None:
    """Trial 0 ends its slot first; trial 1 is at its rung long before, and the better one."""
    losses = np.array([[[3.0, 3.0, 3.0]], [[1.0, 1.0, 1.0]]])
    plan = Plan(
        (Rung(1, 1), Rung(1, 3)),
        Rule(first_wave=None, margin=None),
        losses,
        workers=2,
        picks=(1, 1, 0),
    )
    log, _ = run(plan, DeterministicPromotion, 2)
    assert log.told[:4] == [("draw", 0), ("draw", 1), ("hear", 0, 3.0, 1), ("hear", 1, 1.0, 1)]


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_with_as_many_workers_as_slots_the_order_is_that_of_time(slots: int) -> None:
    rng = np.random.default_rng(slots)
    losses = rng.random((9, 2, 4))
    plan = Plan((Rung(1, 1), Rung(1, 4), Rung(2, 4)), Rule(), losses)
    log, sweep = run(plan, DeterministicPromotion, slots)
    assert [number for kind, number, *_ in log.told if kind == "draw"] == list(range(9))
    assert sweep.scheduler.race.incumbent is not None
