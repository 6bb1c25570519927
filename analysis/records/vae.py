"""The record of a sweep of variational autoencoders."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.evidence import Evidence, load_evidence, refit_run
from foldrace.analysis.records.tables import (
    best_trial,
    fold_runs,
    histories,
    parameter_texts,
    trials_table,
)
from foldrace.search.recording.schema import Tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["VaeRecord", "is_variational", "read_vae_record"]

_PARTS = ("reconstruction", "kl", "squared_error", "mse", "active_units")
_DIMENSION = re.compile(r"val_kl_(\d+)")
_BOUND = re.compile(r"test_iwae_(\d+)")


@dataclass(frozen=True)
class VaeRecord:
    """A sweep of variational autoencoders.

    Attributes:
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`.
        curves: of the best trial, one row per fold and epoch: ``fold``, ``epoch``, and the parts
            of the loss, ``val_…`` and ``train_…``.
        fold_kl: (K, D), in nats: the KL term of each code dimension, by fold of the best trial;
            (0, 0) if it was not recorded.
        test: the refit's test values by name, without ``test_``; empty before a refit.
        evidence: the refit's arrays.
    """

    name: str
    trials: pd.DataFrame
    curves: pd.DataFrame
    fold_kl: NDArray[np.float64]
    test: Mapping[str, float] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=dict)

    @property
    def best_trial(self) -> pd.Series[Any] | None:
        """The best completed trial's row."""
        return best_trial(self.trials)

    @property
    def params(self) -> dict[str, str]:
        """The best trial's parameters, as text like in MLflow."""
        return {} if self.best_trial is None else parameter_texts(self.best_trial)

    @property
    def variance(self) -> float | None:
        """σ² of the best trial's likelihood if that is a Gaussian of fixed variance; else None."""
        given = self.params
        if (
            given.get("likelihood", "gaussian") != "gaussian"
            or given.get("learned_variance") == "True"
        ):
            return None
        try:
            return float(given["variance"])
        except (KeyError, ValueError):
            return None

    @property
    def constant(self) -> float:
        """The part of the reconstruction term that no model can change, in nats.

        For a Gaussian likelihood of fixed σ² and n values per image it is ½ n log 2πσ². It is
        computed from the record as reconstruction − squared error / 2σ². 0 for other likelihoods.
        """
        best, variance = self.best_trial, self.variance
        if (
            best is None
            or variance is None
            or not {"val_reconstruction", "val_squared_error"} <= set(best.index)
        ):
            return 0.0
        constant = float(best["val_reconstruction"]) - float(best["val_squared_error"]) / (
            2 * variance
        )
        return constant if math.isfinite(constant) else 0.0

    @property
    def bound(self) -> tuple[int, float] | None:
        """(codes per image, nats per image) of the importance-weighted bound with most codes."""
        found = [
            (int(m[1]), self.test[name])
            for name in self.test
            if (m := _BOUND.fullmatch(f"test_{name}"))
        ]
        return max(found, default=None)

    def folds(self, name: str) -> list[float]:
        """The best trial's last value of a metric, by fold."""
        if name not in self.curves:
            return []
        last = self.curves.groupby("fold")[name].last()
        return [float(value) for value in last if math.isfinite(value)]


def is_variational(sweep: Run, trials: pd.DataFrame) -> bool:
    """Whether the sweep's task has a KL term: one is recorded, or the task is ``variational``."""
    return "val_kl" in trials.columns or sweep.data.tags.get(Tag.TASK) == "variational"


def read_vae_record(client: MlflowClient, sweep: Run) -> VaeRecord:
    """Reads the record of the sweep with this run."""
    trials = trials_table(client, sweep)
    refit = refit_run(client, sweep)
    metrics = refit.data.metrics if refit else {}
    record = VaeRecord(
        name=sweep.data.tags[Tag.SWEEP],
        trials=trials,
        curves=pd.DataFrame({"fold": [], "epoch": []}),
        fold_kl=np.zeros((0, 0)),
        test={
            name.removeprefix("test_"): value
            for name, value in metrics.items()
            if name.startswith("test_")
        },
        evidence=load_evidence(client, refit),
    )
    if record.best_trial is None:
        return record
    folds = fold_runs(client, sweep, int(record.best_trial["trial"]))
    return replace(record, curves=_curves(client, folds), fold_kl=_fold_kl(folds))


def _curves(client: MlflowClient, folds: list[Run]) -> pd.DataFrame:
    wanted = [f"{side}_{part}" for part in _PARTS for side in ("val", "train")]
    names = [name for name in wanted if any(name in run.data.metrics for run in folds)]
    tables = histories(client, [run.info.run_id for run in folds], names)
    numbered = [
        tables[run.info.run_id]
        .rename_axis("epoch")
        .reset_index()
        .assign(fold=int(run.data.tags[Tag.FOLD]))
        for run in folds
    ]
    return (
        pd.concat(numbered, ignore_index=True)
        if numbered
        else pd.DataFrame({"fold": [], "epoch": []})
    )


def _fold_kl(folds: list[Run]) -> NDArray[np.float64]:
    found = []
    for run in folds:
        dimensions = {
            int(m[1]): value
            for name, value in run.data.metrics.items()
            if (m := _DIMENSION.fullmatch(name))
        }
        if dimensions:
            found.append(
                [dimensions.get(dimension, math.nan) for dimension in range(max(dimensions) + 1)]
            )
    return np.array(found) if found and len({len(row) for row in found}) == 1 else np.zeros((0, 0))
