"""MLflow's record of a sweep as tidy tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from trainables.errors import StateError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["all_runs", "sweep_run", "sweeps", "trials_table"]

_PAGE = 5000


def all_runs(client: MlflowClient, filter_string: str) -> list[Run]:
    """Every run that matches, of all experiments, page by page."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiments, filter_string, max_results=_PAGE, order_by=["attributes.start_time"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def sweeps(client: MlflowClient) -> list[Run]:
    """The runs of all sweeps, the oldest first."""
    return all_runs(client, "tags.`foldrace.level` = 'sweep'")


def sweep_run(client: MlflowClient, name: str | None) -> Run:
    """The run of the sweep of that name, or of the latest. Raises: StateError if there is none."""
    found = [run for run in sweeps(client) if name in (None, run.data.tags["foldrace.sweep"])]
    if not found:
        raise StateError("no sweep in the tracking store" + (f" is named {name}" if name else " yet"))
    return found[-1]


def trials_table(client: MlflowClient, sweep: Run) -> pd.DataFrame:
    """One row a trial: ``trial``, ``status`` (completed, pruned, failed, running), ``reason``, its metrics, and its
    parameters as ``params.NAME`` (text, as MLflow keeps them); sorted by trial."""
    key = sweep.data.tags["foldrace.sweep_key"]
    names = {"FINISHED": "completed", "KILLED": "pruned", "FAILED": "failed", "RUNNING": "running"}
    rows: list[dict[str, Any]] = []
    for run in all_runs(client, f"tags.`foldrace.sweep_key` = '{key}' and tags.`foldrace.level` = 'trial'"):
        tags = run.data.tags
        rows.append(
            {
                "trial": int(tags["foldrace.trial"]),
                "run_id": run.info.run_id,
                "status": names[run.info.status],
                "reason": tags.get("foldrace.failure") or tags.get("foldrace.pruned_at") or "",
                **run.data.metrics,
                **{f"params.{name}": value for name, value in run.data.params.items()},
            }
        )
    columns = ["trial", "run_id", "status", "reason", "val_loss", "val_loss_se", "epoch", "folds"]
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*columns, *(c for c in table.columns if c not in columns)]).sort_values("trial")
