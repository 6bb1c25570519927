"""What the refit of a sweep's winner has left in MLflow: its run, and its evidence as arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.tables import all_runs
from foldrace.search.recording.writer import EVIDENCE, REFIT_DONE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Evidence", "load_evidence", "refit_run"]

Evidence = Mapping[str, NDArray[Any]]
"""The arrays of ``evidence.npz`` by name; which there are depends on the task and the data."""


def refit_run(client: MlflowClient, sweep: Run) -> Run | None:
    """The run in which the winner was trained on all training data and tested; None before that
    has ended."""
    key = sweep.data.tags["foldrace.sweep_key"]
    found = all_runs(
        client, f"tags.`foldrace.sweep_key` = '{key}' and tags.`foldrace.level` = 'refit'"
    )
    done = [run for run in found if REFIT_DONE in run.data.tags]
    return done[-1] if done else None


def load_evidence(client: MlflowClient, refit: Run | None) -> Evidence:
    """The refit's arrays, in memory; none where there was no refit or it left no evidence."""
    if refit is None or EVIDENCE not in {
        item.path for item in client.list_artifacts(refit.info.run_id)
    }:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(refit.info.run_id, EVIDENCE, folder)
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
