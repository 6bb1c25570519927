"""The status of a sweep, in a few lines."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from foldrace.analysis.records.tables import (
    locate_sweep,
    ranking,
    trials_table,
)
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.recording.reader import artifact_names, recorded_objective, spec_text
from foldrace.search.recording.schema import ERROR_FILE, Tag, sweep_state
from foldrace.search.spec.sweep_spec import SweepSpec, parse_spec
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.search.text import clock
from foldrace.trainables.tasks.objective import LOSS, Objective

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Status", "read_status"]

_SHOWN_FAILURES = 3
_STATES = ("running", "completed", "pruned", "failed", "interrupted")


@dataclass(frozen=True)
class Status:
    """The status of a sweep.

    Attributes:
        state: running, finished, interrupted or failed.
        planned: how many trials the sweep has in all.
        varying: the names of the parameters that vary.
        seconds: wall-clock time since the sweep started, or until it ended.
        remedy: what to do if the sweep's process on this node ended without closing the record;
            else "".
        folds, epochs: of a completed trial.
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`.
        tracebacks: by failed trial, where its ``error.txt`` is; for those that `failures` names.
        spec: the recorded sweep file, by which the parameters are read.
        objective: what trials are compared by.
    """

    sweep: str
    state: str
    run_id: str
    planned: int
    varying: tuple[str, ...]
    seconds: float
    folds: int
    epochs: int
    trials: pd.DataFrame
    tracebacks: Mapping[int, str]
    remedy: str = ""
    spec: SweepSpec | None = None
    objective: Objective = LOSS

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials by status."""
        return {state: int((self.trials["status"] == state).sum()) for state in _STATES}

    @property
    def ranking(self) -> pd.DataFrame:
        """Completed trials, the best first."""
        return ranking(self.trials)

    @property
    def open_trials(self) -> pd.DataFrame:
        """The running, paused and interrupted trials that have reported, the best first."""
        still_open = self.trials["status"].isin(["running", "interrupted"])
        seen = self.trials[still_open & self.trials["val_loss"].notna()]
        return seen.sort_values(["folds", "epoch", "val_loss"], ascending=[False, False, True])

    def summary(self) -> str:
        """State, counts and time in one line."""
        counts = (
            ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
            or "none yet"
        )
        how = f" (its process has ended; {self.remedy})" if self.remedy else ""
        begun = f"{len(self.trials)} of {self.planned} trials: {counts}"
        return f"{self.sweep}: {self.state}{how}; {begun}; {clock(self.seconds)} since it started"

    def failures(self) -> list[str]:
        """A line for each of the first failed trials and its traceback, and how many more."""
        lines = []
        for row in _first_failed(self.trials).itertuples():
            lines.append(f"trial {row.trial} failed: {row.reason}")
            if row.trial in self.tracebacks:
                lines.append(f"    {self.tracebacks[row.trial]}")
        if (more := self.counts["failed"] - _SHOWN_FAILURES) > 0:
            lines.append(f"and {more} more failed; `foldrace report` lists them all")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        best: dict[str, Any] | None = None
        if len(self.ranking):
            row = self.ranking.iloc[0]
            error = float(row["val_loss_se"])
            score = {
                "mean": self.objective.score(float(row["val_loss"])),
                "standard_error": error if math.isfinite(error) else None,
            }
            best = {"trial": int(row["trial"]), **self.objective.entry(score)}
        state = {
            "sweep": self.sweep,
            "state": self.state,
            "run_id": self.run_id,
            "planned": self.planned,
        }
        return state | {"trials": self.counts, "best": best, "seconds": round(self.seconds, 1)}


def read_status(root: Path, name: str | None, uri: str | None = None) -> Status:
    """Reads the status of a sweep.

    Args:
        root, name, uri: where the sweep is, see `foldrace.analysis.records.tables.locate_sweep`.

    Raises:
        InputError: the address cannot be used.
        StateError: there is no such sweep, or its file is not recorded.
    """
    client, run, folder = locate_sweep(root, name, uri)
    spec = parse_spec(read_yaml(spec_text(client, run), run.data.tags[Tag.SWEEP]), base=root)
    state = sweep_state(run)
    running = state == "running"
    gone = folder if running and folder is not None and folder.abandoned else None
    # a resumed run still has the end time of its first session
    end = None if running else run.info.end_time
    trials = trials_table(client, run)
    if gone:
        trials["status"] = trials["status"].replace("running", "interrupted")
    return Status(
        sweep=run.data.tags[Tag.SWEEP],
        state="interrupted" if gone else state,
        run_id=run.info.run_id,
        planned=spec.planned_trials,
        varying=spec.varying,
        seconds=((end or time.time() * 1000) - run.info.start_time) / 1000,
        folds=spec.folds.count,
        epochs=spec.epochs,
        trials=trials,
        tracebacks=_tracebacks(client, trials),
        remedy=_remedy(gone) if gone else "",
        spec=spec,
        objective=recorded_objective(run),
    )


def _first_failed(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials["status"] == "failed"].head(_SHOWN_FAILURES)


def _tracebacks(client: MlflowClient, trials: pd.DataFrame) -> dict[int, str]:
    """By trial, the path of its ``error.txt``, or its URI if it is not on this node."""
    places: dict[int, str] = {}
    for row in _first_failed(trials).itertuples():
        if ERROR_FILE in artifact_names(client, row.run_id):
            uri = f"{client.get_run(row.run_id).info.artifact_uri}/{ERROR_FILE}"
            parts = urlsplit(uri)
            places[row.trial] = unquote(parts.path) if parts.scheme == "file" else uri
    return places


def _remedy(folder: SweepFolder) -> str:
    if folder.result.is_file():  # the end of its record is not delivered, or an extension ran
        return f"`foldrace sync {folder.name}` delivers what waits"
    return f"`foldrace resume {folder.name}` resumes it"
