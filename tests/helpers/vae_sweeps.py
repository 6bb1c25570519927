"""A made-up record of a sweep of variational autoencoders, without training anything."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from foldrace.search.recording.schema import Outcome, Tag
from foldrace.search.recording.writer import MlflowWriter
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.training.reports import EpochReport, FoldReport

CONSTANT = 0.5 * 64 * np.log(np.pi)
"""½ n log 2πσ² at σ² = ½ for images of 8×8."""


def evidence(dimensions: int = 3, *, labels: bool = True, seed: int = 0) -> dict[str, Any]:
    """What a refit would leave: noise for images, and a last dimension that carries nothing."""
    random = np.random.default_rng(seed)

    def images(*shape: int) -> Any:
        return random.integers(0, 256, (*shape, 1, 8, 8), dtype=np.uint8)

    classes = np.arange(40) % 4
    errors = random.uniform(0.01, 0.05, 40).astype(np.float32)
    order = np.argsort(errors)
    groups = [order[classes[order] == label] for label in range(4)] if labels else [order]
    shown = np.concatenate([np.concatenate([group[:4], group[::-1][:4]]) for group in groups])
    kl = np.linspace(2.0, 0.001, dimensions).astype(np.float32)[::-1]
    found = {
        "images": images(40),
        "codes": random.normal(size=(40, dimensions)).astype(np.float32),
        "errors": errors,
        "shown": shown,
        "shown_reconstructions": images(len(shown)),
        "prior_samples": images(100),
        "traversal_dims": np.argsort(-kl),
        "traversal_values": np.linspace(-3, 3, 9, dtype=np.float32),
        "traversals": images(dimensions, 9),
        "interpolation_ends": np.array([[0, 1], [2, 3]]),
        "interpolations": images(2, 9),
        "kl_per_dimension": kl,
        "active": kl > 0.01,
    }
    if labels:
        found |= {"labels": classes, "class_names": np.array(["shirt", "coat", "bag", "boot"])}
    return found | ({"manifold": images(5, 5)} if dimensions == 2 else {})


def record_sweep(
    client: MlflowClient,
    folder: Path,
    trials: list[dict[str, Any]],
    *,
    task: str = "variational",
    dimensions: int = 3,
) -> tuple[MlflowWriter, Run]:
    """A sweep's runs; a trial is ``{"outcome": Outcome, "rate": …, "distortion": …, "beta": …,
    "folds": …}``."""
    experiment = client.create_experiment(uuid.uuid4().hex, artifact_location=folder.as_uri())
    writer = MlflowWriter(client, experiment, "vae", key=uuid.uuid4().hex)
    blank = np.zeros((20, 1, 8, 8), np.uint8)
    writer.start_sweep(
        "name: vae\n",
        {},
        Dataset.of_images("digits", blank, None, None, blank[:4], None, (), "d" * 64, "-"),
        task,
    )
    for number, trial in enumerate(trials):
        fixed = {"lr": 0.001, "latent_dim": dimensions, "likelihood": "gaussian", "variance": 0.5}
        writer.started(
            number, {**fixed, "learned_variance": False, "beta": trial.get("beta", 1.0)}
        )
        reports = []
        for epoch in (1, 2) if trial["outcome"] is not Outcome.FAILED else ():
            folds = tuple(
                _fold(fold, epoch, trial, dimensions) for fold in range(trial.get("folds", 3))
            )
            reports.append(
                EpochReport(epoch, folds, epoch * len(folds), 0.5, False, trained=folds)
            )
            writer.reported(number, reports[-1], None, epoch * 1000)
        writer.finished(number, trial["outcome"], reports[-1].folds if reports else (), "why")
    writer.close(Outcome.COMPLETED, {}, "")
    return writer, client.get_run(writer.sweep_run)


def _fold(fold: int, epoch: int, trial: dict[str, Any], dimensions: int) -> FoldReport:
    factor = (1 + 0.5 / epoch) * (1 + 0.02 * fold)
    kl, error = trial["rate"] * (1 + 0.02 * fold), trial["distortion"] * factor
    parts = {
        "kl": kl,
        "squared_error": error,
        "reconstruction": error + CONSTANT,
        "mse": error / 64,
    }
    parts |= {
        "loss": parts["kl"] + parts["reconstruction"],
        "elbo": -parts["kl"] - parts["reconstruction"],
    }
    metrics = {
        f"{side}_{name}": value for side in ("train", "val") for name, value in parts.items()
    }
    metrics |= {f"val_kl_{j}": kl / dimensions for j in range(dimensions)} | {
        "val_active_units": dimensions - 1
    }
    return FoldReport(fold, epoch, epoch, False, None, metrics)


def record_refit(
    client: MlflowClient, writer: MlflowWriter, found: dict[str, Any] | None, tmp: Path
) -> None:
    """A finished refit with its figures, and evidence where there is any."""
    with writer.refit_run({"epochs": 2}) as run:
        figures = {
            "loss": 52.0,
            "elbo": -52.0,
            "reconstruction": 46.0,
            "kl": 6.0,
            "squared_error": 46.0 - CONSTANT,
            "mse": 0.14,
            "active_units": 2,
            "kl_0": 2.0,
            "iwae_64": -50.5,
        }
        client.log_batch(
            run, metrics=[Metric(f"test_{name}", value, 1, 2) for name, value in figures.items()]
        )
        if found is not None:
            np.savez(tmp / "evidence.npz", **found)
            client.log_artifact(run, str(tmp / "evidence.npz"))
        client.set_tag(run, Tag.REFIT_DONE, "true")
