"""Comparisons with losses from a formula instead of training: in memory, or as the writer leaves
them in MLflow."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from foldrace.analysis.records.comparison import Comparison, Reconstructions
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.writer import MlflowWriter
from foldrace.trainables.training.reports import EpochReport, FoldReport
from tests.helpers.stores import new_store

REASON = "diverged: fold 0, epoch 1: val_loss is inf"


@dataclass(frozen=True)
class Arm:
    """An optimizer whose loss is ``floor`` at the learning rate ``best`` and grows with the
    squared distance from it.

    Attributes:
        diverges: from this learning rate on.
        unlucky: repeats that diverge.
        own: gives the arm's folds noise of their own; arms of the same number have the same.
    """

    floor: float = 0.02
    best: float = 1e-3
    default: float = 1e-3
    rates: tuple[float, float] = (1e-5, 1e-1)
    diverges: float = math.inf
    unlucky: tuple[int, ...] = ()
    own: int = 0

    def loss(self, lr: float, repeat: int, fold: int, epoch: int) -> float:
        final = self.floor * (1 + 0.15 * math.log10(lr / self.best) ** 2)
        shared = np.random.default_rng([repeat, fold]).normal()  # of the images, for all arms
        own = np.random.default_rng([repeat, fold, self.own + 1]).normal()
        return float((final + 0.15 * math.exp(-1.2 * epoch)) * (1 + 0.02 * shared + 0.01 * own))


@dataclass(frozen=True)
class Plan:
    """How large a comparison is, and how far it has come."""

    search: int = 4
    repeats: int = 3
    folds: int = 3
    epochs: int = 3
    done_repeats: int | None = None
    pictures: bool = True
    state: str = "finished"


@dataclass(frozen=True)
class Trial:
    """A trial as it went; without losses it has diverged.

    Attributes:
        losses: (epochs, folds).
    """

    arm: str
    phase: str
    repeat: int
    lr: float
    losses: np.ndarray | None

    @property
    def val_loss(self) -> float:
        return math.inf if self.losses is None else float(self.losses[-1].mean())


SPEED = 0.25  # seconds a fold-epoch


def trials_of(arms: Mapping[str, Arm], plan: Plan) -> list[Trial]:
    """All trials, in the order of their numbers."""

    def trial(label: str, phase: str, lr: float, repeat: int = 0) -> Trial:
        arm = arms[label]
        epochs, folds = range(1, plan.epochs + 1), range(plan.folds)
        failed = lr >= arm.diverges or repeat in arm.unlucky
        losses = [[arm.loss(lr, repeat, fold, epoch) for fold in folds] for epoch in epochs]
        return Trial(label, phase, repeat, lr, None if failed else np.array(losses))

    done = []
    for label, arm in arms.items():
        done.append(trial(label, "default", arm.default))
        drawn = 10 ** np.random.default_rng(arm.own).uniform(
            *np.log10(arm.rates), size=plan.search
        )
        done += [trial(label, "search", float(lr)) for lr in drawn]
    best = {
        label: min((t for t in done if t.arm == label), key=lambda t: t.val_loss) for label in arms
    }
    repeats = range(1, (plan.repeats if plan.done_repeats is None else plan.done_repeats) + 1)
    tuned = {label: found.lr for label, found in best.items() if found.losses is not None}
    return done + [
        trial(label, "repeat", lr, repeat) for repeat in repeats for label, lr in tuned.items()
    ]


def compare(arms: Mapping[str, Arm], plan: Plan = Plan()) -> Comparison:
    """The comparison as the reports see it."""
    made = trials_of(arms, plan)
    rows = [
        {
            "trial": number,
            "run_id": str(number),
            "status": "completed" if t.losses is not None else "failed",
            "reason": "" if t.losses is not None else REASON,
            "arm": t.arm,
            "phase": t.phase,
            "repeat": t.repeat,
            "val_loss": t.val_loss if t.losses is not None else math.nan,
            "fold_epochs": t.losses.size if t.losses is not None else plan.folds,
            "train_seconds": SPEED * (t.losses.size if t.losses is not None else plan.folds),
            "params.lr": str(t.lr),
            "params.optimizer": "adam",
        }
        for number, t in enumerate(made)
    ]
    repeats = [t for t in made if t.phase == "repeat" and t.losses is not None]
    curves = [
        (t.arm, t.repeat, fold, epoch, loss)
        for t in repeats
        for epoch, losses in enumerate(t.losses, 1)
        for fold, loss in enumerate(losses)
    ]
    progress = [
        (t.arm, t.repeat, epoch, epoch * plan.folds, SPEED * epoch * plan.folds, losses.mean())
        for t in repeats
        for epoch, losses in enumerate(t.losses, 1)
    ]
    every = pd.DataFrame(curves, columns=["arm", "repeat", "fold", "epoch", "val_loss"])
    labels = list(dict.fromkeys(t.arm for t in repeats))
    return Comparison(
        name="race",
        state=plan.state,
        arms=tuple(arms),
        trials=_table(rows),
        folds=every[every["epoch"] == plan.epochs].drop(columns="epoch"),
        curves=every,
        progress=pd.DataFrame(
            progress, columns=["arm", "repeat", "epoch", "fold_epochs", "seconds", "val_loss"]
        ),
        repeats=plan.repeats,
        splits=plan.folds,
        test_share=1 / (plan.folds - 1),
        spec="kind: comparison\n",
        sampler="random",
        rates={label: arm.rates for label, arm in arms.items()},
        reconstructions=pictures(labels) if plan.pictures else None,
    )


def _table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    columns = [
        "trial",
        "run_id",
        "status",
        "reason",
        "arm",
        "phase",
        "repeat",
        "val_loss",
        "fold_epochs",
    ]
    return pd.DataFrame(rows, columns=None if rows else [*columns, "train_seconds"])


def record_comparison(
    root: Path, arms: Mapping[str, Arm], plan: Plan = Plan()
) -> tuple[MlflowClient, Run]:
    """A whole comparison in a store of its own; the client and the sweep's run."""
    client = new_store(root)
    experiment = client.create_experiment(
        uuid.uuid4().hex, artifact_location=(root / "artifacts").as_uri()
    )
    writer = MlflowWriter(client, experiment, "race", key=uuid.uuid4().hex)
    run = writer.sweep_run
    client.set_tag(run, "foldrace.kind", "comparison")
    client.log_text(run, yaml.safe_dump(_spec(arms, plan), sort_keys=False), "sweep.yaml")
    made = trials_of(arms, plan)
    for number, trial in enumerate(made):
        _record(client, writer, number, trial, plan)
    if plan.pictures:
        shown = pictures(list(dict.fromkeys(t.arm for t in made if t.phase == "repeat")))
        path = root / "comparison.npz"
        stacked = (
            np.array([*shown.by_arm.values()])
            if shown.by_arm
            else np.zeros((0, *shown.images.shape), np.uint8)
        )
        np.savez(
            path,
            images=shown.images,
            arms=np.array([*shown.by_arm], np.str_),
            reconstructions=stacked,
        )
        client.log_artifact(run, str(path))
    writer.close(Outcome.COMPLETED if plan.state == "finished" else Outcome.PRUNED, {}, "")
    return client, client.get_run(run)


