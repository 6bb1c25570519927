"""Logs codes and reconstructions of any trial's fold models, from the trial's checkpoint."""

from __future__ import annotations

from pathlib import Path

from foldrace.errors import StateError
from foldrace.search.preparing.recorded import open_recorded
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.folder import SweepFolder, find_sweep
from foldrace.search.recording.tracking import connect
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.sweeps.evidence import Codec, log_evidence
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file

__all__ = ["log_trial_evidence"]


def log_trial_evidence(
    name: str | None,
    trial: int,
    root: Path,
    data_dir: Path,
) -> str:
    """Logs the evidence of a trial, computed with its fold 0, to the trial's run.

    See `foldrace.search.sweeps.evidence.collect_evidence`. It uses the test images, so nothing may
    be selected by it.

    Args:
        name: the sweep's; None: the latest sweep.
        trial: the trial's number.
        root: the folder of all sweeps.
        data_dir: where data sets are kept.

    Returns:
        The id of the trial's run.

    Raises:
        StateError: there is no such sweep, it is not as recorded, or there is no checkpoint of the
            trial in its folder.
        InputError: the data set or the task cannot be read any more.
    """
    folder = find_sweep(root, name)
    recorded = open_recorded(folder)
    saved = load_checkpoint_file(_checkpoint(folder, trial, recorded.spec.epochs))
    state, prepared = recorded.state, recorded.prepare(data_dir)
    work = make_work(prepared)
    client = connect(state.tracking_uri)
    writer = MlflowWriter(client, state.experiment_id, folder.name, state.key)
    run_id = writer.trial_run(trial)
    with work.process() as device:
        cv = work.cross_validation(
            saved["params"], work.samples_on(device), repeat=saved.get("repeat", 0)
        )
        cv.load_state_dict(saved["cross_validation"])
        folds = []
        for run in cv.folds:
            run.model.load_state_dict(run.weights())
            folds.append(Codec(run.task, run.model, run.params, device, run.options.seed))
        terms = {
            name.removeprefix("val_"): value
            for name, value in cv.folds[0].report().metrics.items()
        }
        log_evidence(client, run_id, folds[0], folds, prepared.dataset, terms)
    return run_id


def _checkpoint(folder: SweepFolder, trial: int, epochs: int) -> Path:
    found = folder.checkpoint(trial, CHECKPOINT_FILE, epochs)
    if found is not None:
        return found / CHECKPOINT_FILE
    paths = folder.path.glob(f"tune*/trial-*/checkpoint_*/{CHECKPOINT_FILE}")
    kept = sorted({int(path.parts[-3][-4:]) for path in paths})
    shown = ", ".join(map(str, kept)) or "none"
    raise StateError(
        f"{folder.name}: no checkpoint of trial {trial} here; trials with one: {shown}"
    )
