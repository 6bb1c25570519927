"""Ray Tune's controller on a virtual clock: real schedulers over recorded curves.

It calls scheduler and searcher as ``ray.tune.execution.tune_controller.TuneController`` does, in
the same order, so a scheduler cannot tell the two apart. It does nothing else, and starts no Ray.
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

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.search.scheduling.base import LadderScheduler, RunState
from foldrace.trainables.training.ladder import Rung, aligned_points
from foldrace.trainables.training.reports import EpochReport, FoldReport

__all__ = ["Completion", "RecordedStep", "RecordedSteps", "VirtualTrial", "VirtualTune"]


class VirtualTrial:
    """A trial with the attributes of Tune's that schedulers read."""

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
class RecordedStep:
    """A trial's training from one aligned point to the next.

    Attributes:
        result: what the trial reports to Tune at the end of the step, without its number.
        fold_epochs: trained in this step.
        seconds: training time of this step.
    """

    report: EpochReport
    result: Mapping[str, Any]
    fold_epochs: int
    seconds: float

    @property
    def completed(self) -> bool:
        """Whether the trial completed: all folds, to the last epoch."""
        return self.report.finished and "val_loss" in self.result


class RecordedSteps:
    """The steps that trials of recorded configurations make on a ladder.

    ``step(configuration, position)`` is the `RecordedStep` of a configuration, by its index in the
    curves, to an aligned point, by its index on the ladder.

    Args:
        cache_size: how many steps are kept; the same ones occur in every order of configurations.
    """

    def __init__(self, curves: Curves, ladder: Sequence[Rung], cache_size: int = 20_000) -> None:
        self._curves, self._ladder = curves, tuple(ladder)
        self._points = aligned_points(self._ladder)
        self.step = lru_cache(cache_size)(self._step)

    def _step(self, configuration: int, position: int) -> RecordedStep:
        point = self._points[position]
        before = self._points[position - 1] if position else Rung(0, 0)
        report = self._report(configuration, position)
        result: dict[str, Any] = {"report": report, "fold_epochs": report.fold_epochs}
        if report.diverged is None:
            result["val_loss"] = report.metrics["val_loss"]
        seconds = report.seconds - self._seconds(configuration, before)
        return RecordedStep(report, result, point.cost - before.cost, max(0.0, seconds))

    def _seconds(self, configuration: int, point: Rung) -> float:
        return float(self._curves.seconds[configuration, : point.folds, : point.epochs].sum())

    def _report(self, configuration: int, position: int) -> EpochReport:
        point = self._points[position]
        loss = self._curves.loss[configuration, : point.folds, : point.epochs]
        diverged = not np.isfinite(loss).all()
        folds = tuple(
            FoldReport(
                fold,
                point.epochs,
                0 if diverged else point.epochs,
                diverged,
                "diverged" if diverged else None,
                {"val_loss": math.inf if diverged else float(loss[fold, -1])},
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
            finished=diverged or position == len(self._points) - 1,
            rungs=rungs[:-1] if diverged else rungs,
            heading=sum(rung.cost < point.cost for rung in self._ladder),
        )


@dataclass(frozen=True)
class Completion:
    """A completed configuration, and what the sweep had spent when it completed."""

    configuration: int
    fold_epochs: int
    seconds: float


class VirtualTune:
    """One sweep over recorded curves.

    Args:
        steps: of all configurations, on the scheduler's ladder.
        order: the configurations' indices, in the order in which the searcher suggests them.
        workers: how many trials train at a time.
    """

    def __init__(
        self, scheduler: LadderScheduler, steps: RecordedSteps, order: Iterable[int], workers: int
    ) -> None:
        self._scheduler, self._steps, self._workers = scheduler, steps, workers
        self._order = iter(enumerate(order))
        self._all_suggested = False
        self._suggested = self._started = 0
        self._pending: list[VirtualTrial] = []
        self._paused: dict[str, VirtualTrial] = {}
        self._events: list[tuple[float, int, VirtualTrial]] = []
        self.now = 0.0
        self.fold_epochs = 0
        self.completions: list[Completion] = []

    def run(self) -> list[Completion]:
        """Runs the sweep to its end; returns the completed configurations in order."""
        with self._scheduler.acting_on(
            RunState(slots=lambda: self._workers, elapsed=lambda: self.now)
        ):
            while True:
                self._fill()
                if not self._events:
                    break
                self._handle(*heapq.heappop(self._events))
        assert self._all_suggested and not self._pending and not self._paused, (
            "no trial is running, but the sweep has not ended"
        )
        return self.completions

    def _fill(self) -> None:
        """Makes the controller's steps while a worker is free and a step changes something.

        They take no virtual time: an epoch takes far longer.
        """
        before = None
        while len(self._events) < self._workers and before != (before := self._state()):
            self._suggest()
            self._start()

    def _state(self) -> tuple[object, ...]:
        ended = (self._all_suggested, self._scheduler.race.exhausted)
        return self._suggested, self._started, len(self._pending), len(self._paused), ended

    # TuneController._maybe_update_trial_queue, with FoldSearch.suggest behind it

    def _suggest(self) -> None:
        while not self._all_suggested and not self._pending:
            if self._scheduler.over():
                self._all_suggested = True
                return
            if not self._scheduler.open():
                return
            found = next(self._order, None)
            if found is None:
                self._scheduler.exhausted()
                return
            trial = VirtualTrial(*found)
            self._suggested += 1
            self._scheduler.on_trial_add(self, trial)
            self._pending.append(trial)

    @property
    def search_alg(self) -> VirtualTune:
        """The searcher, which schedulers ask whether it `is_finished`."""
        return self

    def is_finished(self) -> bool:
        """Whether every trial of the sweep has been suggested."""
        return self._all_suggested

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
        step = self._steps.step(trial.configuration, trial.position)
        heapq.heappush(self._events, (self.now + step.seconds, self._started, trial))
        self._started += 1

    # TuneController._process_trial_result and _execute_action

    def _handle(self, now: float, _: int, trial: VirtualTrial) -> None:
        self.now = now
        step = self._steps.step(trial.configuration, trial.position)
        self.fold_epochs += step.fold_epochs
        trial.position += 1
        result = {"trial": trial.config["trial"], **step.result}
        if step.report.finished:  # `done` in Tune, which then does not ask the scheduler
            decision = TrialScheduler.STOP
            if step.completed:
                self.completions.append(
                    Completion(trial.configuration, self.fold_epochs, self.now)
                )
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
        """Ends a trial, whatever its status."""
        if trial.status in (Trial.PAUSED, Trial.PENDING):
            self._scheduler.on_trial_remove(self, trial)
            self._paused.pop(trial.trial_id, None)
        elif trial.status == Trial.RUNNING:
            self._scheduler.on_trial_complete(self, trial, trial.last_result)
        trial.set_status(Trial.TERMINATED)
