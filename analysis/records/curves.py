"""The recorded learning curves of a finished sweep, for the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.analysis.records.tables import (
    artifact_text,
    histories,
    locate_sweep,
    parameter_texts,
    trials_table,
)
from foldrace.analysis.records.values import read_spec, read_values
from foldrace.errors import InputError, StateError
from foldrace.search.recording.reader import runs_of
from foldrace.search.recording.schema import (
    EPOCH,
    FOLDS,
    SPEC_FILE,
    TRAIN_SECONDS,
    VAL_LOSS,
    Level,
    Tag,
    sweep_state,
)
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["curves_of", "export_curves"]

_WAY_OUT = "record curves with a sweep that has scheduler.kind: fifo"


def export_curves(root: Path, name: str | None, output: Path, *, uri: str | None = None) -> Curves:
    """Writes the learning curves of a sweep into an ``.npz`` file.

    Args:
        root, name, uri: where the sweep is, see `foldrace.analysis.records.tables.locate_sweep`.
        output: the file.

    Raises:
        InputError: the file cannot be written, or the address cannot be used.
        StateError: there is no such sweep, or its curves are not complete (see `curves_of`).
    """
    if output.suffix != ".npz":
        raise InputError(
            "--output", str(output), "must end with .npz", f"{output.with_suffix('.npz')}"
        )
    if not output.parent.is_dir() or output.is_dir():
        rule = "is a folder" if output.is_dir() else "its folder does not exist"
        raise InputError("--output", str(output), rule)
    client, run, _ = locate_sweep(root, name, uri)
    curves = curves_of(client, run)
    try:
        curves.save(output)
    except OSError as error:
        raise InputError(
            "--output", str(output), f"cannot be written: {error.strerror}"
        ) from error
    return curves


def curves_of(client: MlflowClient, sweep: Run) -> Curves:
    """The objective of every fold after each epoch, for all trials by number.

    A failed trial has NaN after its last epoch. The seconds of an epoch are an equal share of the
    time between two reports of its trial; where that is not known, the median of all.

    Raises:
        StateError: the sweep has not ended, trials were pruned, folds stopped early, or fewer than
            two trials completed.
    """
    name = sweep.data.tags[Tag.SWEEP]
    if (state := sweep_state(sweep)) != "finished":
        ending = {"running": "has not ended", "interrupted": "was interrupted"}
        raise StateError(
            f"{name}: the sweep {ending.get(state, 'has failed')}, so its curves are not complete;"
            f" `foldrace resume {name}` first"
        )
    trials = trials_table(client, sweep)
    trials = trials[trials["phase"] != "repeat"]
    _check_endings(name, trials)
    known = histories(client, trials["run_id"], [FOLDS, EPOCH, TRAIN_SECONDS])
    reports = [known[run_id].dropna(subset=[FOLDS, EPOCH]) for run_id in trials["run_id"]]
    shape = (
        len(trials),
        _most(reports, "folds"),
        _epochs(client, sweep) or _most(reports, "epoch"),
    )
    loss = _losses(
        client, sweep, dict(zip(trials["trial"], range(len(trials)), strict=True)), shape
    )
    completed = (trials["status"] == "completed").to_numpy()
    short = int((~np.isfinite(loss[completed]).all(axis=(1, 2))).sum())
    if short:
        raise StateError(
            f"{name}: folds of {short} of {int(completed.sum())} trials stopped before epoch"
            f" {shape[2]}, so their curves are not complete; record curves with a sweep without"
            " early_stopping"
        )
    return Curves(loss, _seconds(reports, shape), _configurations(client, sweep, trials))


def _check_endings(name: str, trials: pd.DataFrame) -> None:
    pruned = int(trials["status"].isin(["pruned", "interrupted", "running"]).sum())
    if pruned:
        raise StateError(
            f"{name}: {pruned} of {len(trials)} trials were pruned, so their curves are not"
            f" complete; {_WAY_OUT}"
        )
    completed = int((trials["status"] == "completed").sum())
    if completed < 2:
        raise StateError(
            f"{name}: {completed} of {len(trials)} trials completed; to compare curves there must"
            " be two or more"
        )


def _most(reports: Sequence[pd.DataFrame], column: str) -> int:
    return int(max(report[column].max() for report in reports if len(report)))


def _epochs(client: MlflowClient, sweep: Run) -> int | None:
    """The epochs of the sweep file; None if it is not recorded."""
    spec = read_spec(artifact_text(client, sweep, SPEC_FILE))
    return spec.epochs if spec else None


def _losses(
    client: MlflowClient, sweep: Run, rows: Mapping[int, int], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """(C, K, E) losses of all folds; ``rows`` has the row of each trial, by its number."""
    runs = runs_of(client, sweep, Level.FOLD)
    known = histories(client, [run.info.run_id for run in runs], [VAL_LOSS])
    loss = np.full(shape, np.nan)
    for run in runs:
        row, fold = rows.get(int(run.data.tags[Tag.TRIAL])), int(run.data.tags[Tag.FOLD])
        values = known[run.info.run_id][VAL_LOSS]
        if row is not None and len(values):
            loss[row, fold, values.index.to_numpy(int) - 1] = values.to_numpy(float)
    return loss


def _seconds(reports: Sequence[pd.DataFrame], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """(C, K, E): the time between two reports of a trial, in equal shares for its fold-epochs."""
    seconds = np.full(shape, np.nan)
    for row, report in enumerate(reports):
        before = 0.0
        for point in report.itertuples():
            reached = seconds[row, : int(point.folds), : int(point.epoch)]
            new = np.isnan(reached)
            if new.any() and np.isfinite(point.train_seconds):
                reached[new] = max(0.0, point.train_seconds - before) / new.sum()
                before = point.train_seconds
    known = seconds[np.isfinite(seconds)]
    return np.where(np.isfinite(seconds), seconds, np.median(known) if len(known) else 1.0)


def _configurations(
    client: MlflowClient, sweep: Run, trials: pd.DataFrame
) -> tuple[dict[str, Value], ...]:
    """The parameters of each trial, as values."""
    spec = read_spec(artifact_text(client, sweep, SPEC_FILE))
    return tuple(read_values(parameter_texts(row), spec) for _, row in trials.iterrows())
