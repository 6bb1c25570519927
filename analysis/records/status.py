"""A sweep in a few lines, as MLflow has it."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from foldrace.analysis.records.tables import locate_sweep, ranking, trials_table
from foldrace.search.recording.store import SweepFolder
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.search.text import clock

__all__ = ["Status", "read_status"]

_STATES = ("running", "completed", "pruned", "failed", "interrupted")


@dataclass(frozen=True)
class Status:
    """What is known of a sweep.

    Attributes:
        state: of the sweep: running, finished, interrupted or failed.
        remedy: what to do if it was driven from its folder here and the process is gone without a
            word; else "".
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`.
    """

    sweep: str
    state: str
    run_id: str
    planned: int
    varying: tuple[str, ...]
    seconds: float
    trials: pd.DataFrame
    remedy: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        return {state: int((self.trials["status"] == state).sum()) for state in _STATES}

    @property
    def ranking(self) -> pd.DataFrame:
        """Completed trials, the best first."""
        return ranking(self.trials)

    def summary(self) -> str:
        """One line: state, counts, time."""
        counts = (
            ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
            or "none yet"
        )
        how = f" (its process has ended; {self.remedy})" if self.remedy else ""
        begun = f"{len(self.trials)} of {self.planned} trials: {counts}"
        return f"{self.sweep}: {self.state}{how}; {begun}; {clock(self.seconds)} since it began"

    def failures(self, count: int = 3) -> list[str]:
        """A line for each failed trial, the first ones only."""
        failed = self.trials[self.trials["status"] == "failed"].head(count)
        return [f"trial {row.trial} failed: {row.reason}" for row in failed.itertuples()]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        best = None
        if len(self.ranking):
            row = self.ranking.iloc[0]
            error = float(row["val_loss_se"])
            best = {
                "trial": int(row["trial"]),
                "val_loss": {
                    "mean": float(row["val_loss"]),
                    "standard_error": error if math.isfinite(error) else None,
                },
            }
        state = {
            "sweep": self.sweep,
            "state": self.state,
            "run_id": self.run_id,
            "planned": self.planned,
        }
        return state | {"trials": self.counts, "best": best, "seconds": round(self.seconds, 1)}


def read_status(root: Path, name: str | None, uri: str | None = None) -> Status:
    """The state of a sweep, or of the latest: of those on the tracking server ``uri``; without it
    of those in ``root``, else of those on the server that MLFLOW_TRACKING_URI names. Raises:
    StateError if there is none."""
    client, run, folder = locate_sweep(root, name, uri)
    tags = run.data.tags
    spec = parse_spec(_spec(client, run.info.run_id), base=root)
    finished = {
        "RUNNING": "running",
        "FINISHED": "finished",
        "KILLED": "interrupted",
        "FAILED": "failed",
    }
    running = run.info.status == "RUNNING"
    gone = folder if running and folder is not None and folder.abandoned else None
    end = (
        None if running else run.info.end_time
    )  # one that was resumed still has the end of its first session
    return Status(
        sweep=tags["foldrace.sweep"],
        state="interrupted" if gone else finished[run.info.status],
        run_id=run.info.run_id,
        planned=spec.planned_trials,
        varying=spec.varying,
        seconds=((end or time.time() * 1000) - run.info.start_time) / 1000,
        trials=trials_table(client, run),
        remedy=_remedy(gone) if gone else "",
    )


def _remedy(folder: SweepFolder) -> str:
    if folder.result.is_file():  # MLflow lacks the end of its record, or it was being extended
        return f"`foldrace sync {folder.name}` delivers what waits"
    return f"`foldrace resume {folder.name}` goes on"


def _spec(client: Any, run_id: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, "sweep.yaml", folder)
        loaded: dict[str, Any] = yaml.safe_load(Path(path).read_text())
    return loaded
