"""All folds of one trial, trained together along a ladder of (folds, epochs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.protocol import Params
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.fused.epoch import CannotFuseError, can_fuse, train_epoch_fused
from foldrace.trainables.training.ladder import Rung, aligned_points
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.reports import EpochReport, FoldReport
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import Split

__all__ = ["CrossValidation", "Fused"]

Fused = bool | Literal["auto"]


class CrossValidation:
    """Trains one configuration on its folds. It does no I/O and knows nothing of Ray.

    Args:
        task: the task to train.
        params: the trial's complete parameters.
        samples: the whole training part of the data set, on the device to train on.
        splits: one per fold, the same for every trial.
        options: how to train each fold.
        ladder: rungs that rise in folds, epochs or both, within ``splits`` and
            ``options.epochs``. Empty: all folds in lock-step to the last epoch.
        fused: whether folds at the same epoch are trained as one batched program. ``"auto"``: on a
            GPU, unless the task cannot be batched.

    Raises:
        CannotFuseError: by `advance`, if ``fused`` is True and the task cannot be batched.
    """

    def __init__(
        self,
        task: LoadedTask,
        params: Params,
        samples: Samples,
        splits: Sequence[Split],
        options: TrainingOptions,
        *,
        ladder: Sequence[Rung] = (),
        fused: Fused = "auto",
    ) -> None:
        self._task, self._params, self._samples = task, params, samples
        self._splits, self._options = splits, options
        self._must_fuse = fused is True
        self._fused = samples.device.type == "cuda" if fused == "auto" else fused
        self._ladder = tuple(ladder) or (Rung(len(splits), options.epochs),)
        self._points = aligned_points(self._ladder)
        last = self._points[-1]
        assert last.folds <= len(splits) and last.epochs <= options.epochs
        self._position, self._heading = 0, 0
        self._folds: list[Fold] = []
        self._trained: list[FoldReport] = []
        self._rungs: list[tuple[float, ...]] = []

    @property
    def folds(self) -> Sequence[Fold]:
        """The folds that have been started."""
        return self._folds

    @property
    def parameters(self) -> int:
        """Number of trainable weights of the model; fold 0 must have been started."""
        weights = self._folds[0].model.parameters()
        return sum(weight.numel() for weight in weights if weight.requires_grad)

    def advance(self) -> EpochReport:
        """Trains up to the next aligned point of the ladder and reports it.

        At an aligned point all active folds are at the same epoch. Points at which there is
        nothing to train, because every fold has stopped early, are skipped up to the next rung.
        If folds are fused, those that join before the next rung join, and catch up, together.
        """
        assert not self.finished
        self._trained, self._heading = [], len(self._rungs)
        while not self._trained and not self.finished:
            while self._fused and self._more_join():
                self._position += 1
            point = self._points[self._position]
            self._train_to(point)
            self._position += 1
            if point in self._ladder and not self._diverged:
                self._rungs.append(self._objectives())
                break
        self._trained.sort(key=lambda report: (report.fold, report.epoch))
        if self.finished and not self._diverged:
            # All folds have stopped early, so they have the same objectives at the rungs above.
            above = len(self._ladder) - len(self._rungs)
            self._rungs += [self._objectives()] * above
        return self.report()

    def _more_join(self) -> bool:
        """Whether a fold joins at the next point, which is no rung, and another one after it."""
        around = self._points[max(0, self._position - 1) : self._position + 2]
        joins = all(one.folds < next_.folds for one, next_ in pairwise(around))
        return len(around) == 3 and joins and around[1] not in self._ladder

    def _train_to(self, point: Rung) -> None:
        """Starts folds and trains them up to a point, those with the fewest epochs first."""
        while len(self._folds) < point.folds:
            self._folds.append(self._start(len(self._folds)))
        while not self._diverged and (
            behind := [
                fold for fold in self._folds if fold.epoch < point.epochs and not fold.stopped
            ]
        ):
            least = min(fold.epoch for fold in behind)
            self._trained += self._train_epoch([fold for fold in behind if fold.epoch == least])

    def _train_epoch(self, folds: Sequence[Fold]) -> list[FoldReport]:
        """Trains the next epoch of folds at the same epoch."""
        if self._fused:
            try:
                if can_fuse(folds):
                    return train_epoch_fused(folds)
            except CannotFuseError:
                if self._must_fuse:
                    raise
                self._fused = False
        return [fold.train_epoch() for fold in folds]

    def _start(self, number: int) -> Fold:
        return Fold(
            self._task,
            self._params,
            self._samples,
            self._splits[number],
            self._options,
            number=number,
        )

    def _objectives(self) -> tuple[float, ...]:
        return tuple(fold.report().val_loss for fold in self._folds)

    @property
    def _diverged(self) -> bool:
        return any(fold.report().failed for fold in self._folds)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        if self._position == len(self._points) or self._diverged:
            return True
        all_started = len(self._folds) == self._points[-1].folds
        return all_started and all(fold.stopped for fold in self._folds)

    def report(self) -> EpochReport:
        """The last aligned point, which `advance` has reported before."""
        assert self._position > 0
        return EpochReport(
            epoch=self._points[self._position - 1].epochs,
            folds=tuple(fold.report() for fold in self._folds),
            fold_epochs=sum(fold.epoch for fold in self._folds),
            seconds=sum(fold.seconds for fold in self._folds),
            finished=self.finished,
            trained=tuple(self._trained),
            rungs=tuple(self._rungs),
            heading=self._heading,
        )

    def reconstruct(self, number: int, count: int) -> tuple[Tensor, Tensor] | None:
        """The first validation images of a fold, and their reconstructions by its kept weights.

        Args:
            number: of a fold that has been started.
            count: how many images.

        Returns:
            Originals and reconstructions, both (count, C, H, W) uint8 on the CPU; None if the task
            does not reconstruct, or a sample is no image.
        """
        fold = self._folds[number]
        if not (fold.task.reconstructs and fold.samples.sample.holds_an_image):
            return None
        originals = fold.samples.images(fold.validation_indices[:count])
        return originals.cpu(), fold.reconstruct(originals).cpu()

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to continue bit for bit."""
        return {
            "position": self._position,
            "heading": self._heading,
            "rungs": [list(objectives) for objectives in self._rungs],
            "folds": [fold.state_dict() for fold in self._folds],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the `state_dict` of an object with the same arguments."""
        self._position, self._heading = state["position"], state.get("heading", 0)
        self._rungs = [tuple(objectives) for objectives in state.get("rungs", ())]
        self._folds = [self._start(number) for number in range(len(state["folds"]))]
        for fold, saved in zip(self._folds, state["folds"], strict=True):
            fold.load_state_dict(saved)
