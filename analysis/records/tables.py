"""MLflow's record of a sweep as tidy tables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from foldrace.errors import StateError
from foldrace.search.recording.store import (
    SweepFolder,
    check_tracking,
    connect,
    find_sweep,
    sweep_names,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "all_runs",
    "artifact_text",
    "fold_losses",
    "folds_table",
    "histories",
    "locate_sweep",
    "number",
    "ranking",
    "sweep_run",
    "sweeps",
    "trial_curves",
    "trials_table",
]

_PAGE = 5000
_AT_ONCE = 8


def all_runs(client: MlflowClient, filter_string: str) -> list[Run]:
    """Every run that matches, of all experiments, page by page."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiments,
            filter_string,
            max_results=_PAGE,
            order_by=["attributes.start_time"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def sweeps(client: MlflowClient) -> list[Run]:
    """The runs of all sweeps, the oldest first."""
    return all_runs(client, "tags.`foldrace.level` = 'sweep'")


def sweep_run(client: MlflowClient, name: str | None, key: str | None = None) -> Run:
    """The run of the sweep of that name (and key), or of the latest. Raises: StateError if there
    is none."""
    found = [
        run
        for run in sweeps(client)
        if name in (None, run.data.tags["foldrace.sweep"])
        and key in (None, run.data.tags["foldrace.sweep_key"])
    ]
    if not found:
        raise StateError(
            "no sweep in the tracking store" + (f" is named {name}" if name else " yet")
        )
    return found[-1]


def locate_sweep(
    root: Path, name: str | None, uri: str | None = None
) -> tuple[MlflowClient, Run, SweepFolder | None]:
    """The store and the run of a sweep, or of the latest, and its folder unless a server alone
    knows it.

    Args:
        root: the folder of all sweeps.
        uri: an MLflow server to find the sweep on; without it ``root`` says where, or else
            MLFLOW_TRACKING_URI.

    Raises:
        InputError: an address that cannot be used.
        StateError: no such sweep, or a server that does not answer.
    """
    if uri or ("MLFLOW_TRACKING_URI" in os.environ and not sweep_names(root)):
        address = tracking_uri(root, uri)
        check_tracking(address)
        client = connect(address)
        return client, sweep_run(client, name), None
    folder = find_sweep(root, name)
    state = folder.read_state()
    client = connect(state.tracking_uri)
    return client, sweep_run(client, folder.name, state.key), folder


def trials_table(client: MlflowClient, sweep: Run) -> pd.DataFrame:
    """One row a trial: ``trial``, ``status`` (completed, pruned, failed, interrupted, running),
    ``reason``, when it ended (``end_time``, ms since the epoch; NaN before), a comparison's
    ``arm`` and ``phase`` (else ""), metrics, and parameters as ``params.NAME`` (text, as MLflow
    keeps them); sorted by trial."""
    key = sweep.data.tags["foldrace.sweep_key"]
    names = {"FINISHED": "completed", "KILLED": "pruned", "FAILED": "failed", "RUNNING": "running"}
    rows: list[dict[str, Any]] = []
    for run in all_runs(
        client, f"tags.`foldrace.sweep_key` = '{key}' and tags.`foldrace.level` = 'trial'"
    ):
        tags = run.data.tags
        status = names[run.info.status]
        if status == "pruned" and "foldrace.pruned_at" not in tags:
            status = "interrupted"
        rows.append(
            {
                "trial": int(tags["foldrace.trial"]),
                "run_id": run.info.run_id,
                "status": status,
                "reason": tags.get("foldrace.failure") or tags.get("foldrace.pruned_at") or "",
                "end_time": float("nan")
                if run.info.end_time is None
                else float(run.info.end_time),
                "arm": tags.get("foldrace.arm", ""),
                "phase": tags.get("foldrace.phase", ""),
                **run.data.metrics,
                **{f"params.{name}": value for name, value in run.data.params.items()},
            }
        )
    columns = [
        "trial",
        "run_id",
        "status",
        "reason",
        "end_time",
        "arm",
        "phase",
        "val_loss",
        "val_loss_se",
        "epoch",
        "folds",
    ]
    table = pd.DataFrame(rows)
    return table.reindex(
        columns=[*columns, *(c for c in table.columns if c not in columns)]
    ).sort_values("trial")


def ranking(trials: pd.DataFrame) -> pd.DataFrame:
    """The completed trials of a `trials_table` that have a loss, the best first; a tie goes to the
    earlier one. The repeats of a comparison's winners do not compete with them."""
    done = trials[
        (trials["status"] == "completed")
        & trials["val_loss"].notna()
        & (trials["phase"] != "repeat")
    ]
    return done.sort_values(["val_loss", "trial"])


def trial_curves(
    client: MlflowClient, sweep: Run, trials: Iterable[int]
) -> dict[int, pd.DataFrame]:
    """By trial that has reported a loss: ``epoch``, ``val_loss`` and ``val_loss_se``, the mean
    over its folds and its standard error (NaN for a single fold).

    A fold that has stopped early keeps its loss. Where only some of the trial's folds were
    trained, as when it was given up in a race, the mean is over those.
    """
    key, wanted = sweep.data.tags["foldrace.sweep_key"], set(trials)
    runs = all_runs(
        client, f"tags.`foldrace.sweep_key` = '{key}' and tags.`foldrace.level` = 'fold'"
    )
    trial_of = {run.info.run_id: int(run.data.tags["foldrace.trial"]) for run in runs}
    trial_of = {run_id: trial for run_id, trial in trial_of.items() if trial in wanted}
    told = histories(client, trial_of, ["val_loss"])
    curves = {}
    for trial in sorted(set(trial_of.values())):
        folds = [told[run_id]["val_loss"] for run_id, of in trial_of.items() if of == trial]
        table = pd.concat(folds, axis=1).sort_index().ffill()
        if len(table):
            curve = pd.DataFrame(
                {"val_loss": table.mean(axis=1), "val_loss_se": table.sem(axis=1)}
            )
            curves[trial] = curve.rename_axis("epoch").reset_index()
    return curves


def histories(
    client: MlflowClient, run_ids: Iterable[str], metrics: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """By run: a column a metric, a row a step (in order; NaN where a metric has no value there),
    and ``timestamp``, ms.

    MLflow answers for one metric of one run at a time, so several are asked side by side.
    """
    wanted = [(run_id, name) for run_id in dict.fromkeys(run_ids) for name in metrics]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(
            zip(wanted, pool.map(lambda ask: client.get_metric_history(*ask), wanted), strict=True)
        )
    tables = {}
    for run_id in dict.fromkeys(run_ids):
        values = {
            name: {point.step: point.value for point in answers[run_id, name]} for name in metrics
        }
        times = {
            point.step: point.timestamp for name in metrics for point in answers[run_id, name]
        }
        columns = {
            name: pd.Series(of, dtype=float) for name, of in {**values, "timestamp": times}.items()
        }
        tables[run_id] = pd.DataFrame(columns).sort_index()
    return tables


def folds_table(client: MlflowClient, sweep: Run) -> pd.DataFrame:
    """One row a fold of a trial: ``trial``, ``fold``, ``val_loss`` (last recorded), in one request
    for all."""
    key = sweep.data.tags["foldrace.sweep_key"]
    runs = all_runs(
        client, f"tags.`foldrace.sweep_key` = '{key}' and tags.`foldrace.level` = 'fold'"
    )
    rows = [
        (
            int(run.data.tags["foldrace.trial"]),
            int(run.data.tags["foldrace.fold"]),
            run.data.metrics["val_loss"],
        )
        for run in runs
        if "val_loss" in run.data.metrics
    ]
    return pd.DataFrame(rows, columns=["trial", "fold", "val_loss"]).sort_values(["trial", "fold"])


def artifact_text(client: MlflowClient, run: Run, path: str) -> str | None:
    """A text artifact of a run; None if it has none of that name."""
    if path not in {item.path for item in client.list_artifacts(run.info.run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run.info.run_id, path, folder)).read_text(
            encoding="utf-8"
        )


def fold_losses(client: MlflowClient, sweep: Run, trial: int) -> list[float]:
    """Each fold's last recorded objective, by fold."""
    key = sweep.data.tags["foldrace.sweep_key"]
    wanted = f"tags.`foldrace.sweep_key` = '{key}' and tags.`foldrace.trial` = '{trial}'"
    runs = all_runs(client, f"{wanted} and tags.`foldrace.level` = 'fold'")
    ordered = sorted(runs, key=lambda run: int(run.data.tags["foldrace.fold"]))
    return [run.data.metrics["val_loss"] for run in ordered if "val_loss" in run.data.metrics]


def number(text: str) -> float | str:
    """A parameter as MLflow keeps it, as text, back as a number if it is one."""
    try:
        return float(text)
    except ValueError:
        return text
