"""What the refit of a sweep has left in MLflow: its run, and its evidence as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from foldrace.search.recording.reader import artifact_arrays, runs_of
from foldrace.search.recording.schema import EVIDENCE_FILE, Level, Tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Evidence", "load_evidence", "refit_run"]

Evidence = Mapping[str, NDArray[Any]]
"""Arrays by name, see `foldrace.search.sweeps.evidence.collect_evidence`."""


def refit_run(client: MlflowClient, sweep: Run) -> Run | None:
    """The run of the sweep's refit; None before a refit has completed."""
    runs = runs_of(client, sweep, Level.REFIT)
    return next((run for run in reversed(runs) if Tag.REFIT_DONE in run.data.tags), None)


def load_evidence(client: MlflowClient, refit: Run | None) -> Evidence:
    """The arrays of a refit; empty without a refit, or if it left no evidence."""
    return {} if refit is None else artifact_arrays(client, refit.info.run_id, EVIDENCE_FILE)
