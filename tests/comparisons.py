"""Comparisons as the recorder leaves them in MLflow, with losses from a formula instead of training."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from search.recorder import Outcome, Recorder
from search.store import connect
from trainables.cross_validation import EpochReport
from trainables.fold_run import FoldReport


@dataclass(frozen=True)
class Arm:
    """An optimizer whose loss is ``floor`` at the learning rate ``best`` and grows with the squared distance from it.

    Attributes:
        diverges: from this learning rate on.
        own: gives the arm's folds noise of their own; arms of the same number have the same.
    """

    floor: float = 0.02
    best: float = 1e-3
    default: float = 1e-3
    rates: tuple[float, float] = (1e-5, 1e-1)
    diverges: float = math.inf
    own: int = 0

    def loss(self, lr: float, repeat: int, fold: int, epoch: int) -> float:
        final = self.floor * (1 + 0.15 * math.log10(lr / self.best) ** 2)
        shared = np.random.default_rng([repeat, fold]).normal()  # of the images, for all arms
        own = np.random.default_rng([repeat, fold, self.own + 1]).normal()
        return float((final + 0.15 * math.exp(-1.2 * epoch)) * (1 + 0.02 * shared + 0.01 * own))


@dataclass(frozen=True)
class Plan:
    """How large a comparison is, and how far it has come."""

    search: int = 6
    repeats: int = 3
    folds: int = 3
    epochs: int = 4
    done_repeats: int | None = None
    pictures: bool = True
    outcome: Outcome = Outcome.COMPLETED


def record_comparison(root: Path, arms: Mapping[str, Arm], plan: Plan = Plan()) -> tuple[MlflowClient, Run]:
    """A whole comparison in a store of its own; the client and the sweep's run."""
    client = connect(f"sqlite:///{root}/mlflow.db")
    experiment = client.create_experiment(uuid.uuid4().hex, artifact_location=(root / "artifacts").as_uri())
    recorder = Recorder(client, experiment, "race", key=uuid.uuid4().hex)
    run = recorder.sweep_run
    client.set_tag(run, "foldrace.kind", "comparison")
    client.log_text(run, yaml.safe_dump(_spec(arms, plan)), "sweep.yaml")
    writer = _Writer(client, recorder, plan)
    tuned = {}
    for seed, (label, arm) in enumerate(arms.items()):
        writer.trial(label, arm, arm.default, "default")
        drawn = 10 ** np.random.default_rng(arm.own).uniform(*np.log10(arm.rates), size=plan.search)
        losses = {lr: writer.trial(label, arm, float(lr), "search") for lr in drawn}
        finite = {lr: loss for lr, loss in losses.items() if loss is not None}
        if finite:
            tuned[label] = float(min(finite, key=finite.__getitem__))
    done = plan.repeats if plan.done_repeats is None else plan.done_repeats
    for repeat in range(1, done + 1):
        for label, lr in tuned.items():
            writer.trial(label, arms[label], lr, "repeat", repeat)
    if plan.pictures:
        _log_pictures(client, run, root, list(tuned))
    recorder.close(plan.outcome, {}, "")
    return client, client.get_run(run)


def _spec(arms: Mapping[str, Arm], plan: Plan) -> dict[str, object]:
    entries = {
        label: {"optimizer": "adam", "space": {"lr": {"log": list(arm.rates)}}, "defaults": {"lr": arm.default}}
        for label, arm in arms.items()
    }
    return {
        "name": "race",
        "kind": "comparison",
        "folds": {"kind": "kfold", "splits": plan.folds},
        "epochs": plan.epochs,
        "search": {"trials": plan.search, "sampler": "random"},
        "comparison": {"arms": entries, "repeats": plan.repeats},
    }


class _Writer:
    def __init__(self, client: MlflowClient, recorder: Recorder, plan: Plan) -> None:
        self._client, self._recorder, self._plan = client, recorder, plan
        self._next = 0

    def trial(self, label: str, arm: Arm, lr: float, phase: str, repeat: int = 0) -> float | None:
        """Writes a trial; its loss, or None if it diverges."""
        number, self._next = self._next, self._next + 1
        run = self._recorder.trial_run(number)
        tags = {"arm": label, "phase": phase} | ({"repeat": repeat} if repeat else {})
        for name, value in tags.items():
            self._client.set_tag(run, f"foldrace.{name}", str(value))
        self._recorder.started(number, {"optimizer": "adam", "lr": lr, "batch_size": 64})
        if lr >= arm.diverges:
            folds = self._folds(lambda fold: math.inf, 1, "val_loss is inf")
            self._recorder.reported(number, EpochReport(1, folds, len(folds), 0.1, True), None, 1000)
            self._recorder.finished(number, Outcome.FAILED, folds, "diverged: fold 0, epoch 1: val_loss is inf")
            return None
        for epoch in range(1, self._plan.epochs + 1):
            folds = self._folds(lambda fold, at=epoch: arm.loss(lr, repeat, fold, at), epoch)
            report = EpochReport(epoch, folds, epoch * len(folds), 0.25 * epoch * len(folds), False)
            self._recorder.reported(number, report, None, 1000 * epoch)
        self._recorder.finished(number, Outcome.COMPLETED, folds)
        return report.metrics["val_loss"]

    def _folds(self, loss, epoch: int, diverged: str | None = None) -> tuple[FoldReport, ...]:
        return tuple(
            FoldReport(fold, epoch, 0 if diverged else epoch, False, diverged, {"val_loss": loss(fold)})
            for fold in range(self._plan.folds)
        )


def _log_pictures(client: MlflowClient, run: str, root: Path, arms: Sequence[str]) -> None:
    from sklearn.datasets import load_digits

    images = (load_digits().images[:10, None] * 15.9375).astype(np.uint8)
    rng = np.random.default_rng(0)
    worse = [
        np.clip(images + rng.normal(0, 12 * place + 5, images.shape), 0, 255).astype(np.uint8)
        for place, _ in enumerate(arms)
    ]
    path = root / "comparison.npz"
    reconstructions = np.array(worse) if worse else np.zeros((0, *images.shape), np.uint8)
    np.savez(path, images=images, arms=np.array(arms, dtype=np.str_), reconstructions=reconstructions)
    client.log_artifact(run, str(path))