def _spec(arms: Mapping[str, Arm], plan: Plan) -> dict[str, object]:
    entries = {
        label: {
            "optimizer": "adam",
            "space": {"lr": {"log": list(arm.rates)}},
            "defaults": {"lr": arm.default},
        }
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


def _record(
    client: MlflowClient, writer: MlflowWriter, number: int, trial: Trial, plan: Plan
) -> None:
    """Writes a trial: all epochs of a repeat, the last one of others, which is all that anyone
    looks at."""
    run = writer.trial_run(number)
    tags = {"arm": trial.arm, "phase": trial.phase} | (
        {"repeat": trial.repeat} if trial.repeat else {}
    )
    for name, value in tags.items():
        client.set_tag(run, f"foldrace.{name}", str(value))
    writer.started(number, {"optimizer": "adam", "lr": trial.lr})
    if trial.losses is None:
        folds = tuple(
            FoldReport(k, 1, 0, True, REASON, {"val_loss": math.inf}) for k in range(plan.folds)
        )
        writer.reported(
            number, EpochReport(1, folds, plan.folds, SPEED * plan.folds, True, folds), None, 1000
        )
        writer.finished(number, Outcome.FAILED, folds, REASON)
        return
    for epoch in range(1, plan.epochs + 1) if trial.repeat else [plan.epochs]:
        folds = tuple(
            FoldReport(k, epoch, epoch, False, None, {"val_loss": loss})
            for k, loss in enumerate(trial.losses[epoch - 1])
        )
        spent = epoch * plan.folds
        writer.reported(
            number,
            EpochReport(epoch, folds, spent, SPEED * spent, False, folds),
            None,
            1000 * epoch,
        )
    writer.finished(number, Outcome.COMPLETED, folds)


def pictures(arms: Sequence[str]) -> Reconstructions:
    """Digits, and digits with the more noise the later the arm."""
    from sklearn.datasets import load_digits

    images = (load_digits().images[:10, None] * 15.9375).astype(np.uint8)
    noise = np.random.default_rng(0).normal(size=images.shape)
    made = {
        arm: np.clip(images + (5 + 12 * at) * noise, 0, 255).astype(np.uint8)
        for at, arm in enumerate(arms)
    }
    return Reconstructions(images, made)
