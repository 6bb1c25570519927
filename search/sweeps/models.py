"""The fold models of the best trial, as files that plain PyTorch reads without Foldrace."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foldrace.trainables.ray.trainable import (
    CHECKPOINT_FILE,
    Work,
    load_checkpoint_file,
    shared_tensor,
)
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.tasks.protocol import LoadedTask
from foldrace.trainables.training.splits import Split

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from foldrace.search.recording.writer import MlflowWriter
    from foldrace.search.tune.state import TrialRecord

__all__ = ["WEIGHTS", "deployable", "export_program", "log_fold_models"]

PROGRAM, WEIGHTS, ABOUT = "model.pt2", "state_dict.pt", "fold.json"
INDICES, POSITIONS = "validation_indices.npy", "validation_positions.npy"


class _Reconstruction(torch.nn.Module):
    """A task's ``reconstruct`` as a module: (B, C, H, W) in [0, 1] → the same shape."""

    def __init__(
        self, task: LoadedTask, model: torch.nn.Module, params: Mapping[str, Value]
    ) -> None:
        super().__init__()
        self.model, self._task, self._params = model, task, params

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self._task.implementation.reconstruct(
            self.model, images, self._params
        )
        return made


def deployable(
    task: LoadedTask, model: torch.nn.Module, params: Mapping[str, Value]
) -> torch.nn.Module:
    """The module to export: one that reconstructs images if the task can, else the model."""
    return (_Reconstruction(task, model, params) if task.reconstructs else model).eval()


def export_program(
    model: torch.nn.Module, sample: torch.Tensor
) -> torch.export.ExportedProgram | None:
    """Exports ``model``, in evaluation mode, as a program for any batch size.

    Args:
        sample: (2 or more, C, H, W) in [0, 1].

    Returns:
        None if torch cannot export it, or if it does not return one tensor.
    """
    batch = torch.export.Dim("batch", min=1, max=2**20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # a user's forward() may do anything, and not everything that runs can be exported
        try:
            if not isinstance(model(sample), torch.Tensor):
                return None
            return torch.export.export(model, (sample,), dynamic_shapes=({0: batch},))
        except Exception:
            return None


def log_fold_models(
    client: MlflowClient,
    recorder: MlflowWriter,
    record: TrialRecord,
    checkpoint: Path,
    work: Work,
    into: Path,
) -> None:
    """Writes each fold's kept weights to ``into/fold-K`` and logs them to the fold's run.

    With them go the validation part, the metrics and the parameters, so that the score can be
    computed again.
    """
    state = load_checkpoint_file(checkpoint / CHECKPOINT_FILE)
    cv = work.cross_validation(record.params, shared_tensor(work.images))
    cv.load_state_dict(state["cross_validation"])
    while record.report is not None and cv.report().fold_epochs < record.report.fold_epochs:
        # killed between the last report and its checkpoint: these epochs give the same numbers
        cv.advance()
    for fold, split in zip(cv.runs, work.splits, strict=False):
        fold.model.load_state_dict(fold.weights())
        report = fold.report()
        about = {
            "fold": fold.fold,
            "epoch": report.best_epoch,
            "metrics": dict(report.metrics),
        }
        folder = into / f"fold-{fold.fold}"
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, fold.model, work, split, about, record.params)
        client.log_artifacts(
            recorder.fold_run(record.number, fold.fold), str(folder), "checkpoint"
        )


def _write(
    folder: Path,
    model: torch.nn.Module,
    work: Work,
    split: Split,
    about: Mapping[str, Any],
    params: Mapping[str, Value],
) -> None:
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    np.save(folder / INDICES, split.validation)
    np.save(
        folder / POSITIONS,
        split.validation if work.positions is None else work.positions[split.validation],
    )
    sample = shared_tensor(work.images)[:2].float().div(255)
    program = export_program(
        deployable(work.task, model.cpu(), work.task.complete(params)), sample
    )
    if program is not None:
        torch.export.save(program, folder / PROGRAM)
    shown = {"task": work.task.reference, "params": work.task.complete(params), **about}
    (folder / ABOUT).write_text(json.dumps(shown, indent=2))
