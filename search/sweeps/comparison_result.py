"""What a comparison has found for each arm: in numbers and as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrace.search.recording.events import EventSink
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.recording.schema import COMPARISON_FILE
from foldrace.search.sampling.comparison_plan import Phase
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file
from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.objective import LOSS, Objective
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.reports import mean_and_standard_error
from foldrace.trainables.training.samples import shared_tensor

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["RECONSTRUCTED", "ArmResult", "log_reconstructions", "make_arm_results"]

RECONSTRUCTED = 12
"""Test images, of which a comparison shows each arm's reconstructions."""


@dataclass(frozen=True)
class ArmResult:
    """The result of an arm.

    Attributes:
        trials: the number of completed, pruned and failed trials, repeats included.
        best_trial: the best of its default and search trials, which is repeated; None if none of
            them completed.
        val_loss: that trial's validation score; a little too good, being the best of many.
        default: the default trial's validation score; None if it did not complete.
        repeats: by the number of each completed repeat, from 1: the losses of its folds.
        objective: what the losses are.
    """

    trials: Mapping[str, int]
    best_trial: int | None
    params: Mapping[str, Value]
    val_loss: float | None
    default: float | None
    repeats: Mapping[int, tuple[float, ...]]
    objective: Objective = LOSS

    @property
    def fold_losses(self) -> list[float]:
        """The losses of all folds of all completed repeats."""
        return list(chain.from_iterable(self.repeats.values()))

    def to_json(self) -> dict[str, Any]:
        """The arm's part of the object that ``--json`` prints.

        ``standard_error`` treats the ``count`` fold losses as independent. They are not: folds
        share training samples. A confidence interval needs the correction of the report.
        """
        score = self.objective.score
        losses = [score(loss) for loss in self.fold_losses]
        mean, error = mean_and_standard_error(losses) if losses else (None, None)
        last = max(self.repeats, default=0)
        repeats = {
            "mean": mean,
            "standard_error": error if len(losses) > 1 else None,
            "count": len(losses),
            "losses": [
                [score(loss) for loss in self.repeats[s]] if s in self.repeats else None
                for s in range(1, last + 1)
            ],
        }
        return {
            "trials": dict(self.trials),
            "best_trial": self.best_trial,
            "params": dict(self.params),
            self.objective.key: None if self.val_loss is None else score(self.val_loss),
            "default": None if self.default is None else score(self.default),
            "repeats": repeats,
        }


def make_arm_results(table: TrialTable, labels: Sequence[str]) -> dict[str, ArmResult]:
    """Each arm's result as its trials are now."""
    return {label: _arm_result(table, label) for label in labels}


def _arm_result(table: TrialTable, label: str) -> ArmResult:
    own = [trial for trial in table.records.values() if trial.part and trial.part.arm == label]
    ended = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)
    ranked = [trial for trial in table.ranking() if trial.part and trial.part.arm == label]
    best = ranked[0] if ranked else None
    default = [
        trial.val_loss for trial in ranked if trial.part and trial.part.phase is Phase.DEFAULT
    ]
    return ArmResult(
        trials={status.value: sum(trial.status is status for trial in own) for status in ended},
        best_trial=best.number if best else None,
        params=best.params if best else {},
        val_loss=best.val_loss if best else None,
        default=default[0] if default else None,
        repeats=dict(
            sorted(
                (trial.part.repeat, tuple(trial.fold_losses))
                for trial in _repeats(own)
                if trial.part
            )
        ),
        objective=table.objective,
    )


def _repeats(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The completed repeats among ``trials``."""
    return [
        trial for trial in trials if not trial.competes and trial.status is TrialStatus.COMPLETED
    ]


def log_reconstructions(
    events: EventSink,
    trials: TrialTable,
    checkpoints: Mapping[int, Path],
    work: Work,
    test_images: NDArray[np.uint8],
    folder: SweepFolder,
) -> None:
    """Writes the first test images, and their reconstructions by each arm's best configuration, to
    the sweep's folder, and logs the file to the sweep's run.

    An arm's model is that of repeat 1, fold 0. Does nothing if no arm has completed that repeat,
    or if the task has no reconstructions.

    The file stays in ``into``: ``images`` (M, C, H, W) uint8, ``arms`` (A,) text,
    ``reconstructions`` (A, M, C, H, W) uint8. Nothing is logged if no arm has completed repeat 1,
    or if the task does not reconstruct.

    Raises:
        Exception: whatever ``reconstruct`` of a user's task raises.
    """
    if not work.task.reconstructs:
        return
    images = np.array(test_images[:RECONSTRUCTED])
    first = [
        trial
        for trial in _repeats([*trials.records.values()])
        if trial.part and trial.part.repeat == 1
    ]
    with work.process() as device:
        made = {
            trial.part.arm: _reconstruct(trial, checkpoints[trial.number], work, images, device)
            for trial in sorted(first, key=lambda trial: trial.number)
            if trial.part and trial.number in checkpoints
        }
    if made:
        arrays = {
            "images": images,
            "arms": np.array([*made]),
            "reconstructions": np.stack([*made.values()]),
        }
        np.savez_compressed(folder.path / COMPARISON_FILE, allow_pickle=False, **arrays)
        events.files((), COMPARISON_FILE)


def _reconstruct(
    trial: TrialRecord,
    checkpoint: Path,
    work: Work,
    images: NDArray[np.uint8],
    device: torch.device,
) -> NDArray[np.uint8]:
    cv = work.cross_validation(trial.params, work.samples_on(device), repeat=1)
    cv.load_state_dict(load_checkpoint_file(checkpoint / CHECKPOINT_FILE)["cross_validation"])
    made: NDArray[np.uint8] = (
        cv.folds[0].reconstruct(shared_tensor(images).to(device)).cpu().numpy()
    )
    return made
