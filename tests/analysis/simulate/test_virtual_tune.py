"""The virtual Tune: the order of events, divergence, several workers, memory."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.analysis.simulate.virtual_tune import RecordedSteps, VirtualTune
from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.base import FifoLadder, LadderScheduler
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import StoppingLadder
from foldrace.trainables.training.ladder import Rung, default_ladder

HALVING = Rule(reduction_factor=2.0, first_wave=None, margin=None)


def constant(
    scores: Sequence[float], folds: int = 1, epochs: int = 2, seconds: float = 1.0
) -> Curves:
    """Configurations whose loss never changes."""
    loss = np.broadcast_to(np.array(scores)[:, None, None], (len(scores), folds, epochs)).copy()
    return Curves(loss, np.full(loss.shape, seconds))


def logged(kind: type[LadderScheduler]) -> type[LadderScheduler]:
    """The same scheduler, with a list ``events`` of what Tune has told it."""

    def note(name: str) -> Any:
        def method(self: Any, controller: Any, trial: Any, *rest: Any) -> Any:
            answer = getattr(kind, name)(self, controller, trial, *rest)
            trained = controller.now, trial.config["trial"], trial.status
            self.__dict__.setdefault("events", []).append(
                (name.removeprefix("on_trial_"), *trained, answer)
            )
            return answer

        return method

    names = ("on_trial_add", "on_trial_result", "on_trial_complete", "on_trial_remove")
    return type("Logged", (kind,), {name: note(name) for name in names})


def ran(
    kind: type[LadderScheduler],
    curves: Curves,
    ladder: Sequence[Rung],
    rule: Rule = HALVING,
    workers: int = 1,
) -> tuple[VirtualTune, list[tuple[Any, ...]]]:
    count = len(curves.loss)
    scheduler = logged(kind)("test", Race(ladder, rule, trials=count))
    sweep = VirtualTune(scheduler, RecordedSteps(curves, ladder), range(count), workers)
    sweep.run()
    return sweep, scheduler.events


def test_a_trial_is_paused_promoted_and_stopped_as_by_tunes_controller() -> None:
    """Two rungs, one in two passes: trial 1 is better than 0 and goes on at once; 0 is ended when
    nothing is left."""
    sweep, events = ran(PromotionScheduler, constant([0.2, 0.1]), (Rung(1, 1), Rung(1, 2)))
    assert events == [
        ("add", 0.0, 0, "PENDING", None),
        ("result", 1.0, 0, "RUNNING", "PAUSE"),
        ("add", 1.0, 1, "PENDING", None),
        ("result", 2.0, 1, "RUNNING", "CONTINUE"),
        (
            "complete",
            3.0,
            1,
            "RUNNING",
            None,
        ),  # a result that is the last is for no scheduler to decide on
        ("remove", 3.0, 0, "PAUSED", None),
    ]
    assert [(one.configuration, one.fold_epochs, one.seconds) for one in sweep.completions] == [
        (1, 3, 3.0)
    ]


def test_a_paused_trial_goes_on_from_where_it_stood() -> None:
    """Trial 0 is the better of two and is promoted once the other has been seen: it trains one
    epoch, not two."""
    sweep, events = ran(PromotionScheduler, constant([0.1, 0.2]), (Rung(1, 1), Rung(1, 2)))
    assert [event[:3] for event in events] == [
        ("add", 0.0, 0),
        ("result", 1.0, 0),
        ("add", 1.0, 1),
        ("result", 2.0, 1),
        ("complete", 3.0, 0),
        ("remove", 3.0, 1),
    ]
    assert (sweep.fold_epochs, sweep.now) == (3, 3.0)


def test_asha_stops_a_trial_for_good() -> None:
    sweep, events = ran(StoppingLadder, constant([0.1, 0.2]), (Rung(1, 1), Rung(1, 2)))
    assert ("result", 3.0, 1, "RUNNING", "STOP") in events
    assert events[-1] == ("complete", 3.0, 1, "RUNNING", None)
    assert [completion.configuration for completion in sweep.completions] == [0]


@pytest.mark.parametrize("kind", [FifoLadder, PromotionScheduler, StoppingLadder])
def test_a_diverged_configuration_ends_and_never_wins(kind: type[LadderScheduler]) -> None:
    curves = constant([0.0, 0.2, 0.3, 0.4], folds=2, epochs=4)
    curves.loss[0, 0, 2:] = math.nan  # the best until then
    ladder = default_ladder(4, 2, reduction_factor=2.0)
    sweep, events = ran(kind, curves, ladder)
    assert 0 not in {completion.configuration for completion in sweep.completions}
    assert [one.configuration for one in sweep.completions[:1]] == (
        [] if kind is StoppingLadder else [1]
    )  # all gave way to it
    ends = [event for event in events if event[0] in ("complete", "remove") and event[2] == 0]
    assert [event[0] for event in ends] == ["complete"]
    assert sum(event[0] in ("complete", "remove") for event in events) == 4


def test_workers_train_side_by_side_from_the_start() -> None:
    one, _ = ran(FifoLadder, constant([0.1] * 8, folds=3, epochs=5), (Rung(3, 5),))
    four, _ = ran(FifoLadder, constant([0.1] * 8, folds=3, epochs=5), (Rung(3, 5),), workers=4)
    many, events = ran(
        FifoLadder, constant([0.1] * 8, folds=3, epochs=5), (Rung(3, 5),), workers=512
    )
    assert [sweep.now for sweep in (one, four, many)] == [120.0, 30.0, 15.0]
    assert {sweep.fold_epochs for sweep in (one, four, many)} == {120}
    assert [event[:2] for event in events[:8]] == [("add", 0.0)] * 8


def test_never_more_trials_train_than_there_are_workers() -> None:
    random = np.random.default_rng(0)
    loss = random.uniform(0.1, 1.0, (20, 2, 4))
    curves = Curves(loss, random.uniform(1.0, 2.0, loss.shape))
    sweep, _ = ran(
        PromotionScheduler, curves, default_ladder(4, 2, reduction_factor=2.0), workers=3
    )
    serial, _ = ran(PromotionScheduler, curves, default_ladder(4, 2, reduction_factor=2.0))
    assert sweep.now >= sweep.fold_epochs * 1.0 / 3
    assert serial.now / 3.5 < sweep.now < serial.now


def test_seconds_are_those_of_the_recording() -> None:
    curves = constant([0.1, 0.2, 0.3], folds=2, epochs=3)
    curves.seconds[:] = np.arange(18).reshape(3, 2, 3)
    sweep, _ = ran(FifoLadder, curves, default_ladder(3, 2))
    assert sweep.now == curves.seconds.sum()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_trials() -> None:
    """2,000 trials on 64 workers: the second thousand needs a few KB each, which is what a race
    knows of a trial."""
    random = np.random.default_rng(0)
    epochs = np.arange(1, 10)
    level, rate = random.uniform(0.02, 0.1, (2, 2000, 1, 1))
    loss = level + rate * epochs**-0.8 + random.normal(0, 1e-3, (2000, 3, 9))
    curves = Curves(loss, np.ones(loss.shape))
    ladder = default_ladder(9, 3)
    held: list[int] = []

    def order() -> Iterator[int]:
        for number in range(2000):
            if number == 1000:
                held.append(tracemalloc.get_traced_memory()[0])
                tracemalloc.reset_peak()
            yield number
        held.append(tracemalloc.get_traced_memory()[1])

    scheduler = PromotionScheduler("memory", Race(ladder, Rule(), trials=2000))
    sweep = VirtualTune(scheduler, RecordedSteps(curves, ladder, cache_size=1000), order(), 64)
    tracemalloc.start()
    try:
        completions = sweep.run()
    finally:
        tracemalloc.stop()
    assert completions
    grown = (held[1] - held[0]) / 1000
    assert grown < 6000, f"{grown:.0f} bytes a trial"
