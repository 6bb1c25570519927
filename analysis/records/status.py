"""The status of a sweep, in a few lines."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from foldrace.analysis.records.tables import locate_sweep, ranking, trials_table
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.recording.reader import spec_text
from foldrace.search.recording.schema import Tag, sweep_state
from foldrace.search.spec.sweep_spec import SweepSpec, parse_spec
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.search.text import clock

__all__ = ["Status", "read_status"]

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
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`.
        spec: the recorded sweep file, by which the parameters are read.
    """

    sweep: str
    state: str
    run_id: str
    planned: int
    varying: tuple[str, ...]
    seconds: float
    trials: pd.DataFrame
    remedy: str = ""
    spec: SweepSpec | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials by status."""
        return {state: int((self.trials["status"] == state).sum()) for state in _STATES}

    @property
    def ranking(self) -> pd.DataFrame:
        """Completed trials, the best first."""
        return ranking(self.trials)

    def summary(self) -> str:
        """State, counts and time in one line."""
        counts = (
            ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
            or "none yet"
        )
        how = f" (its process has ended; {self.remedy})" if self.remedy else ""
        begun = f"{len(self.trials)} of {self.planned} trials: {counts}"
        return f"{self.sweep}: {self.state}{how}; {begun}; {clock(self.seconds)} since it started"

    def failures(self, count: int = 3) -> list[str]:
        """A line for each failed trial, ``count`` at most."""
        failed = self.trials[self.trials["status"] == "failed"].head(count)
        return [f"trial {row.trial} failed: {row.reason}" for row in failed.itertuples()]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
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
    return Status(
        sweep=run.data.tags[Tag.SWEEP],
        state="interrupted" if gone else state,
        run_id=run.info.run_id,
        planned=spec.planned_trials,
        varying=spec.varying,
        seconds=((end or time.time() * 1000) - run.info.start_time) / 1000,
        trials=trials_table(client, run),
        remedy=_remedy(gone) if gone else "",
        spec=spec,
    )


def _remedy(folder: SweepFolder) -> str:
    if folder.result.is_file():  # the end of its record is not delivered, or an extension ran
        return f"`foldrace sync {folder.name}` delivers what waits"
    return f"`foldrace resume {folder.name}` resumes it"
