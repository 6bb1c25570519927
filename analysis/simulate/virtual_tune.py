"""Tune's controller on a virtual clock: drives the schedulers of real sweeps over recorded curves.

It does what ``ray.tune.execution.tune_controller.TuneController`` does at the seams between
controller, scheduler and searcher, in the same order, and nothing else: a scheduler cannot tell
them apart. No Ray is started.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from foldrace.analysis.simulate.curves import Curves
from foldrace.search.scheduling.base import LadderScheduler, RunState
from foldrace.trainables.training.ladder import Rung, aligned_points
from foldrace.trainables.training.reports import EpochReport, FoldReport

__all__ = ["Arrival", "Replay", "Step", "VirtualTrial", "VirtualTune"]


class VirtualTrial:
    """What schedulers see of a Tune trial."""

    def __init__(self, number: int, configuration: int) -> None:
        self.trial_id = f"{number:08d}"
        self.config = {"trial": number}
        self.configuration = configuration
        self.status: str = Trial.PENDING
        self.last_result: Mapping[str, Any] = {}
        self.position = 0

    def set_status(self, status: str) -> None:
        self.status = status


@dataclass(frozen=True)
class Step:
    """What a trial does between an aligned point and the one before.

    Attributes:
        result: what it tells Tune at its end, but for its number.
        fold_epochs: what the way costs.
        seconds: what it takes.
    """

    report: EpochReport
    result: Mapping[str, Any]
    fold_epochs: int
    seconds: float

    @property
    def completed(self) -> bool:
        """Whether it has been evaluated on all folds to the last epoch."""
        return self.report.finished and "val_loss" in self.result


class Replay:
    """The steps that trials of recorded configurations would make on a ladder.

    Args:
        remembered: how many steps are kept for trials to come: on other orders they are the same.
    """

    def __init__(self, curves: Curves, ladder: Sequence[Rung], remembered: int = 20_000) -> None:
        self._curves, self._ladder = curves, tuple(ladder)
        self._points = aligned_points(self._ladder)
        self.step = lru_cache(remembered)(self._step)

    def _step(self, configuration: int, position: int) -> Step:
        """The step of a configuration to an aligned point, by its index."""
        point = self._points[position]
        before = self._points[position - 1] if position else Rung(0, 0)
        report = self._report(configuration, position)
        result: dict[str, Any] = {"report": report, "fold_epochs": report.fold_epochs}
        if report.diverged is None:
            result["val_loss"] = report.metrics["val_loss"]
        seconds = report.seconds - self._seconds(configuration, before)
        return Step(report, result, point.cost - before.cost, max(0.0, seconds))

    def _seconds(self, configuration: int, point: Rung) -> float:
        return float(self._curves.seconds[configuration, : point.folds, : point.epochs].sum())

    def _report(self, configuration: int, position: int) -> EpochReport:
        point = self._points[position]
        loss = self._curves.loss[configuration, : point.folds, : point.epochs]
        broken = not np.isfinite(loss).all()
        folds = tuple(
            FoldReport(
                fold,
                point.epochs,
                0 if broken else point.epochs,
                broken,
                "diverged" if broken else None,
                {"val_loss": math.inf if broken else float(loss[fold, -1])},
            )
            for fold in range(point.folds)
        )
        passed = [
            rung
            for rung in self._ladder
            if rung.folds <= point.folds and rung.epochs <= point.epochs
        ]
        rungs = tuple(
            tuple(self._curves.loss[configuration, : rung.folds, rung.epochs - 1].tolist())
            for rung in passed
        )
        return EpochReport(
            epoch=point.epochs,
            folds=folds,
            fold_epochs=point.cost,
            seconds=self._seconds(configuration, point),
            finished=broken or position == len(self._points) - 1,
            rungs=rungs[:-1] if broken else rungs,
            heading=sum(rung.cost < point.cost for rung in self._ladder),
        )


@dataclass(frozen=True)
class Arrival:
    """A configuration evaluated on all folds to the last epoch, and what the sweep had spent by
    then."""

    configuration: int
    fold_epochs: int
    seconds: float


class VirtualTune:
    """One sweep over recorded curves.

    Args:
        order: the configurations, in the order in which the searcher draws them.
        workers: how many trials train side by side.
    """

    def __init__(
        self, scheduler: LadderScheduler, replay: Replay, order: Iterable[int], workers: int
    ) -> None:
        self._scheduler, self._replay, self._workers = scheduler, replay, workers
        self._order = iter(enumerate(order))
        self._drawn_all = False
        self._drawn = self._started = 0
        self._pending: list[VirtualTrial] = []
        self._paused: dict[str, VirtualTrial] = {}
        self._events: list[tuple[float, int, VirtualTrial]] = []
        self.now = 0.0
        self.fold_epochs = 0
        self.arrivals: list[Arrival] = []

    def run(self) -> list[Arrival]:
        """Runs the sweep to its end."""
        with self._scheduler.acting_on(
            RunState(slots=lambda: self._workers, elapsed=lambda: self.now)
        ):
            while True:
                self._fill()
                if not self._events:
                    break
                self._handle(*heapq.heappop(self._events))
        assert self._drawn_all and not self._pending and not self._paused, (
            "nothing runs, and not all is over"
        )
        return self.arrivals

    def _fill(self) -> None:
        """Tune's steps until none changes anything: an epoch takes longer than they do. Those at
        which no worker is free are left out."""
        before = None
        while len(self._events) < self._workers and before != (before := self._state()):
            self._draw()
            self._start()

    def _state(self) -> tuple[object, ...]:
        ended = (self._drawn_all, self._scheduler.race.exhausted)
        return self._drawn, self._started, len(self._pending), len(self._paused), ended

    # TuneController._maybe_update_trial_queue, with FoldSearch.suggest behind it

    def _draw(self) -> None:
        while not self._drawn_all and not self._pending:
            if self._scheduler.over():
                self._drawn_all = True
                return
            if not self._scheduler.open():
                return
            found = next(self._order, None)
            if found is None:
                self._scheduler.exhausted()
                return
            trial = VirtualTrial(*found)
            self._drawn += 1
            self._scheduler.on_trial_add(self, trial)
            self._pending.append(trial)

    @property
    def search_alg(self) -> VirtualTune:
        """Tune's searcher, of which schedulers ask whether it `is_finished`."""
        return self

    def is_finished(self) -> bool:
        """Whether nothing will ever run again."""
        return self._drawn_all

    # TuneController._maybe_add_actors

    def _start(self) -> None:
        chosen = self._scheduler.choose_trial_to_run(self)
        if chosen is not None and chosen not in self._pending:
            self._paused.pop(chosen.trial_id, None)
            chosen.set_status(Trial.PENDING)
            self._pending.insert(0, chosen)
        while self._pending and len(self._events) < self._workers:
            trial = self._pending.pop(0)
            trial.set_status(Trial.RUNNING)
            self._train(trial)

    def _train(self, trial: VirtualTrial) -> None:
        step = self._replay.step(trial.configuration, trial.position)
        heapq.heappush(self._events, (self.now + step.seconds, self._started, trial))
        self._started += 1

    # TuneController._process_trial_result and _execute_action

    def _handle(self, now: float, _: int, trial: VirtualTrial) -> None:
        self.now = now
        step = self._replay.step(trial.configuration, trial.position)
        self.fold_epochs += step.fold_epochs
        trial.position += 1
        result = {"trial": trial.config["trial"], **step.result}
        if step.report.finished:  # Tune's `done`: no scheduler is asked
            decision = TrialScheduler.STOP
            if step.completed:
                self.arrivals.append(Arrival(trial.configuration, self.fold_epochs, self.now))
        else:
            decision = self._scheduler.on_trial_result(self, trial, result)
        trial.last_result = result
        if decision == TrialScheduler.CONTINUE:
            self._train(trial)
        elif decision == TrialScheduler.PAUSE:
            trial.set_status(Trial.PAUSED)
            self._paused[trial.trial_id] = trial
        else:
            self.stop_trial(trial)

    def stop_trial(self, trial: VirtualTrial) -> None:
        """Ends a trial for good, in whatever state it is."""
        if trial.status in (Trial.PAUSED, Trial.PENDING):
            self._scheduler.on_trial_remove(self, trial)
            self._paused.pop(trial.trial_id, None)
        elif trial.status == Trial.RUNNING:
            self._scheduler.on_trial_complete(self, trial, trial.last_result)
        trial.set_status(Trial.TERMINATED)
