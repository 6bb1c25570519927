"""What a fold and a trial report after an epoch. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["EpochReport", "FoldReport", "mean_and_standard_error"]


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean over folds and its standard error, s / √K with the unbiased variance s².

    Args:
        values: K ≥ 1 values, one per fold.

    Returns:
        The mean and the standard error. The error is NaN for a single fold. If a value is not
        finite, the mean is infinite and the error NaN.

    >>> mean_and_standard_error([1.0, 2.0, 3.0])
    (2.0, 0.5773502691896257)
    """
    mean = math.fsum(values) / len(values)
    if not math.isfinite(mean):
        return math.inf, math.nan
    if len(values) < 2:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


@dataclass(frozen=True)
class FoldReport:
    """The state of one fold after an epoch.

    Attributes:
        fold: the fold's number, from 0.
        epoch: epochs trained so far; it no longer changes once the fold has stopped.
        best_epoch: the epoch of the kept weights, from 1; 0 if no epoch was usable yet.
        stopped: early stopping or divergence has ended this fold.
        diverged: why the fold diverged, or None.
        metrics: ``val_…`` of the kept weights; ``train_…`` and ``epoch_val_loss`` of the last
            trained epoch.
    """

    fold: int
    epoch: int
    best_epoch: int
    stopped: bool
    diverged: str | None
    metrics: Mapping[str, float]

    @property
    def val_loss(self) -> float:
        """The objective of the kept weights on the validation part; infinite if there are none."""
        return self.metrics["val_loss"]

    @property
    def failed(self) -> str | None:
        """Why the fold diverged, if it has no usable weights from before."""
        return self.diverged if self.best_epoch == 0 else None


@dataclass(frozen=True)
class EpochReport:
    """The state of a trial at an aligned point of its ladder.

    Attributes:
        epoch: the epoch that all active folds have reached, or would have reached had they not
            stopped early.
        folds: one report per active fold.
        fold_epochs: the trial's cost so far: epochs actually trained, summed over folds.
        seconds: time spent in training and validation so far, summed over folds.
        finished: nothing is left to train: the trial is at the top rung, every fold has stopped
            early, or one has diverged.
        trained: one report per fold and epoch trained since the previous aligned point, sorted by
            fold, then epoch.
        rungs: for each rung reached, from the lowest, the objective of each of its folds there.
        heading: index of the rung that the last epoch was trained for. A finished trial may have
            ended below that rung; its last state then counts for that rung and all above.
    """

    epoch: int
    folds: tuple[FoldReport, ...]
    fold_epochs: int
    seconds: float
    finished: bool
    trained: tuple[FoldReport, ...] = ()
    rungs: tuple[tuple[float, ...], ...] = ()
    heading: int = 0

    @property
    def diverged(self) -> str | None:
        """Why the trial failed, if one of its folds diverged without usable weights."""
        return next((fold.failed for fold in self.folds if fold.failed), None)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The means over the active folds, and ``val_loss_se``, the objective's standard error."""
        names = [
            name for name in self.folds[0].metrics if all(name in f.metrics for f in self.folds)
        ]
        pairs = {
            name: mean_and_standard_error([f.metrics[name] for f in self.folds]) for name in names
        }
        return {name: mean for name, (mean, _) in pairs.items()} | {
            "val_loss_se": pairs["val_loss"][1]
        }
