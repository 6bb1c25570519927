"""The record of a sweep, for its report: trials, curves, folds, incumbents, the sweep file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from foldrace.analysis.records.tables import (
    artifact_text,
    folds_table,
    histories,
    ranking,
    trial_curves,
    trials_table,
)
from foldrace.analysis.records.values import distributions, read_spec, read_value
from foldrace.search.recording.reader import artifact, artifact_names, recorded_objective
from foldrace.search.recording.schema import (
    BEST_TRIAL,
    ENVIRONMENT_FILE,
    EPOCH,
    PICTURES,
    SPEC_FILE,
    VAL_LOSS,
    VAL_LOSS_SE,
    Tag,
    sweep_state,
)
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.distributions import Choice
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.trainables.tasks.objective import LOSS, Objective

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["SearchedParameter", "SweepRecord", "last_strip", "read_sweep_record"]


@dataclass(frozen=True)
class SearchedParameter:
    """A parameter that varies among the trials.

    Attributes:
        entries: its distributions in the sweep file; several if the arms of a comparison differ.
        values: by trial, numbers where the text is one; trials without it are left out.
    """

    name: str
    entries: tuple[Distribution, ...]
    values: dict[int, float | str]

    @property
    def categories(self) -> tuple[str, ...]:
        """Its values in order if it is categorical; empty for a range."""
        chosen = [
            str(one)
            for entry in self.entries
            if isinstance(entry, Choice)
            for one in entry.choices
        ]
        if chosen or any(isinstance(value, str) for value in self.values.values()):
            return tuple(dict.fromkeys([*chosen, *(str(value) for value in self.values.values())]))
        return ()

    @property
    def logarithmic(self) -> bool:
        """Whether it was drawn on a logarithmic scale.

        If the distribution is not recorded: whether its values span two decades or more.
        """
        numbers = [value for value in self.values.values() if isinstance(value, float)]
        if not self.entries and numbers:
            return (
                len(numbers) == len(self.values)
                and min(numbers) > 0
                and max(numbers) >= 100 * min(numbers)
            )
        return any(entry.logarithmic for entry in self.entries)


@dataclass(frozen=True)
class SweepRecord:
    """The record of a sweep.

    Attributes:
        state: running, finished, interrupted or failed.
        started: ms since 1970.
        seconds: wall-clock time that the sweep took so far.
        trials: see `foldrace.analysis.records.tables.trials_table`, without the repeats of a
            comparison.
        spent: fold-epochs by trial that has reported.
        curves: see `foldrace.analysis.records.tables.trial_curves`.
        folds: see `foldrace.analysis.records.tables.folds_table`.
        incumbents: ``fold_epochs``, ``minutes`` since the start, ``val_loss``, ``val_loss_se``,
            ``best_trial``.
        spec: the sweep file; None if it is not recorded, or this version cannot read it.
        strip: a PNG, images above the best trial's reconstructions; None if there is none.
        repeats: how many trials of a comparison are repeats.
        objective: what the losses are.
    """

    name: str
    state: str
    started: float
    seconds: float
    trials: pd.DataFrame
    spent: dict[int, int]
    curves: dict[int, pd.DataFrame]
    folds: pd.DataFrame
    incumbents: pd.DataFrame
    spec: SweepSpec | None
    spec_text: str
    environment: str
    strip: bytes | None
    repeats: int = 0
    objective: Objective = LOSS

    @property
    def ranking(self) -> pd.DataFrame:
        """Completed trials, the best first."""
        return ranking(self.trials)

    @property
    def best_trial(self) -> int | None:
        """The number of the best completed trial."""
        best = self.ranking
        return int(best.iloc[0]["trial"]) if len(best) else None

    def count(self, status: str) -> int:
        """The number of trials with this status."""
        return int((self.trials["status"] == status).sum())

    @property
    def fold_epochs(self) -> int:
        """What all trials have spent."""
        return sum(self.spent.values())

    @property
    def full_cost(self) -> int | None:
        """The fold-epochs that full cross-validation of every started trial would cost."""
        if self.spec is None or not len(self.trials):
            return None
        folds = self.trials["folds"].max()
        return int(len(self.trials) * folds * self.spec.epochs) if np.isfinite(folds) else None

    @property
    def parameters(self) -> tuple[SearchedParameter, ...]:
        """The parameters that vary, in the sweep file's order; the arms of a comparison first."""
        columns = [str(name) for name in self.trials if str(name).startswith("params.")]
        if self.spec is not None:
            names = [name for name in self.spec.varying if f"params.{name}" in columns]
        else:
            names = [
                name.removeprefix("params.")
                for name in columns
                if self.trials[name].nunique(dropna=False) > 1
            ]
        arms: dict[int, float | str] = {
            int(row.trial): str(row.arm) for row in self.trials.itertuples() if row.arm
        }
        first = (SearchedParameter("arm", (), arms),) if arms else ()
        return (*first, *(self._parameter(name) for name in names))

    def _parameter(self, name: str) -> SearchedParameter:
        entries = distributions(self.spec, name)
        texts = self.trials.set_index("trial")[f"params.{name}"].dropna()
        values = {int(trial): _plotted(text, entries) for trial, text in texts.items()}
        return SearchedParameter(name, entries, values)


