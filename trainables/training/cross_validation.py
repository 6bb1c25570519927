"""All folds of one trial, moved forward together along a ladder of (folds, epochs)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.protocol import Params
from foldrace.trainables.training.fold import EarlyStopping, Fold, FoldReport
from foldrace.trainables.training.fused import CannotFuseError, can_fuse, train_epoch_fused
from foldrace.trainables.training.ladder import Rung, aligned_points
from foldrace.trainables.training.process import Precision
from foldrace.trainables.training.splits import Split

__all__ = ["CrossValidation", "EpochReport", "Fused", "mean_and_standard_error"]

Fused = bool | Literal["auto"]


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error over folds, s / √K with s² the unbiased variance; NaN for a
    single fold."""
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
        epoch: the epoch that all active folds have reached (or would have, had they not stopped
            early).
        folds: a report for each active fold.
        fold_epochs: epochs of single folds that were really trained so far: what the trial has
            cost.
        seconds: time in training and validation so far, all folds.
        finished: the ladder is climbed, every fold has stopped early, or one has diverged.
        trained: a report for each epoch of each fold since the last aligned point, in the order of
            training.
        rungs: for each rung that the trial has reached, the lowest first, the objective of each of
            its folds there.
        heading: the index of the rung that the last epoch was trained on the way to. A finished
            trial may have ended before it, and stands at every rung above as where it ended.
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
        """Why the trial failed, if a fold of it is left without finite weights."""
        return next((f.diverged for f in self.folds if f.diverged and f.best_epoch == 0), None)

    @property
    def metrics(self) -> Mapping[str, float]:
        """The means over the active folds, and ``val_loss_se``, the objective's standard error."""
        names = [
            name for name in self.folds[0].metrics if all(name in f.metrics for f in self.folds)
        ]
        means = {
            name: mean_and_standard_error([f.metrics[name] for f in self.folds]) for name in names
        }
        return {name: mean for name, (mean, _) in means.items()} | {
            "val_loss_se": means["val_loss"][1]
        }


class CrossValidation:
    """Trains one configuration on its folds; no I/O, no Ray.

    Args:
        params: the trial's complete parameters.
        images: (N, C, H, W) uint8 on the device to train on.
        splits: one per fold; the same for every trial.
        ladder: rungs, rising in folds or epochs or both. The default trains all folds in lock-step
            to ``epochs``.
        epochs: what the learning-rate schedule spans; the last rung's epochs.
        fused: train folds that stand at the same epoch as one batched program. ``"auto"``: on a
            GPU, unless the task does something that cannot be batched.

    Raises:
        CannotFuseError: by `advance`, if ``fused`` is True and the task cannot be batched.
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
        fused: Fused = "auto",
        precision: Precision = Precision.FLOAT32,
    ) -> None:
        self._must_fuse = fused is True
        self._fused = images.device.type == "cuda" if fused == "auto" else fused
        self._ladder = tuple(ladder) or (Rung(len(splits), epochs),)
        self._points = aligned_points(self._ladder)
        assert self._points[-1].folds <= len(splits) and self._points[-1].epochs <= epochs
        self._position, self._heading = 0, 0
        self._runs: list[Fold] = []
        self._trained: list[FoldReport] = []
        self._rungs: list[tuple[float, ...]] = []

        def make(fold: int) -> Fold:
            return Fold(
                task,
                params,
                images,
                splits[fold],
                epochs=epochs,
                seed=seed,
                fold=fold,
                objective=objective,
                early_stopping=early_stopping,
                precision=precision,
            )

        self._make = make

    @property
    def runs(self) -> Sequence[Fold]:
        """The folds that have been started."""
        return self._runs

    @property
    def parameters(self) -> int:
        """Trainable weights of fold 0's model, which has to be there."""
        return sum(
            weight.numel() for weight in self._runs[0].model.parameters() if weight.requires_grad
        )

    def advance(self) -> EpochReport:
        """Trains on to the next point at which all active folds stand at the same epoch, and
        reports it.

        Points between two rungs at which there is nothing to train, since every fold has stopped
        early, are passed by.
        """
        assert not self.finished
        self._trained, self._heading = [], len(self._rungs)
        while not self._trained and not self.finished:
            point = self._points[self._position]
            while len(self._runs) < point.folds:
                self._runs.append(self._make(len(self._runs)))
            while waiting := [
                run for run in self._runs if run.epoch < point.epochs and not run.stopped
            ]:
                least = min(run.epoch for run in waiting)
                self._trained += self._train([run for run in waiting if run.epoch == least])
            self._position += 1
            if point in self._ladder and not self._diverged:
                self._rungs.append(tuple(run.report().val_loss for run in self._runs))
                break
        self._trained.sort(key=lambda report: (report.fold, report.epoch))
        if (
            self.finished and not self._diverged
        ):  # folds that have all stopped stand at every rung above as here
            self._rungs += [tuple(run.report().val_loss for run in self._runs)] * (
                len(self._ladder) - len(self._rungs)
            )
        return self.report()

    def _train(self, runs: Sequence[Fold]) -> list[FoldReport]:
        """The next epoch of folds that stand at the same epoch."""
        if self._fused and can_fuse(runs):
            try:
                return train_epoch_fused(runs)
            except CannotFuseError:
                if self._must_fuse:
                    raise
                self._fused = False
        return [run.train_epoch() for run in runs]

    @property
    def _diverged(self) -> bool:
        return any(run.diverged and run.report().best_epoch == 0 for run in self._runs)

    @property
    def finished(self) -> bool:
        """Nothing is left to train."""
        if self._position == len(self._points):
            return True
        if self._diverged:
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
            trained=tuple(self._trained),
            rungs=tuple(self._rungs),
            heading=self._heading,
        )

    def reconstruct(self, fold: int, count: int) -> tuple[Tensor, Tensor] | None:
        """The first ``count`` validation images of a fold, (count, C, H, W) uint8, and how its
        kept weights see them.

        None for a task that does not reconstruct.
        """
        run = self._runs[fold]
        if not run.task.reconstructs:
            return None
        originals = run.images[run.validation_indices[:count]]
        return originals.cpu(), run.reconstruct(originals).cpu()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on bit for bit."""
        return {
            "position": self._position,
            "heading": self._heading,
            "rungs": [list(losses) for losses in self._rungs],
            "folds": [run.state_dict() for run in self._runs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was called on an object with the same arguments."""
        self._position, self._heading = state["position"], state.get("heading", 0)
        self._rungs = [tuple(losses) for losses in state.get("rungs", ())]
        self._runs = [self._make(fold) for fold in range(len(state["folds"]))]
        for run, saved in zip(self._runs, state["folds"], strict=True):
            run.load_state_dict(saved)
