"""The fold models of the best trial, as files that plain PyTorch reads without Foldrace."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldrace.search.recording.events import EventSink
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.tune.state import TrialRecord
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file
from foldrace.trainables.ray.work import Work, shared_tensor
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.splits import Split

__all__ = ["WEIGHTS", "deployable", "export_program", "log_fold_models"]

log = logging.getLogger(__name__)

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
    events: EventSink, trial: TrialRecord, checkpoint: Path, work: Work, folder: SweepFolder
) -> None:
    """Writes the kept weights of each of a trial's folds, with what is needed to repeat its score,
    to ``winner/fold-K`` in the sweep's folder, and logs these files to the fold's run.

    Args:
        checkpoint: the folder of the trial's last checkpoint.
    """
    state = load_checkpoint_file(checkpoint / CHECKPOINT_FILE)["cross_validation"]
    recorded = 0 if trial.report is None else trial.report.fold_epochs
    cv = work.cross_validation(trial.params, shared_tensor(work.images))
    cv.load_state_dict(state)
    if cv.report().fold_epochs < recorded:
        # a kill came between the trial's last report and its checkpoint; the numbers are the same
        # again
        with work.process() as device:
            cv = work.cross_validation(trial.params, work.images_on(device))
            cv.load_state_dict(state)
            while cv.report().fold_epochs < recorded:
                cv.advance()
    for run, split in zip(cv.folds, work.splits, strict=False):
        run.model.load_state_dict(run.weights())
        about = {
            "fold": run.number,
            "epoch": run.report().best_epoch,
            "metrics": dict(run.report().metrics),
        }
        into = folder.winner / f"fold-{run.number}"
        into.mkdir(parents=True, exist_ok=True)
        _write(into, run.model, work, split, about, trial.params)
        path = str(into.relative_to(folder.path))
        events.files((trial.number, run.number), path, "checkpoint")


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
    if program is None:
        log.warning(
            "%s: torch.export cannot export this model: there is %s, but no %s",
            folder.name,
            WEIGHTS,
            PROGRAM,
        )
    else:
        torch.export.save(program, folder / PROGRAM)
    shown = {"task": work.task.reference, "params": work.task.complete(params), **about}
    (folder / ABOUT).write_text(json.dumps(shown, indent=2))
