"""MLflow's record of a sweep as tidy tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from foldrace.command_hints import dir_option, program
from foldrace.errors import StateError
from foldrace.search.recording.folder import SweepFolder, find_sweep, sweep_names
from foldrace.search.recording.reader import artifact, metric_points, runs_of, search_runs
from foldrace.search.recording.schema import (
    EPOCH,
    FOLDS,
    PARAMETERS,
    TRAIN_SECONDS,
    VAL_LOSS,
    VAL_LOSS_SE,
    Level,
    Tag,
    having,
    trial_status,
)
from foldrace.search.recording.tracking import check_tracking, connect, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "artifact_text",
    "best_trial",
    "fold_losses",
    "fold_runs",
    "folds_table",
    "histories",
    "locate_sweep",
    "number",
    "parameter_texts",
    "ranking",
    "sweep_run",
    "sweeps",
    "trial_curves",
    "trials_table",
]

_COLUMNS = ("trial", "run_id", "status", "reason", "end_time", "arm", "phase")
_METRIC_OF_OBJECTIVE = {"parameters": PARAMETERS, "seconds": TRAIN_SECONDS}
_METRICS = (VAL_LOSS, VAL_LOSS_SE, EPOCH, FOLDS)  # columns even if no trial has them


def sweeps(client: MlflowClient) -> list[Run]:
    """The runs of all sweeps, the earliest first."""
    return list(search_runs(client, having(level=Level.SWEEP)))


def sweep_run(client: MlflowClient, name: str | None, key: str | None = None) -> Run:
    """The run of the latest sweep; if given, of the one with this key, or the latest of this name.

    A key is enough: the folder of a sweep may be renamed.

    Raises:
        StateError: there is none.
    """
    tag = Tag.SWEEP_KEY if key else Tag.SWEEP
    wanted = key or name
    found = [run for run in sweeps(client) if wanted in (None, run.data.tags[tag])]
    if not found:
        raise StateError(
            "no sweep in the tracking store" + (f" is named {name}" if name else " yet")
        )
    return found[-1]


def locate_sweep(
    root: Path, name: str | None, uri: str | None = None
) -> tuple[MlflowClient, Run, SweepFolder | None]:
    """Finds a sweep in its folder or on a tracking server.

    Args:
        root: the folder of all sweeps.
        name: the sweep's; None: the latest.
        uri: of an MLflow server; None: look in ``root`` or, if there is no sweep, on the server
            that MLFLOW_TRACKING_URI names.

    Returns:
        A client of the store, the sweep's run, and its folder; None if found on a server.

    Raises:
        InputError: the address cannot be used.
        StateError: there is no such sweep, or the server does not answer.
    """
    if uri or ("MLFLOW_TRACKING_URI" in os.environ and not sweep_names(root)):
        address = tracking_uri(root, uri)
        check_tracking(address)
        client = connect(address)
        return client, sweep_run(client, name), None
    folder = find_sweep(root, name)
    state = folder.read_state()
    client = connect(state.tracking_uri)
    try:
        return client, sweep_run(client, folder.name, state.key), folder
    except StateError as error:
        command = f"{program()} resume {folder.name}{dir_option(root, Path('runs'))}"
        raise StateError(
            f"{folder.name}: nothing is recorded of it yet; it begins with: {command}"
        ) from error


def trials_table(client: MlflowClient, sweep: Run) -> pd.DataFrame:
    """The trials of a sweep, one per row, by number.

    Columns:
        ``trial``; ``run_id``; ``status`` (completed, pruned, failed, interrupted, running);
        ``reason`` of a failure or pruning, else ""; ``end_time`` in ms since 1970, NaN before the
        end; ``arm`` and ``phase`` of a comparison, else ""; ``tie``, which orders trials of equal
        ``val_loss`` by the sweep's further objectives; every metric; every parameter as
        ``params.NAME``, as text like in MLflow.
    """
    rows: list[dict[str, Any]] = []
    for run in runs_of(client, sweep, Level.TRIAL):
        tags, end = run.data.tags, run.info.end_time
        rows.append(
            {
                "trial": int(tags[Tag.TRIAL]),
                "run_id": run.info.run_id,
                "status": trial_status(run),
                "reason": tags.get(Tag.FAILURE) or tags.get(Tag.PRUNED_AT) or "",
                "end_time": np.nan if end is None else float(end),
                "arm": tags.get(Tag.ARM, ""),
                "phase": tags.get(Tag.PHASE, ""),
                **run.data.metrics,
                **{f"params.{name}": value for name, value in run.data.params.items()},
            }
        )
    table = pd.DataFrame(rows)
    columns = dict.fromkeys([*_COLUMNS, *_METRICS, *table.columns])
    table = table.reindex(columns=[*columns]).sort_values("trial")
    _, *others = sweep.data.tags.get(Tag.OBJECTIVES, VAL_LOSS).split(",")
    return table.assign(tie=_places(table, [_METRIC_OF_OBJECTIVE[name] for name in others]))


def _places(table: pd.DataFrame, metrics: Sequence[str]) -> pd.Series[int]:
    """Each row's place among all by these metrics, the first one decides; equals share one."""
    if not metrics:
        return pd.Series(0, index=table.index)
    values = table.reindex(columns=[*metrics]).fillna(np.inf)
    return values.sort_values([*metrics]).groupby([*metrics], sort=True).ngroup()


