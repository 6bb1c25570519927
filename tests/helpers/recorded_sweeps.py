"""Sweeps as the writer leaves them in MLflow, without anything being trained: for what reads
them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from foldrace.search.recording.folder import SweepState, create_sweep_folder
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.reports import EpochReport, FoldReport
from tests.helpers.stores import new_store
from tests.search.recording.test_writer import dataset

SPEC = {
    "name": "ae",
    "dataset": "digits",
    "epochs": 3,
    "space": {
        "optimizer": {"choice": ["adam", "sgd"]},
        "lr": {"log": [1e-4, 1.0]},
        "momentum": {"uniform": [0.0, 0.9], "when": {"optimizer": "sgd"}},
        "latent_dim": 16,
    },
    "search": {"trials": 40},
}


@dataclass(frozen=True)
class Trial:
    """One to record: parameters, the folds' losses epoch by epoch, how it ended."""

    params: Mapping[str, Value]
    losses: Sequence[Sequence[float]]
    outcome: Outcome = Outcome.COMPLETED
    reason: str = ""


class Store:
    """A folder of sweeps with its MLflow store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client: MlflowClient = new_store(root)
        self.uri = str(self.client.tracking_uri)
        self._experiment = self.client.create_experiment(
            "all", artifact_location=(root / "artifacts").as_uri()
        )

    def record(
        self, name: str, trials: Sequence[Trial], outcome: Outcome | None = Outcome.COMPLETED
    ) -> Run:
        """A sweep of these trials; one whose outcome is None still runs."""
        spec = parse_spec(SPEC | {"name": name}, self.root).to_yaml()
        folder = create_sweep_folder(self.root, name)
        folder.spec.write_text(spec)
        folder.write_state(
            SweepState(key=name, tracking_uri=self.uri, experiment_id=self._experiment)
        )
        writer = MlflowWriter(self.client, self._experiment, name, key=name)
        writer.start_sweep(spec, {"python": "3.11"}, dataset(), "autoencoder")
        spent, best = 0, math.inf
        for number, trial in enumerate(trials):
            writer.started(number, trial.params)
            folds: tuple[FoldReport, ...] = ()
            for epoch, losses in enumerate(trial.losses, 1):
                spent += len(losses)
                folds = tuple(
                    FoldReport(k, epoch, epoch, False, None, {"val_loss": loss, "val_mse": loss})
                    for k, loss in enumerate(losses)
                )
                writer.reported(
                    number,
                    EpochReport(epoch, folds, epoch * len(losses), 0.5, False, trained=folds),
                    None,
                    1000 * epoch,
                )
            writer.finished(number, trial.outcome, folds, trial.reason)
            mean = float(np.mean(trial.losses[-1])) if trial.losses else math.inf
            if trial.outcome is Outcome.COMPLETED and mean < best:
                best = mean
                writer.incumbent(number, mean, 0.001, spent, 1000 * (number + 1))
        if outcome is not None:
            writer.close(outcome, {"fold_epochs": spent, "wall_seconds": 12.5}, "")
        return self.client.get_run(writer.sweep_run)


def many(seed: int = 0) -> list[Trial]:
    """24 trials: the loss depends on the learning rate's distance to 0.01 and on nothing else; a
    third is given up."""
    random = np.random.default_rng(seed)
    trials = []
    for number in range(24):
        lr = float(10 ** random.uniform(-4, 0))
        params: dict[str, Value] = {
            "optimizer": ["adam", "sgd"][number % 2],
            "lr": lr,
            "latent_dim": 16,
        }
        if number % 2:
            params["momentum"] = float(random.uniform(0, 0.9))
        end = 0.02 + 0.03 * (math.log10(lr) + 2) ** 2
        folds = [[end * (1 + 1 / epoch) + 0.001 * k for k in range(2)] for epoch in (1, 2, 3)]
        given_up = end > 0.08
        trials.append(
            Trial(params, folds[:1], Outcome.PRUNED, "given up at epoch 1")
            if given_up
            else Trial(params, folds)
        )
    return trials


def failed(reason: str = "diverged: fold 0, epoch 1: val_loss is inf") -> Trial:
    """One that failed before it had a loss."""
    return Trial(
        {"optimizer": "sgd", "lr": 1.0, "momentum": 0.5, "latent_dim": 16},
        [],
        Outcome.FAILED,
        reason,
    )


def plain(loss: float, folds: int = 2) -> Trial:
    """One evaluated to the end, of two epochs."""
    ends = [[loss + 0.1 + 0.01 * k for k in range(folds)], [loss + 0.01 * k for k in range(folds)]]
    return Trial({"optimizer": "adam", "lr": 0.01, "latent_dim": 16}, ends)
