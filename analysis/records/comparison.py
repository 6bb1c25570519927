"""An optimizer comparison as MLflow has it: its trials by arm and phase, and the losses of the
tuned winners' folds."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from foldrace.analysis.records.tables import (
    all_runs,
    artifact_text,
    histories,
    number,
    ranking,
    trials_table,
)
from foldrace.errors import StateError
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["PHASES", "Comparison", "Reconstructions", "read_comparison"]

PHASES = ("default", "search", "repeat")
_ENDED = ("completed", "pruned", "failed")
_STATES = {
    "RUNNING": "running",
    "FINISHED": "finished",
    "KILLED": "interrupted",
    "FAILED": "failed",
}
_EDGE = 0.05
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
        trials: a row a trial as in `foldrace.analysis.records.tables.trials_table`, with ``arm``,
            ``phase``, ``repeat`` (0 outside the repeats), ``fold_epochs`` and ``train_seconds``
            (NaN if none was reported).
        folds: a row a fold of every completed repeat: ``arm``, ``repeat``, ``fold``, ``val_loss``
            at the end.
        curves: the same folds over ``epoch``; one that stopped early keeps its last value until
            the others end.
        progress: completed repeats over ``epoch``: ``arm``, ``repeat``, ``val_loss``,
            ``fold_epochs``, ``seconds``.
        repeats: how many repeats of each arm are planned.
        splits: K.
        test_share: validation images per training image of a fold, n_test/n_train.
        spec: the sweep file.
        sampler: what drew the search trials, random or qmc.
        rates: the lowest and the highest learning rate that an arm's space allows, where it is
            tuned.
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
    sampler: str
    rates: Mapping[str, tuple[float, float]]
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
        """A trial of the arm was evaluated to the end, so that there is something to repeat."""
        return bool(len(ranking(self.trials[self.trials["arm"] == arm])))

    @property
    def complete(self) -> bool:
        """The sweep has ended, and so have all repeats of each arm that has something to
        repeat."""
        return self.state == "finished" and all(
            self.repeated(arm) + self.failed_repeats(arm) >= self.repeats
            for arm in self.arms
            if self.trainable(arm)
        )

    def default_loss(self, arm: str) -> float | None:
        """The cross-validated loss of the arm's default parameters, if that trial was evaluated to
        the end."""
        done = ranking(self.phase(arm, "default"))
        return float(done.iloc[0]["val_loss"]) if len(done) else None

    def search_losses(self, arm: str) -> NDArray[np.float64]:
        """The losses of the arm's ended search trials, infinite for those that failed or were
        given up."""
        rows = self.phase(arm, "search")
        rows = rows[rows["status"].isin(_ENDED)]
        return np.where(
            rows["status"] == "completed", rows["val_loss"].fillna(np.inf), np.inf
        ).astype(np.float64)

    def tuned(self, arm: str) -> Mapping[str, Value]:
        """Of the arm's best trial, which is what is repeated: the parameters in which the arm's
        trials differ."""
        rows = self.trials[self.trials["arm"] == arm]
        chosen = ranking(rows)
        if not len(chosen):
            return {}
        names = [
            name
            for name in rows
            if name.startswith("params.") and rows[name].nunique(dropna=False) > 1
        ]
        given = {name.removeprefix("params."): chosen.iloc[0][name] for name in names}
        return {name: number(text) for name, text in given.items() if isinstance(text, str)}

    @property
    def at_edge(self) -> Mapping[str, tuple[float, str]]:
        """Arms whose best learning rate lies in the outermost twentieth of its range (in the
        logarithm): the rate, and upper or lower."""
        found = {}
        for arm, (low, high) in self.rates.items():
            rate = self.tuned(arm).get("lr")
            if isinstance(rate, float) and 0 < low < high:
                share = math.log(rate / low) / math.log(high / low)
                if not _EDGE <= share <= 1 - _EDGE and 0 <= round(share, 9) <= 1:
                    found[arm] = rate, "upper" if share > 0.5 else "lower"
        return found


def read_comparison(client: MlflowClient, run: Run) -> Comparison:
    """The comparison with this sweep run. Whatever is missing yet is an empty table.

    Raises:
        StateError: its file is not recorded.
    """
    spec = artifact_text(client, run, "sweep.yaml")
    if spec is None:
        raise StateError(
            f"{run.data.tags['foldrace.sweep']}: its file, sweep.yaml, is not recorded"
        )
    tree = yaml.safe_load(spec)
    runs = all_runs(client, f"tags.`foldrace.sweep_key` = '{run.data.tags['foldrace.sweep_key']}'")
    fold_runs = [found for found in runs if found.data.tags["foldrace.level"] == "fold"]
    trials = _trials(
        trials_table(client, run),
        {found.info.run_id: found.data.tags for found in runs},
        fold_runs,
    )
    done = trials[(trials["phase"] == "repeat") & (trials["status"] == "completed")]
    folds = _folds(done, fold_runs)
    splits = int(tree["folds"]["splits"])
    return Comparison(
        name=run.data.tags["foldrace.sweep"],
        state=_STATES[run.info.status],
        arms=tuple(tree["comparison"]["arms"]),
        trials=trials,
        folds=folds.drop(columns="run_id"),
        curves=_curves(client, folds),
        progress=_progress(client, done),
        repeats=int(tree["comparison"]["repeats"]),
        splits=splits,
        test_share=1 / (splits - 1),
        spec=spec,
        sampler=str(tree["search"]["sampler"]),
        rates=_rates(tree),
        reconstructions=_reconstructions(client, run),
    )


def _rates(tree: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """By arm: the ends of its learning rate's distribution."""
    entries = {
        arm: {**tree.get("space", {}), **(of or {}).get("space", {})}.get("lr")
        for arm, of in tree["comparison"]["arms"].items()
    }
    ends = {
        arm: entry.get("log") or entry.get("uniform")
        for arm, entry in entries.items()
        if isinstance(entry, Mapping)
    }
    return {arm: (float(pair[0]), float(pair[1])) for arm, pair in ends.items() if pair}


