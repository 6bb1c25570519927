"""The fold models of the best trial, as files that plain PyTorch reads without Foldrace."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldrace.search.recording.events import EventSink
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.tune.state import TrialRecord
from foldrace.trainables.data.sample import LENGTH
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file
from foldrace.trainables.ray.work import Work
from foldrace.trainables.training.fold import Fold, moved
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import Split

__all__ = ["PROGRAM", "WEIGHTS", "deployable", "export_program", "log_fold_models", "save_model"]

log = logging.getLogger(__name__)

PROGRAM, WEIGHTS, ABOUT = "model.pt2", "state_dict.pt", "fold.json"
PREPARED = "prepared.pt"
_EXAMPLES = 2
INDICES, POSITIONS = "validation_indices.npy", "validation_positions.npy"


class _Method(torch.nn.Module):
    """A method of a task as a module of tensors: ``reconstruct`` or ``predict``."""

    def __init__(self, fold: Fold, method: str, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self._task, self._params = fold.model, fold.task, fold.params
        self._sample = fold.samples.sample
        self._prepared = moved(fold.prepared, torch.device("cpu"))
        self._method, self.names = method, list(names)
        fields = self._sample.fields
        self.sequences = [name in fields and fields[name].ragged for name in names]

    def apply_to(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The method's result for a tensor per name."""
        batch = dict(zip(self.names, tensors, strict=True))
        made: torch.Tensor = self._task.call(
            self._method,
            self.model,
            batch,
            self._params,
            sample=self._sample,
            prepared=self._prepared,
        )
        return made


class _MethodOfOne(_Method):
    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.apply_to(tensor)


class _MethodOfSeveral(_Method):
    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.apply_to(*tensors)


def deployable(fold: Fold, samples: Samples) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The module to export, on the CPU, and its arguments for some samples.

    It is the task's ``reconstruct``, else its ``predict``, else the model. Its arguments are the
    inputs of a sample, in their order; after one of sequences comes that of their lengths.

    Args:
        fold: with the weights to export.
        samples: on the CPU.
    """
    fold.model.cpu()
    sample = fold.samples.sample
    method = next((name for name in ("reconstruct", "predict") if fold.task.can(name)), None)
    names = [info.name for info in sample.inputs]
    batch = samples.take(torch.arange(len(samples)))
    if method is None or not fold.task.takes(method, "batch"):
        names = names[:1]
    else:
        names = [of for name in names for of in (name, name + LENGTH) if of in batch]
    kind = _MethodOfOne if len(names) == 1 else _MethodOfSeveral
    module = fold.model if method is None else kind(fold, method, names)
    return module.eval(), tuple(batch[name] for name in names)


def export_program(
    model: torch.nn.Module, arguments: tuple[torch.Tensor, ...]
) -> torch.export.ExportedProgram | None:
    """Exports ``model``, in evaluation mode, as a program for any batch size.

    Args:
        arguments: of 2 or more samples each.

    Returns:
        None if torch cannot export it, or if it does not return one tensor.
    """
    batch = torch.export.Dim("batch", min=1, max=2**20)
    if not arguments or len(arguments[0]) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # a user's forward() may do anything, and not everything that runs can be exported
        try:
            if not isinstance(model(*arguments), torch.Tensor):
                return None
            length = torch.export.Dim("length", min=1, max=2**20)
            sequences = getattr(model, "sequences", [False] * len(arguments))
            shapes = tuple({0: batch, 1: length} if one else {0: batch} for one in sequences)
            if isinstance(model, _MethodOfSeveral):  # its arguments are one sequence
                return torch.export.export(model, arguments, dynamic_shapes=(shapes,))
            return torch.export.export(model, arguments, dynamic_shapes=shapes)
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
    cv = work.cross_validation(trial.params, work.samples_on())
    cv.load_state_dict(state)
    if cv.report().fold_epochs < recorded:
        # a kill came between the trial's last report and its checkpoint; the numbers are the same
        # again
        with work.process() as device:
            cv = work.cross_validation(trial.params, work.samples_on(device))
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
        _write(into, run, work, split, about)
        path = str(into.relative_to(folder.path))
        events.files((trial.number, run.number), path, "checkpoint")


def class_names(fold: Fold) -> Sequence[str]:
    """The name of class i at position i, if the target was text."""
    target = fold.samples.sample.target
    return target.names if target is not None else ()


def save_model(folder: Path, fold: Fold, program: torch.export.ExportedProgram | None) -> None:
    """Writes a fold's weights, what its task has prepared, and the program, as far as there are
    any."""
    weights = fold.model.state_dict()
    torch.save({name: value.cpu() for name, value in weights.items()}, folder / WEIGHTS)
    if fold.prepared is not None:
        torch.save(moved(fold.prepared, torch.device("cpu")), folder / PREPARED)
    if program is not None:
        torch.export.save(program, folder / PROGRAM)


def _write(folder: Path, fold: Fold, work: Work, split: Split, about: Mapping[str, Any]) -> None:
    np.save(folder / INDICES, split.validation)
    np.save(
        folder / POSITIONS,
        split.validation if work.positions is None else work.positions[split.validation],
    )
    module, arguments = deployable(fold, work.first_samples(_EXAMPLES))
    program = export_program(module, arguments)
    save_model(folder, fold, program)
    if program is None:
        log.warning(
            "%s: torch.export cannot export this model: there is %s, but no %s",
            folder.name,
            WEIGHTS,
            PROGRAM,
        )
    if fold.prepared is not None and module is fold.model and fold.number == 0:
        text = "%s: the exported model is the network alone, which knows nothing of prepare(): %s"
        log.warning(text, fold.task.reference, "write predict() to have that in it as well")
    shown = {"task": work.task.reference, "params": dict(fold.params), **about}
    shown |= {"inputs": getattr(module, "names", []), "classes": list(class_names(fold))}
    (folder / ABOUT).write_text(json.dumps(shown, indent=2))
