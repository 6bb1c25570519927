"""Ray's ASHA on a ladder decides as Ray's ASHA does; and fifo lets everything train to the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from foldrace.search.scheduling.base import FifoLadder, RunState
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.stopping import StoppingLadder
from foldrace.trainables.training.ladder import Rung, lockstep_ladder
from tests.helpers.racing import (
    FakeTrial,
    FakeTune,
    Plan,
    Watched,
    make_report,
    make_result,
    plans,
    random_losses,
)

FREE = RunState(slots=lambda: 99, elapsed=lambda: 0.0)


class Both:
    """The same results told to a StoppingLadder and to Ray's ASHAScheduler as Ray's users would
    set it up."""

    def __init__(self, losses: np.ndarray, factor: float = 3.0) -> None:
        self.losses, (_, folds, epochs) = losses, losses.shape
        self.ladder = lockstep_ladder(epochs, folds, reduction_factor=factor)
        self.ours = StoppingLadder("both", Watched(self.ladder, Rule(factor), trials=len(losses)))
        self.rays = ASHAScheduler(
            time_attr="epoch",
            grace_period=1,
            max_t=epochs,
            reduction_factor=factor,
            metric="val_loss",
            mode="min",
        )
        self.trials = [FakeTrial(number) for number in range(len(losses))]
        for trial in self.trials:
            self.tell("on_trial_add", trial)

    def tell(self, event: str, *arguments: Any) -> tuple[Any, Any]:
        with self.ours.acting_on(FREE):
            return getattr(self.ours, event)(None, *arguments), getattr(self.rays, event)(
                None, *arguments
            )

    def advance(self, trial: FakeTrial) -> bool:
        """One epoch more; whether the trial may go on."""
        report = make_report(self.losses[trial.number], self.ladder, trial.position)
        trial.position += 1
        result = make_result(trial.number, report)
        trial.last_result = result
        if not report.finished:
            ours, rays = self.tell("on_trial_result", trial, result)
            assert ours == rays, (trial.number, report.epoch)
            if ours == TrialScheduler.CONTINUE:
                return True
        self.tell("on_trial_complete", trial, result)
        return False


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([9, 27]),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_on_a_lockstep_ladder_asha_decides_as_rays_own(
    seed: int, epochs: int, folds: int, random: Any
) -> None:
    both = Both(random_losses(seed, (8, folds, epochs), 0.2))
    training = list(both.trials)
    while training:
        trial = random.choice(training)
        if not both.advance(trial):
            training.remove(trial)


@pytest.mark.parametrize(
    ("epochs", "folds", "factor"),
    [
        (10, 5, 3.0),
        (50, 2, 1.1),
        (30, 3, 2.0),
        (9, 1, 10.0),
        (1, 3, 3.0),
        (2, 1, 3.0),
        (50, 10, 4.5),
    ],
)
def test_every_rung_of_a_ladder_is_one_of_ashas(epochs: int, folds: int, factor: float) -> None:
    ladder = lockstep_ladder(epochs, folds, reduction_factor=factor)
    plan = Plan(ladder, Rule(factor), np.ones((3, folds, epochs)))
    sweep = FakeTune(plan, plan.scheduler(StoppingLadder)).run()
    assert sweep.arrivals == [0, 1, 2], "equal losses stop nobody"
    assert isinstance(sweep.scheduler, StoppingLadder)
    assert [len(recorded) for _, recorded in sweep.scheduler._rule.asha._brackets[0]._rungs] == [
        3
    ] * len(ladder)


def test_asha_compares_on_any_ladder_that_rises() -> None:
    ladder = (Rung(1, 2), Rung(1, 5), Rung(3, 5))
    losses = np.array([[[5.0 + number] * 5] * 3 for number in (0, 3, 2, 2)])
    plan = Plan(ladder, Rule(), losses)
    sweep = FakeTune(plan, plan.scheduler(StoppingLadder)).run()
    assert sweep.arrivals == [0]
    assert [trial.position for trial in sweep.trials] == [7, 2, 2, 2]


def test_a_stopped_trial_is_not_started_again_by_a_restored_scheduler() -> None:
    both = Both(np.array([[[1.0] * 9], [[9.0] * 9], [[0.5] * 9]]))
    assert both.advance(both.trials[0])
    assert not both.advance(both.trials[1])
    both.trials[1].set_status(Trial.TERMINATED)
    again = StoppingLadder("again", Watched(both.ladder, Rule()))
    with again.acting_on(FREE):
        for trial in reversed(both.trials):
            again.on_trial_add(None, trial)
        assert sorted(again._running()) == [0, 2]
        rungs = [dict(recorded) for _, recorded in again._rule.asha._brackets[0]._rungs]
        assert rungs == [
            dict(recorded) for _, recorded in both.ours._rule.asha._brackets[0]._rungs
        ]
        assert again.choose_trial_to_run(None) is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plans(fail=True))
def test_fifo_trains_every_trial_to_the_end(plan: Plan) -> None:
    sweep = FakeTune(plan, plan.scheduler(FifoLadder)).run()
    broken = (
        set() if plan.retries else {number for number, position in plan.failures if position >= 0}
    )
    assert set(plan.good) - broken <= set(sweep.arrivals) <= set(plan.good)
    assert not sweep.race.promotions


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plans(fail=True))
def test_stopping_ends_and_pauses_nobody(plan: Plan) -> None:
    plan = replace(plan, rule=replace(plan.rule, brackets=1), saves=True)
    sweep = FakeTune(plan, plan.scheduler(StoppingLadder)).run()
    assert all(trial.status in (Trial.TERMINATED, Trial.ERROR) for trial in sweep.trials)
    assert all(trial.checkpoint == 0 for trial in sweep.trials)


def test_fifo_ends_with_its_target() -> None:
    losses = np.array([[[5.0] * 3], [[4.0] * 3], [[3.0] * 3], [[2.0] * 3]])
    plan = Plan((Rung(1, 3),), Rule(), losses, budget=Budget(target=4.0))
    assert FakeTune(plan, plan.scheduler(FifoLadder)).run().arrivals == [0, 1]


@pytest.mark.parametrize("kind", [FifoLadder, StoppingLadder])
def test_fold_epochs_are_kept_by_several_workers_side_by_side(kind: type) -> None:
    plan = Plan(
        lockstep_ladder(9, 5), Rule(), np.ones((8, 5, 9)), workers=4, budget=Budget(fold_epochs=60)
    )
    assert FakeTune(plan, plan.scheduler(kind)).run().fold_epochs <= 60


def test_only_a_loss_to_minimise_will_do() -> None:
    scheduler = FifoLadder("one", Watched((Rung(1, 1),)))
    assert not scheduler.set_search_properties("val_loss", "max")
    assert scheduler.set_search_properties("val_loss", "min")
