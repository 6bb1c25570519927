"""All folds of one trial, moved forward together along a ladder of (folds, epochs)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainables.fold_run import EarlyStopping, FoldReport, FoldRun
from trainables.folds import Split
from trainables.tasks import LoadedTask, Params

__all__ = ["CrossValidation", "EpochReport", "Rung", "mean_and_standard_error"]


@dataclass(frozen=True)
class Rung:
    """A place on the ladder: the first ``folds`` folds, each trained for ``epochs`` epochs."""

    folds: int
    epochs: int


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error over folds, s / √K with s² the unbiased variance; NaN for a single fold."""
    mean = math.fsum(values) / len(values)
    if not math.isfinite(mean):
        return math.inf, math.nan
    if len(values) < 2:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


@dataclass(frozen=True)
class EpochReport:
    """A trial at an aligned point of its ladder.

    Attributes:
        epoch: the epoch that all active folds have reached (or would have, had they not stopped early).
        folds: a report for each active fold.
        fold_epochs: epochs of single folds that were really trained so far: what the trial has cost.
        seconds: time in training and validation so far, all folds.
        finished: the ladder is climbed, every fold has stopped early, or one has diverged.
    """

    epoch: int
    folds: tuple[FoldReport, ...]
    fold_epochs: int
    seconds: float
    finished: bool

    @property
    def diverged(self) -> str | None:
        """Why the trial failed, if a fold of it is left without finite weights."""
        return next((f.diverged for f in self.folds if f.diverged and f.best_epoch == 0), None)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The means over the active folds, and ``val_loss_se``, the objective's standard error."""
        names = [name for name in self.folds[0].metrics if all(name in f.metrics for f in self.folds)]
        means = {name: mean_and_standard_error([f.metrics[name] for f in self.folds]) for name in names}
        return {name: mean for name, (mean, _) in means.items()} | {"val_loss_se": means["val_loss"][1]}


class CrossValidation:
    """Trains one configuration on its folds; no I/O, no Ray.

    Args:
        params: the trial's complete parameters.
        images: (N, C, H, W) uint8 on the device to train on.
        splits: one per fold; the same for every trial.
        ladder: rungs, rising in folds or epochs or both. The default trains all folds in lock-step to ``epochs``.
        epochs: what the learning-rate schedule spans; the last rung's epochs.
    """

    def __init__(
        self,
        task: LoadedTask,
        params: Params,
        images: Tensor,
        splits: Sequence[Split],
        *,
        epochs: int,
        seed: int = 0,
        objective: str | None = None,
        early_stopping: EarlyStopping = EarlyStopping(),  # noqa: B008 (frozen)
        ladder: Sequence[Rung] = (),
    ) -> None:
        self._points = _aligned_points(ladder or [Rung(len(splits), epochs)])
        assert self._points[-1].folds <= len(splits) and self._points[-1].epochs <= epochs
        self._position = 0
        self._runs: list[FoldRun] = []

        def make(fold: int) -> FoldRun:
            return FoldRun(
                task, params, images, splits[fold], epochs=epochs, seed=seed, fold=fold,
                objective=objective, early_stopping=early_stopping,
            )  # fmt: skip

        self._make = make

    @property
    def runs(self) -> Sequence[FoldRun]:
        """The folds that have been started."""
        return self._runs

    def advance(self) -> EpochReport:
        """Trains on to the next point at which all active folds stand at the same epoch, and reports it."""
        assert not self.finished
        point = self._points[self._position]
        while len(self._runs) < point.folds:
            self._runs.append(self._make(len(self._runs)))
        for run in self._runs:
            while run.epoch < point.epochs and not run.stopped:
                run.train_epoch()
        self._position += 1
        return self.report()

    @property
    def finished(self) -> bool:
        """Nothing is left to train."""
        if self._position == len(self._points):
            return True
        if any(run.diverged and run.report().best_epoch == 0 for run in self._runs):
            return True
        everyone = len(self._runs) == self._points[-1].folds
        return everyone and all(run.stopped for run in self._runs)

    def report(self) -> EpochReport:
        """The last aligned point again."""
        assert self._position > 0
        return EpochReport(
            epoch=self._points[self._position - 1].epochs,
            folds=tuple(run.report() for run in self._runs),
            fold_epochs=sum(run.epoch for run in self._runs),
            seconds=sum(run.seconds for run in self._runs),
            finished=self.finished,
        )

    def reconstruct(self, fold: int, count: int) -> tuple[Tensor, Tensor] | None:
        """The first ``count`` validation images of a fold, (count, C, H, W) uint8, and how its kept weights see them.

        None for a task that does not reconstruct.
        """
        run = self._runs[fold]
        if not run.task.reconstructs:
            return None
        originals = run.images[run.validation_indices[:count]]
        return originals.cpu(), run.reconstruct(originals).cpu()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on bit for bit."""
        return {"position": self._position, "folds": [run.state_dict() for run in self._runs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was called on an object with the same arguments."""
        self._position = state["position"]
        self._runs = [self._make(fold) for fold in range(len(state["folds"]))]
        for run, saved in zip(self._runs, state["folds"], strict=True):
            run.load_state_dict(saved)


def _aligned_points(ladder: Sequence[Rung]) -> list[Rung]:
    """Every epoch of every rung; folds that join first catch up with the others."""
    points: list[Rung] = []
    reached = 0
    for rung in ladder:
        if points and rung.folds > points[-1].folds:
            points.append(Rung(rung.folds, reached))
        points += [Rung(rung.folds, epoch) for epoch in range(reached + 1, rung.epochs + 1)]
        reached = rung.epochs
    return points
