"""An optimizer comparison as MLflow has it: its trials by arm and phase, and the losses of the tuned winners' folds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from analysis.tables import all_runs, number, ranking, trials_table
from trainables.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["PHASES", "Comparison", "Reconstructions", "read_comparison"]

PHASES = ("default", "search", "repeat")
_ENDED = ("completed", "pruned", "failed")
_STATES = {"RUNNING": "running", "FINISHED": "finished", "KILLED": "interrupted", "FAILED": "failed"}
_PICTURES = "comparison.npz"


@dataclass(frozen=True)
class Reconstructions:
    """The same test images through every arm's tuned model.

    Attributes:
        images: (M, C, H, W) uint8.
        by_arm: for each arm (M, C, H, W) uint8.
    """

    images: NDArray[np.uint8]
    by_arm: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Comparison:
    """What is recorded of a comparison.

    Attributes:
        state: running, finished, interrupted or failed.
        arms: labels, in the order of the spec.
        trials: a row a trial as in `analysis.tables.trials_table`, with ``arm``, ``phase``, ``repeat`` (0 outside the
            repeats), ``fold_epochs`` and ``train_seconds`` (NaN if none was reported).
        folds: a row a fold of every completed repeat: ``arm``, ``repeat``, ``fold``, ``val_loss`` at the end.
        curves: the same folds over ``epoch``; one that stopped early keeps its last value until the others end.
        progress: completed repeats over ``epoch``: ``arm``, ``repeat``, ``val_loss``, ``fold_epochs``, ``seconds``.
        repeats: how many repeats of each arm are planned.
        splits: K.
        test_share: validation images per training image of a fold, n_test/n_train.
        spec: the sweep file.
    """

    name: str
    state: str
    arms: tuple[str, ...]
    trials: pd.DataFrame
    folds: pd.DataFrame
    curves: pd.DataFrame
    progress: pd.DataFrame
    repeats: int
    splits: int
    test_share: float
    spec: str
    reconstructions: Reconstructions | None

    def phase(self, arm: str, phase: str) -> pd.DataFrame:
        """An arm's trials of one phase."""
        return self.trials[(self.trials["arm"] == arm) & (self.trials["phase"] == phase)]

    @cached_property
    def losses(self) -> Mapping[str, pd.Series]:
        """For each arm with a completed repeat: the folds' final losses by (repeat, fold)."""
        return {
            arm: rows.set_index(["repeat", "fold"])["val_loss"].sort_index()
            for arm in self.arms
            if len(rows := self.folds[self.folds["arm"] == arm])
        }

    def repeated(self, arm: str) -> int:
        """How many repeats of an arm have been evaluated to the end."""
        return int((self.phase(arm, "repeat")["status"] == "completed").sum())

    def failed_repeats(self, arm: str) -> int:
        """How many repeats of an arm have failed."""
        return int((self.phase(arm, "repeat")["status"] == "failed").sum())

    def trainable(self, arm: str) -> bool:
        """A search trial of the arm was evaluated to the end, so that there is something to repeat."""
        return bool(len(ranking(self.phase(arm, "search"))))

    @property
    def complete(self) -> bool:
        """The sweep has ended, and so have all repeats of each arm that has something to repeat."""
        return self.state == "finished" and all(
            self.repeated(arm) + self.failed_repeats(arm) >= self.repeats for arm in self.arms if self.trainable(arm)
        )

    def default_loss(self, arm: str) -> float | None:
        """The cross-validated loss of the arm's default parameters, if that trial was evaluated to the end."""
        done = ranking(self.phase(arm, "default"))
        return float(done.iloc[0]["val_loss"]) if len(done) else None

    def search_losses(self, arm: str) -> NDArray[np.float64]:
        """The losses of the arm's ended search trials, infinite for those that failed or were given up."""
        rows = self.phase(arm, "search")
        rows = rows[rows["status"].isin(_ENDED)]
        return np.where(rows["status"] == "completed", rows["val_loss"].fillna(np.inf), np.inf).astype(np.float64)

    def tuned(self, arm: str) -> Mapping[str, Value]:
        """The parameters with which the arm is repeated (of its best search trial before that) and that its trials
        vary."""
        rows = self.trials[self.trials["arm"] == arm]
        chosen = self.phase(arm, "repeat") if len(self.phase(arm, "repeat")) else ranking(rows)
        if not len(chosen):
            return {}
        names = [name for name in rows if name.startswith("params.") and rows[name].nunique(dropna=False) > 1]
        given = {name.removeprefix("params."): chosen.iloc[0][name] for name in names}
        return {name: number(text) for name, text in given.items() if isinstance(text, str)}