def parameter_texts(trial: pd.Series[Any]) -> dict[str, str]:
    """The parameters in a row of `trials_table`, by name; missing ones are left out."""
    given = {str(name): value for name, value in trial.items()}
    return {
        name.removeprefix("params."): value
        for name, value in given.items()
        if name.startswith("params.") and isinstance(value, str)
    }


def number(text: str) -> float | str:
    """A parameter's text as a number, if it is one.

    >>> number("0.5"), number("adam")
    (0.5, 'adam')
    """
    try:
        return float(text)
    except ValueError:
        return text


def ranking(trials: pd.DataFrame) -> pd.DataFrame:
    """The completed trials of a `trials_table` that have a loss, the best first, ties by number.

    The repeats of a comparison's tuned trials are left out.
    """
    done = trials[
        (trials["status"] == "completed")
        & trials["val_loss"].notna()
        & (trials["phase"] != "repeat")
    ]
    ties = ["tie"] if "tie" in done else []
    return done.sort_values(["val_loss", *ties, "trial"])


def best_trial(trials: pd.DataFrame) -> pd.Series[Any] | None:
    """The row of the best completed trial of a `trials_table`; None if no trial completed."""
    found = ranking(trials)
    return found.iloc[0] if len(found) else None


def histories(
    client: MlflowClient, run_ids: Iterable[str], metrics: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The recorded values of metrics, by run.

    A table has one row per step, in order. Its columns are the metrics (NaN where one has no
    value) and ``timestamp``, in ms since 1970.
    """
    run_ids = list(dict.fromkeys(run_ids))
    points = metric_points(client, run_ids, metrics)
    tables = {}
    for run_id in run_ids:
        known = {name: points[run_id, name] for name in metrics}
        columns = {
            name: {point.step: point.value for point in every} for name, every in known.items()
        }
        columns["timestamp"] = {
            point.step: point.timestamp for every in known.values() for point in every
        }
        tables[run_id] = pd.DataFrame(
            {name: pd.Series(values, dtype=float) for name, values in columns.items()}
        ).sort_index()
    return tables


def trial_curves(
    client: MlflowClient, sweep: Run, trials: Iterable[int]
) -> dict[int, pd.DataFrame]:
    """The loss after each epoch, by trial that has reported one.

    A table's columns are ``epoch``, ``val_loss`` (mean over the trial's folds) and ``val_loss_se``
    (its standard error; NaN for a single fold). A fold that stopped early keeps its last loss. The
    mean is over the folds that have been trained, which may be fewer than the sweep has.
    """
    wanted = set(trials)
    trial_of = {
        run.info.run_id: trial
        for run in runs_of(client, sweep, Level.FOLD)
        if (trial := int(run.data.tags[Tag.TRIAL])) in wanted
    }
    known = histories(client, trial_of, [VAL_LOSS])
    curves = {}
    for trial in sorted(set(trial_of.values())):
        folds = [known[run_id][VAL_LOSS] for run_id, of in trial_of.items() if of == trial]
        table = pd.concat(folds, axis=1).sort_index().ffill()
        if len(table):
            curve = pd.DataFrame(
                {"val_loss": table.mean(axis=1), "val_loss_se": table.sem(axis=1)}
            )
            curves[trial] = curve.rename_axis("epoch").reset_index()
    return curves


def folds_table(client: MlflowClient, sweep: Run) -> pd.DataFrame:
    """The folds of all trials, one per row: ``trial``, ``fold``, ``val_loss`` (last recorded)."""
    rows = [
        (int(run.data.tags[Tag.TRIAL]), int(run.data.tags[Tag.FOLD]), run.data.metrics[VAL_LOSS])
        for run in runs_of(client, sweep, Level.FOLD)
        if VAL_LOSS in run.data.metrics
    ]
    return pd.DataFrame(rows, columns=["trial", "fold", "val_loss"]).sort_values(["trial", "fold"])


def fold_runs(client: MlflowClient, sweep: Run, trial: int) -> list[Run]:
    """The runs of a trial's folds, by fold."""
    runs = runs_of(client, sweep, Level.FOLD, trial)
    return sorted(runs, key=lambda run: int(run.data.tags[Tag.FOLD]))


def fold_losses(client: MlflowClient, sweep: Run, trial: int) -> list[float]:
    """The last recorded loss of each fold of a trial, by fold."""
    metrics = [run.data.metrics for run in fold_runs(client, sweep, trial)]
    return [values[VAL_LOSS] for values in metrics if VAL_LOSS in values]


def artifact_text(client: MlflowClient, run: Run, path: str) -> str | None:
    """A text artifact of a run; None if the run has none at that path."""
    content = artifact(client, run.info.run_id, path)
    return None if content is None else content.decode()
