"""What any trial's fold models make of the test images, from the checkpoint that it has left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from foldrace.errors import StateError
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.store import SweepFolder, connect, find_sweep
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.sweeps.evidence import Codec, log_evidence
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file
from foldrace.trainables.ray.work import shared_tensor

__all__ = ["log_trial_evidence"]


def log_trial_evidence(
    name: str | None,
    trial: int,
    root: Path,
    data_dir: Path,
    *,
    notify: Callable[[str], None] = lambda _: None,
) -> str:
    """Logs `collect_evidence` of a trial, made with its fold 0, to the trial's run; returns the
    run's id.

    It looks at the test images, and notes how well each is reconstructed; nothing may be chosen by
    that.

    Raises:
        StateError: no such sweep, or the trial has left no checkpoint here.
        InputError: the data set or the task cannot be read any more.
    """
    folder = find_sweep(root, name)
    spec = load_spec(folder.spec)
    saved = load_checkpoint_file(_checkpoint(folder, trial, spec.epochs))
    state = folder.read_state()
    prepared = prepare(spec, data_dir)
    state.check_data(prepared.dataset.name, prepared.dataset.digest, folder.name)
    work = make_work(prepared)
    cv = work.cross_validation(
        saved["params"], shared_tensor(work.images), repeat=saved.get("repeat", 0)
    )
    cv.load_state_dict(saved["cross_validation"])
    folds = []
    for run in cv.folds:
        run.model.load_state_dict(run.weights())
        folds.append(Codec(run.task, run.model, run.params, torch.device("cpu"), run.options.seed))
    figures = {
        name.removeprefix("val_"): value for name, value in cv.folds[0].report().metrics.items()
    }
    client = connect(state.tracking_uri)
    run_id: str = MlflowWriter(client, state.experiment_id, folder.name, state.key).trial_run(
        trial
    )
    log_evidence(client, run_id, folds[0], folds, prepared.dataset, figures)
    return run_id


def _checkpoint(folder: SweepFolder, trial: int, epochs: int) -> Path:
    found = folder.checkpoint(trial, CHECKPOINT_FILE, epochs)
    if found is not None:
        return found / CHECKPOINT_FILE
    kept: Any = sorted(
        {
            int(path.parts[-3][-4:])
            for path in folder.path.glob(f"tune*/trial-*/checkpoint_*/{CHECKPOINT_FILE}")
        }
    )
    shown = ", ".join(map(str, kept)) or "none"
    raise StateError(
        f"{folder.name}: trial {trial} has left no checkpoint here; trials that have: {shown}"
    )
