"""The record of an optimizer comparison: trials by arm and phase, losses of the repeats' folds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.tables import (
    histories,
    parameter_texts,
    ranking,
    trials_table,
)
from foldrace.analysis.records.values import read_spec, read_values
from foldrace.search.recording.reader import (
    artifact_arrays,
    recorded_objective,
    runs_of,
    spec_text,
)
from foldrace.search.recording.schema import (
    COMPARISON_FILE,
    EPOCH,
    TRAIN_SECONDS,
    VAL_LOSS,
    Level,
    Tag,
    sweep_state,
)
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.trainables.tasks.objective import LOSS, Objective
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["PHASES", "Comparison", "Reconstructions", "read_comparison"]

PHASES = ("default", "search", "repeat")
_ENDED = ("completed", "pruned", "failed")
_EDGE = 0.05


@dataclass(frozen=True)
class Reconstructions:
    """The same test images, reconstructed by the tuned model of each arm.

    Attributes:
        images: (M, C, H, W) uint8.
        by_arm: (M, C, H, W) uint8 for each arm.
    """

    images: NDArray[np.uint8]
    by_arm: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Comparison:
    """The record of a comparison.

    Attributes:
        state: running, finished, interrupted or failed.
        arms: labels, in the order of the sweep file.
        trials: one row per trial, see `foldrace.analysis.records.tables.trials_table`, with
            ``repeat`` (0 in other phases), ``fold_epochs`` and ``train_seconds`` (NaN if not
            reported).
        folds: one row per fold of every completed repeat: ``arm``, ``repeat``, ``fold``,
            ``val_loss`` (the last).
        curves: the same folds, one row per ``epoch``.
        progress: one row per report of every completed repeat: ``arm``, ``repeat``, ``epoch``,
            ``fold_epochs``, ``seconds``, ``val_loss``.
        repeats: how many repeats of each arm are planned.
        splits: the number of folds, K.
        test_share: validation samples per training sample of a fold, n_test/n_train.
        spec: the text of the sweep file.
        sampler: of the search trials: random or qmc.
        rates: (lowest, highest) learning rate of an arm's space, for arms that tune it.
        reconstructions: None if they are not recorded.
        objective: what the losses are.
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
    objective: Objective = LOSS

    def phase(self, arm: str, phase: str) -> pd.DataFrame:
        """An arm's trials of one phase."""
        return self.trials[(self.trials["arm"] == arm) & (self.trials["phase"] == phase)]

    @cached_property
    def losses(self) -> Mapping[str, pd.Series]:
        """By arm with a completed repeat: the last losses of its folds by (repeat, fold)."""
        return {
            arm: rows.set_index(["repeat", "fold"])["val_loss"].sort_index()
            for arm in self.arms
            if len(rows := self.folds[self.folds["arm"] == arm])
        }

    def repeated(self, arm: str) -> int:
        """How many repeats of an arm have completed."""
        return int((self.phase(arm, "repeat")["status"] == "completed").sum())

    def failed_repeats(self, arm: str) -> int:
        """How many repeats of an arm have failed."""
        return int((self.phase(arm, "repeat")["status"] == "failed").sum())

    def trainable(self, arm: str) -> bool:
        """Whether a trial of the arm completed, so that it can be repeated."""
        return bool(len(ranking(self.trials[self.trials["arm"] == arm])))

    @property
    def complete(self) -> bool:
        """Whether the sweep has finished, and all repeats of every trainable arm have ended."""
        return self.state == "finished" and all(
            self.repeated(arm) + self.failed_repeats(arm) >= self.repeats
            for arm in self.arms
            if self.trainable(arm)
        )

    def default_loss(self, arm: str) -> float | None:
        """The validation score of the arm's default parameters, if that trial completed."""
        done = ranking(self.phase(arm, "default"))
        return float(done.iloc[0]["val_loss"]) if len(done) else None

    def search_losses(self, arm: str) -> NDArray[np.float64]:
        """The losses of the arm's search trials that have ended; infinite unless completed."""
        rows = self.phase(arm, "search")
        rows = rows[rows["status"].isin(_ENDED)]
        return np.where(
            rows["status"] == "completed", rows["val_loss"].fillna(np.inf), np.inf
        ).astype(np.float64)

    def tuned(self, arm: str) -> Mapping[str, Value]:
        """The parameters of the arm's best trial, those in which the arm's trials differ."""
        rows = self.trials[self.trials["arm"] == arm]
        chosen = ranking(rows)
        if not len(chosen):
            return {}
        texts = parameter_texts(chosen.iloc[0])
        return {
            name: value
            for name, value in read_values(texts, read_spec(self.spec)).items()
            if rows[f"params.{name}"].nunique(dropna=False) > 1
        }

    @property
    def at_edge(self) -> Mapping[str, tuple[float, str]]:
        """(rate, ``upper`` or ``lower``) of each arm whose best learning rate is at the edge.

        The edge is the outermost 5 % of the range, on a logarithmic scale.
        """
        found = {}
        for arm, (low, high) in self.rates.items():
            rate = self.tuned(arm).get("lr")
            if isinstance(rate, float) and 0 < low < high:
                share = math.log(rate / low) / math.log(high / low)
                if not _EDGE <= share <= 1 - _EDGE and 0 <= round(share, 9) <= 1:
                    found[arm] = rate, "upper" if share > 0.5 else "lower"
        return found