def _plotted(text: str, entries: Sequence[Distribution]) -> float | str:
    """A recorded value as it is plotted: a number, or the name of a category."""
    value = read_value(text, entries)
    categorical = any(isinstance(entry, Choice) for entry in entries)
    if categorical or isinstance(value, bool | str) or value is None:
        return str(value)
    return float(value)


def read_sweep_record(client: MlflowClient, run: Run) -> SweepRecord:
    """Reads the record of the sweep with this run."""
    trials = trials_table(client, run)
    repeated = trials["phase"] == "repeat"
    trials, repeats = trials[~repeated], int(repeated.sum())
    seen = trials[trials["epoch"].notna()]
    reports = histories(client, seen["run_id"], [EPOCH])  # the steps are fold-epochs
    best = ranking(trials)
    end = run.info.end_time or max([run.info.start_time, *trials["end_time"].dropna()])
    spec_text = artifact_text(client, run, SPEC_FILE) or ""
    seconds = run.data.tags.get(Tag.WALL_SECONDS, (end - run.info.start_time) / 1000)
    return SweepRecord(
        name=run.data.tags[Tag.SWEEP],
        state=sweep_state(run),
        started=run.info.start_time,
        seconds=float(seconds),
        trials=trials,
        spent={int(row.trial): int(reports[row.run_id].index.max()) for row in seen.itertuples()},
        curves=trial_curves(client, run, seen["trial"]),
        folds=folds_table(client, run),
        incumbents=_incumbents(client, run),
        spec=read_spec(spec_text),
        spec_text=spec_text,
        environment=artifact_text(client, run, ENVIRONMENT_FILE) or "",
        strip=last_strip(client, best.iloc[0]["run_id"]) if len(best) else None,
        repeats=repeats,
        objective=recorded_objective(run),
    )


def _incumbents(client: MlflowClient, run: Run) -> pd.DataFrame:
    names = [VAL_LOSS, VAL_LOSS_SE, BEST_TRIAL]
    history = (
        histories(client, [run.info.run_id], names)[run.info.run_id]
        .rename_axis("fold_epochs")
        .reset_index()
    )
    history = history.dropna(subset=["val_loss", "best_trial"])
    return history.assign(minutes=(history["timestamp"] - run.info.start_time) / 60_000)


def last_strip(client: MlflowClient, run_id: str) -> bytes | None:
    """A trial's last picture, images above reconstructions, as PNG; None if it has none."""
    pictures = artifact_names(client, run_id, PICTURES)
    return artifact(client, run_id, pictures[-1]) if pictures else None