def _trials(
    table: pd.DataFrame, tags: Mapping[str, Mapping[str, str]], fold_runs: list[Run]
) -> pd.DataFrame:
    """The trials that belong to an arm, with ``repeat``, ``fold_epochs`` and ``train_seconds``."""
    trials = table[table["arm"] != ""].reset_index(drop=True)
    spent = pd.Series(0, index=trials["trial"])
    for fold in fold_runs:
        trial = int(fold.data.tags["foldrace.trial"])
        if trial in spent.index:
            spent[trial] += int(fold.data.tags.get("foldrace.epochs", 0))
    reached = (trials["epoch"] * trials["folds"]).fillna(0)  # of a trial that has not ended yet
    return trials.assign(
        repeat=[int(tags[run_id].get("foldrace.repeat", 0)) for run_id in trials["run_id"]],
        fold_epochs=np.where(spent.to_numpy() > 0, spent.to_numpy(), reached).astype(int),
        train_seconds=trials.get("train_seconds", np.nan),
    )


def _folds(done: pd.DataFrame, fold_runs: list[Run]) -> pd.DataFrame:
    """The folds of completed repeats with their last loss and their ``run_id``."""
    repeats = {
        int(trial): (arm, repeat)
        for trial, arm, repeat in done[["trial", "arm", "repeat"]].itertuples(index=False)
    }
    rows = [
        (
            *repeats[trial],
            int(fold.data.tags["foldrace.fold"]),
            fold.data.metrics["val_loss"],
            fold.info.run_id,
        )
        for fold in fold_runs
        if (trial := int(fold.data.tags["foldrace.trial"])) in repeats
        and "val_loss" in fold.data.metrics
    ]
    return pd.DataFrame(rows, columns=["arm", "repeat", "fold", "val_loss", "run_id"])


def _curves(client: MlflowClient, folds: pd.DataFrame) -> pd.DataFrame:
    """The folds' losses epoch by epoch."""
    known = histories(client, folds["run_id"], ["val_loss"])
    rows = [
        (fold.arm, fold.repeat, fold.fold, epoch, loss)
        for fold in folds.itertuples()
        for epoch, loss in known[fold.run_id]["val_loss"].items()
    ]
    return pd.DataFrame(rows, columns=["arm", "repeat", "fold", "epoch", "val_loss"])


def _progress(client: MlflowClient, done: pd.DataFrame) -> pd.DataFrame:
    """The completed repeats, report by report."""
    known = histories(client, done["run_id"], ["epoch", "val_loss", "train_seconds"])
    rows = [
        (trial.arm, trial.repeat, int(at.epoch), fold_epochs, at.train_seconds, at.val_loss)
        for trial in done.itertuples()
        for fold_epochs, at in known[trial.run_id].iterrows()
    ]
    return pd.DataFrame(
        rows, columns=["arm", "repeat", "epoch", "fold_epochs", "seconds", "val_loss"]
    )


def _reconstructions(client: MlflowClient, run: Run) -> Reconstructions | None:
    if _PICTURES not in {item.path for item in client.list_artifacts(run.info.run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run.info.run_id, _PICTURES, folder)
        with np.load(path, allow_pickle=False) as kept:
            arms = [str(arm) for arm in kept["arms"]]
            return Reconstructions(
                kept["images"], dict(zip(arms, kept["reconstructions"], strict=True))
            )