def read_comparison(client: MlflowClient, run: Run) -> Comparison:
    """Reads the comparison with this sweep run; tables are empty where nothing is recorded yet.

    Raises:
        StateError: its file is not recorded.
    """
    spec = spec_text(client, run)
    tree = read_yaml(spec, "the recorded sweep file")
    runs = runs_of(client, run)
    fold_runs = [found for found in runs if found.data.tags[Tag.LEVEL] == Level.FOLD]
    trials = _trials(
        trials_table(client, run),
        {found.info.run_id: found.data.tags for found in runs},
        fold_runs,
    )
    done = trials[(trials["phase"] == "repeat") & (trials["status"] == "completed")]
    folds = _folds(done, fold_runs)
    splits = int(tree["folds"]["splits"])
    return Comparison(
        name=run.data.tags[Tag.SWEEP],
        state=sweep_state(run),
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
        objective=recorded_objective(run),
    )


def _rates(tree: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """By arm: the ends of its distribution of the learning rate."""
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
        trial = int(fold.data.tags[Tag.TRIAL])
        if trial in spent.index:
            spent[trial] += int(fold.data.tags.get(Tag.EPOCHS, 0))
    # folds of a trial that has not ended have no count of epochs yet
    reached = (trials["epoch"] * trials["folds"]).fillna(0)
    return trials.assign(
        repeat=[int(tags[run_id].get(Tag.REPEAT, 0)) for run_id in trials["run_id"]],
        fold_epochs=np.where(spent.to_numpy() > 0, spent.to_numpy(), reached).astype(int),
        train_seconds=trials.get("train_seconds", np.nan),
    )


def _folds(done: pd.DataFrame, fold_runs: list[Run]) -> pd.DataFrame:
    """The folds of completed repeats, with their last loss and ``run_id``."""
    repeats = {
        int(trial): (arm, repeat)
        for trial, arm, repeat in done[["trial", "arm", "repeat"]].itertuples(index=False)
    }
    rows = [
        (
            *repeats[trial],
            int(fold.data.tags[Tag.FOLD]),
            fold.data.metrics[VAL_LOSS],
            fold.info.run_id,
        )
        for fold in fold_runs
        if (trial := int(fold.data.tags[Tag.TRIAL])) in repeats and VAL_LOSS in fold.data.metrics
    ]
    return pd.DataFrame(rows, columns=["arm", "repeat", "fold", "val_loss", "run_id"])


def _curves(client: MlflowClient, folds: pd.DataFrame) -> pd.DataFrame:
    """The folds' losses epoch by epoch."""
    known = histories(client, folds["run_id"], [VAL_LOSS])
    rows = [
        (fold.arm, fold.repeat, fold.fold, epoch, loss)
        for fold in folds.itertuples()
        for epoch, loss in known[fold.run_id][VAL_LOSS].items()
    ]
    return pd.DataFrame(rows, columns=["arm", "repeat", "fold", "epoch", "val_loss"])


def _progress(client: MlflowClient, done: pd.DataFrame) -> pd.DataFrame:
    """The completed repeats, report by report."""
    known = histories(client, done["run_id"], [EPOCH, VAL_LOSS, TRAIN_SECONDS])
    rows = [
        (trial.arm, trial.repeat, int(at.epoch), fold_epochs, at.train_seconds, at.val_loss)
        for trial in done.itertuples()
        for fold_epochs, at in known[trial.run_id].iterrows()
    ]
    return pd.DataFrame(
        rows, columns=["arm", "repeat", "epoch", "fold_epochs", "seconds", "val_loss"]
    )


def _reconstructions(client: MlflowClient, run: Run) -> Reconstructions | None:
    kept = artifact_arrays(client, run.info.run_id, COMPARISON_FILE)
    if not kept:
        return None
    arms = [str(arm) for arm in kept["arms"]]
    return Reconstructions(kept["images"], dict(zip(arms, kept["reconstructions"], strict=True)))
