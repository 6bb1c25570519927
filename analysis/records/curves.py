"""The learning curves that a finished sweep has left in MLflow, as a table for the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.analysis.records.tables import (
    all_runs,
    artifact_text,
    histories,
    locate_sweep,
    number,
    trials_table,
)
from foldrace.errors import InputError, StateError
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["curves_of", "export_curves"]

_WAY_OUT = "record curves by a sweep with scheduler.kind: fifo"


def export_curves(root: Path, name: str | None, output: Path, *, uri: str | None = None) -> Curves:
    """Writes the curves of a sweep, or of the latest, into an .npz.

    Args:
        root: the folder of all sweeps.
        uri: an MLflow server to find the sweep on; without it ``root`` says where, or else
            MLFLOW_TRACKING_URI.

    Raises:
        InputError: the file cannot be written; an address that cannot be used.
        StateError: no such sweep, or one that has no whole curves (see `curves_of`).
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
    """The objective of every fold of every trial after each epoch, the trials by their number.

    A trial that has failed keeps what it had; the rest of it is NaN. An epoch's seconds are its
    share of what the trial took between two reports, and the median of all where that is not
    known.

    Raises:
        StateError: the sweep has not ended; trials were given up, or their folds stopped early;
            fewer than two were trained in full.
    """
    name = sweep.data.tags["foldrace.sweep"]
    if sweep.info.status != "FINISHED":
        ending = {"RUNNING": "has not ended", "KILLED": "was interrupted"}.get(
            sweep.info.status, "has failed"
        )
        raise StateError(
            f"{name}: the sweep {ending}, so its curves are not whole; `foldrace resume {name}`"
            " first"
        )
    trials = trials_table(client, sweep)
    trials = trials[trials["phase"] != "repeat"]
    _check_endings(name, trials)
    told = histories(client, trials["run_id"], ["folds", "epoch", "train_seconds"])
    reports = [told[run_id].dropna(subset=["folds", "epoch"]) for run_id in trials["run_id"]]
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
            f" {shape[2]}, so their curves are not whole; record curves by a sweep without"
            " early_stopping"
        )
    return Curves(loss, _seconds(reports, shape), _configurations(trials))


def _check_endings(name: str, trials: pd.DataFrame) -> None:
    given_up = int(trials["status"].isin(["pruned", "interrupted", "running"]).sum())
    if given_up:
        raise StateError(
            f"{name}: {given_up} of {len(trials)} trials were given up early, so their curves are"
            f" not whole; {_WAY_OUT}"
        )
    whole = int((trials["status"] == "completed").sum())
    if whole < 2:
        raise StateError(
            f"{name}: {whole} of {len(trials)} trials trained in full; curves are compared, so two"
            " or more"
        )


def _most(reports: Sequence[pd.DataFrame], column: str) -> int:
    return int(max(report[column].max() for report in reports if len(report)))


def _epochs(client: MlflowClient, sweep: Run) -> int | None:
    """What the sweep file says; None where it was not recorded."""
    spec = yaml.safe_load(artifact_text(client, sweep, "sweep.yaml") or "{}")
    epochs = spec.get("epochs") if isinstance(spec, dict) else None
    return epochs if isinstance(epochs, int) else None


def _losses(
    client: MlflowClient, sweep: Run, rows: Mapping[int, int], shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """(C, K, E) ``val_loss``, from the runs of the folds; ``rows`` says by a trial's number which
    row is its own."""
    key = sweep.data.tags["foldrace.sweep_key"]
    runs = all_runs(
        client, f"tags.`foldrace.sweep_key` = '{key}' and tags.`foldrace.level` = 'fold'"
    )
    told = histories(client, [run.info.run_id for run in runs], ["val_loss"])
    loss = np.full(shape, np.nan)
    for run in runs:
        row, fold = (
            rows.get(int(run.data.tags["foldrace.trial"])),
            int(run.data.tags["foldrace.fold"]),
        )
        values = told[run.info.run_id]["val_loss"]
        if row is not None and len(values):
            loss[row, fold, values.index.to_numpy(int) - 1] = values.to_numpy(float)
    return loss


def _seconds(reports: Sequence[pd.DataFrame], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """(C, K, E): what a trial took between two reports, in equal parts for the epochs of folds
    trained there."""
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


def _configurations(trials: pd.DataFrame) -> tuple[dict[str, Value], ...]:
    """The parameters of each trial, numbers where they are."""
    names = [str(column) for column in trials if str(column).startswith("params.")]
    return tuple(
        {
            name.removeprefix("params."): _value(row[name])
            for name in names
            if isinstance(row[name], str)
        }
        for _, row in trials.iterrows()
    )


def _value(text: str) -> Value:
    return int(text) if text.lstrip("-").isdecimal() else number(text)