def read_comparison(client: MlflowClient, run: Run) -> Comparison:
    """The comparison with this sweep run. Whatever is missing yet is an empty table."""
    spec = _text(client, run, "sweep.yaml")
    tree = yaml.safe_load(spec)
    trials, folds = _trials(client, run)
    seen = [arm for arm in trials["arm"].unique() if arm not in tree["comparison"]["arms"]]
    return Comparison(
        name=run.data.tags["foldrace.sweep"],
        state=_STATES[run.info.status],
        arms=(*tree["comparison"]["arms"], *seen),
        trials=trials,
        folds=folds.drop(columns="run_id"),
        curves=_curves(client, folds),
        progress=_progress(client, trials),
        repeats=int(tree["comparison"]["repeats"]),
        splits=int(tree["folds"]["splits"]),
        test_share=_test_share(tree["folds"]),
        spec=spec,
        reconstructions=_reconstructions(client, run),
    )


def _text(client: MlflowClient, run: Run, artifact: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run.info.run_id, artifact, folder)).read_text(encoding="utf-8")


def _test_share(folds: Mapping[str, Any]) -> float:
    if folds["kind"] == "holdout":
        fraction = float(folds["fraction"])
        return fraction / (1 - fraction)
    return 1 / (int(folds["splits"]) - 1)


def _trials(client: MlflowClient, run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials that belong to an arm, and the folds of the completed repeats with their ``run_id``."""
    key = run.data.tags["foldrace.sweep_key"]
    runs = all_runs(client, f"tags.`foldrace.sweep_key` = '{key}'")
    tags = {found.info.run_id: found.data.tags for found in runs}
    fold_runs = [found for found in runs if found.data.tags["foldrace.level"] == "fold"]
    trials = trials_table(client, run)
    of = [tags.get(run_id, {}) for run_id in trials["run_id"]]
    trials = trials.assign(
        arm=[tag.get("foldrace.arm") for tag in of],
        phase=[tag.get("foldrace.phase") for tag in of],
        repeat=[int(tag.get("foldrace.repeat", 0)) for tag in of],
        train_seconds=trials.get("train_seconds", np.nan),
    )
    trials = trials[trials["arm"].notna()].reset_index(drop=True)
    spent = pd.Series(0.0, index=trials["trial"])
    for fold in fold_runs:
        trial = int(fold.data.tags["foldrace.trial"])
        if trial in spent.index:
            spent[trial] += float(fold.data.tags.get("foldrace.epochs", 0))
    reached = (trials["epoch"] * trials["folds"]).fillna(0)  # of a trial that has not ended yet
    trials["fold_epochs"] = np.where(spent.to_numpy() > 0, spent.to_numpy(), reached).astype(int)
    done = trials[(trials["phase"] == "repeat") & (trials["status"] == "completed")].set_index("trial")
    rows = [
        {
            "arm": done.loc[trial, "arm"],
            "repeat": int(done.loc[trial, "repeat"]),
            "fold": int(fold.data.tags["foldrace.fold"]),
            "val_loss": fold.data.metrics["val_loss"],
            "run_id": fold.info.run_id,
        }
        for fold in fold_runs
        if (trial := int(fold.data.tags["foldrace.trial"])) in done.index and "val_loss" in fold.data.metrics
    ]
    return trials, pd.DataFrame(rows, columns=["arm", "repeat", "fold", "val_loss", "run_id"])


def _curves(client: MlflowClient, folds: pd.DataFrame) -> pd.DataFrame:
    """The folds' losses epoch by epoch."""
    rows = [
        (fold.arm, fold.repeat, fold.fold, point.step, point.value)
        for fold in folds.itertuples()
        for point in client.get_metric_history(fold.run_id, "val_loss")
    ]
    return pd.DataFrame(rows, columns=["arm", "repeat", "fold", "epoch", "val_loss"])


def _progress(client: MlflowClient, trials: pd.DataFrame) -> pd.DataFrame:
    """The completed repeats, report by report."""
    parts = []
    for trial in trials[(trials["phase"] == "repeat") & (trials["status"] == "completed")].itertuples():
        history = {
            name: pd.Series({point.step: point.value for point in client.get_metric_history(trial.run_id, name)})
            for name in ("epoch", "val_loss", "train_seconds")
        }
        part = pd.DataFrame(history, dtype=float).sort_index().reset_index(names="fold_epochs")
        parts.append(part.rename(columns={"train_seconds": "seconds"}).assign(arm=trial.arm, repeat=trial.repeat))
    columns = ["arm", "repeat", "epoch", "fold_epochs", "seconds", "val_loss"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def _reconstructions(client: MlflowClient, run: Run) -> Reconstructions | None:
    if _PICTURES not in {item.path for item in client.list_artifacts(run.info.run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run.info.run_id, _PICTURES, folder)
        with np.load(path, allow_pickle=False) as kept:
            arms = [str(arm) for arm in kept["arms"]]
            return Reconstructions(kept["images"], dict(zip(arms, kept["reconstructions"], strict=True)))
