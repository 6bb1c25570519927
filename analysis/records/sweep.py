"""What a sweep report is made of, read from MLflow: trials, curves, folds, incumbents, the
spec."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml

from foldrace.analysis.records.tables import (
    artifact_text,
    folds_table,
    histories,
    number,
    ranking,
    trial_curves,
    trials_table,
)
from foldrace.errors import InputError
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.distributions import Choice
from foldrace.search.spec.sweep_spec import SweepSpec, parse_spec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Parameter", "SweepRecord", "last_strip", "read_record"]


@dataclass(frozen=True)
class Parameter:
    """One that varies.

    Attributes:
        entries: how the sweep file has it: one, or several where arms of a comparison differ.
        values: by trial, numbers where all are; trials without it are left out.
    """

    name: str
    entries: tuple[Distribution, ...]
    values: dict[int, float | str]

    @property
    def categories(self) -> tuple[str, ...]:
        """Its values in order, where they are no range; empty for a range."""
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
        """It was drawn on a logarithmic scale; or it spans two decades and nobody says how it was
        drawn."""
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
    """A sweep as MLflow has it.

    Attributes:
        state: running, finished, interrupted or failed.
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`, without the
            repeats of a comparison.
        spent: fold-epochs by trial that has reported.
        curves: see `foldrace.analysis.records.tables.trial_curves`.
        folds: see `foldrace.analysis.records.tables.folds_table`.
        incumbents: ``fold_epochs``, ``minutes`` since the start, ``val_loss``, ``val_loss_se``,
            ``best_trial``.
        spec: the sweep file; None where it was not recorded or cannot be read by this version.
        strip: a PNG, originals above the winner's reconstructions; None if there is none.
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

    @property
    def ranking(self) -> pd.DataFrame:
        """Completed trials, the best first."""
        return ranking(self.trials)

    @property
    def winner(self) -> int | None:
        """The number of the best completed trial."""
        best = self.ranking
        return int(best.iloc[0]["trial"]) if len(best) else None

    def count(self, status: str) -> int:
        """How many trials have this status."""
        return int((self.trials["status"] == status).sum())

    @property
    def fold_epochs(self) -> int:
        """Spent by all trials."""
        return sum(self.spent.values())

    @property
    def full_cost(self) -> int | None:
        """Fold-epochs if every trial that began had been trained on all folds to the last
        epoch."""
        if self.spec is None or not len(self.trials):
            return None
        folds = self.trials["folds"].max()
        return int(len(self.trials) * folds * self.spec.epochs) if np.isfinite(folds) else None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Those that vary, in the file's order; in a comparison its arms come first."""
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
        first = (Parameter("arm", (), arms),) if arms else ()
        return (*first, *(self._parameter(name) for name in names))

    def _parameter(self, name: str) -> Parameter:
        entries: list[Distribution] = []
        if self.spec is not None:
            arms = self.spec.comparison.arms.values() if self.spec.comparison else ()
            given = [
                space[name]
                for space in (self.spec.space, *(arm.space for arm in arms))
                if name in space
            ]
            entries = [entry for at, entry in enumerate(given) if entry not in given[:at]]
        choices = tuple(
            str(one) for entry in entries if isinstance(entry, Choice) for one in entry.choices
        )
        texts = self.trials.set_index("trial")[f"params.{name}"].dropna()
        values = {
            int(trial): _chosen(text, choices) if choices else number(text)
            for trial, text in texts.items()
        }
        return Parameter(name, tuple(entries), values)


def _chosen(text: str, choices: tuple[str, ...]) -> str:
    """The choice that MLflow has as ``text``: 1 may have become 1.0."""
    return next(
        (choice for choice in choices if choice == text or number(choice) == number(text)), text
    )


def read_record(client: MlflowClient, run: Run) -> SweepRecord:
    """The sweep with this run."""
    trials = trials_table(client, run)
    repeated = trials["phase"] == "repeat"
    trials, repeats = trials[~repeated], int(repeated.sum())
    seen = trials[trials["epoch"].notna()]
    told = histories(client, seen["run_id"], ["epoch"])  # its steps are fold-epochs
    best = ranking(trials)
    end = run.info.end_time or max([run.info.start_time, *trials["end_time"].dropna()])
    spec_text = artifact_text(client, run, "sweep.yaml") or ""
    states = {
        "RUNNING": "running",
        "FINISHED": "finished",
        "KILLED": "interrupted",
        "FAILED": "failed",
    }
    return SweepRecord(
        name=run.data.tags["foldrace.sweep"],
        state=states[run.info.status],
        started=run.info.start_time,
        seconds=float(
            run.data.tags.get("foldrace.wall_seconds", (end - run.info.start_time) / 1000)
        ),
        trials=trials,
        spent={int(row.trial): int(told[row.run_id].index.max()) for row in seen.itertuples()},
        curves=trial_curves(client, run, seen["trial"]),
        folds=folds_table(client, run),
        incumbents=_incumbents(client, run),
        spec=_spec(spec_text),
        spec_text=spec_text,
        environment=artifact_text(client, run, "environment.json") or "",
        strip=last_strip(client, best.iloc[0]["run_id"]) if len(best) else None,
        repeats=repeats,
    )


def _incumbents(client: MlflowClient, run: Run) -> pd.DataFrame:
    names = ["val_loss", "val_loss_se", "best_trial"]
    history = (
        histories(client, [run.info.run_id], names)[run.info.run_id]
        .rename_axis("fold_epochs")
        .reset_index()
    )
    history = history.dropna(subset=["val_loss", "best_trial"])
    return history.assign(minutes=(history["timestamp"] - run.info.start_time) / 60_000)


def _spec(text: str) -> SweepSpec | None:
    try:
        return parse_spec(yaml.safe_load(text), Path())
    except InputError:  # recorded by another version, or not recorded at all
        return None


def last_strip(client: MlflowClient, run_id: str) -> bytes | None:
    """A trial's last strip of originals above reconstructions, as PNG; None if it has none."""
    pictures = sorted(item.path for item in client.list_artifacts(run_id, "reconstructions"))
    if not pictures:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, pictures[-1], folder)).read_bytes()
