"""Writes a sweep into MLflow as three levels of runs: the sweep, its trials, their folds."""

from __future__ import annotations

import base64
import getpass
import io
import json
import math
import time
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunStatus, RunTag

from trainables.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from trainables.cross_validation import EpochReport
    from trainables.datasets import Dataset
    from trainables.fold_run import FoldReport

__all__ = ["EVIDENCE", "REFIT_DONE", "Outcome", "Recorder", "now_ms"]

_TAG_LIMIT = 5000
_BATCH = 1000  # as many metrics as MLflow takes at once
REFIT_DONE = "foldrace.refit_done"
"""The tag of a refit whose figures are recorded: the test set has been used."""
EVIDENCE = "evidence.npz"
"""The artifact with what a refitted model makes of the test images."""


class Outcome(Enum):
    """How a sweep, a trial or a fold ended, as MLflow's run status."""

    COMPLETED = RunStatus.to_string(RunStatus.FINISHED)
    PRUNED = RunStatus.to_string(RunStatus.KILLED)
    FAILED = RunStatus.to_string(RunStatus.FAILED)


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow counts."""
    return time.time_ns() // 1_000_000


class Recorder:
    """Creates, fills and ends the runs of one sweep.

    Every run carries a deterministic ``foldrace.key`` and is looked up by it before it is made, and every report is
    written with its own time, so that a repeated call adds nothing. A report is one batch a run.

    Args:
        sweep: the sweep's name, unique in its tracking store and folder.
        key: unique to this sweep among all sweeps of the store.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str, key: str) -> None:
        self._client, self._experiment_id, self._sweep, self._key = client, experiment_id, sweep, key
        self._runs: dict[str, str] = {}
        self._open: set[str] = set()
        self._tags: dict[int, Mapping[str, object]] = {}
        self._recorded: dict[str, int] = {}  # of each trial: the fold-epochs at its last report in the store
        self.finished_refit: str | None = None
        known = client.search_runs(
            [experiment_id], filter_string=f"tags.`foldrace.sweep_key` = '{key}'", max_results=50_000
        )
        self._trials: list[Run] = []
        for run in known:
            known_key = run.data.tags["foldrace.key"]
            self._runs[known_key] = run.info.run_id
            if "fold_epochs" in run.data.metrics:
                self._recorded[known_key] = int(run.data.metrics["fold_epochs"])
                if "foldrace.trial" in run.data.tags:
                    self._trials.append(run)
            if run.info.status == "RUNNING":
                self._open.add(known_key)
            if REFIT_DONE in run.data.tags:
                self.finished_refit = run.info.run_id

    def _run(self, key: str, name: str, level: str, parent: str | None = None, **tags: object) -> str:
        if key in self._runs:
            return self._runs[key]
        every = {
            "foldrace.level": level,
            "foldrace.sweep": self._sweep,
            "foldrace.sweep_key": self._key,
            "foldrace.key": key,
            **{f"foldrace.{tag}": str(value) for tag, value in tags.items()},
        }
        if parent is not None:
            every["mlflow.parentRunId"] = parent
        run = self._client.create_run(self._experiment_id, start_time=now_ms(), tags=every, run_name=name)
        run_id: str = run.info.run_id
        self._runs[key] = run_id
        self._open.add(key)
        return run_id

    @property
    def sweep_run(self) -> str:
        """The id of the sweep's run."""
        return self._run(self._key, self._sweep, "sweep")

    def trial_run(self, trial: int) -> str:
        """The id of a trial's run, made if it is not there yet."""
        return self._run(
            f"{self._key}/{trial}", f"trial {trial:04d}", "trial",
            parent=self.sweep_run, trial=trial, **self._tags.get(trial, {}),
        )  # fmt: skip

    def fold_run(self, trial: int, fold: int) -> str:
        """The id of a fold's run, made if it is not there yet."""
        return self._run(
            f"{self._key}/{trial}/{fold}", f"trial {trial:04d} fold {fold}", "fold",
            parent=self.trial_run(trial), trial=trial, fold=fold, **self._tags.get(trial, {}),
        )  # fmt: skip

    def trials_to_the_end(self, folds: int, epochs: int) -> list[tuple[int, float, int]]:
        """(number, loss, fold-epochs) of each trial that was evaluated on so many folds for so many epochs, or whose
        folds have all stopped early, when this recorder was made."""
        found = []
        for run in self._trials:
            metrics = run.data.metrics
            whole = metrics["folds"] == folds and metrics["epoch"] >= epochs
            # one that was trained on, and interrupted then, is no longer finished
            finished = run.info.status == Outcome.COMPLETED.value
            if "val_loss" in metrics and run.info.status != Outcome.FAILED.value and (finished or whole):
                found.append((int(run.data.tags["foldrace.trial"]), metrics["val_loss"], int(metrics["fold_epochs"])))
        return sorted(found)

    def refit_run(self, params: Mapping[str, Value]) -> str:
        """The id of the run in which the winner is trained on all data, made or opened again."""
        run = self._run(f"{self._key}/refit", "refit", "refit", parent=self.sweep_run)
        self._client.update_run(run, status="RUNNING")
        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in params.items()])
        return run

    def start_sweep(
        self, spec_yaml: str, environment: Mapping[str, Any], dataset: Dataset, task: str, kind: str = "sweep"
    ) -> None:
        """Records what the sweep is: its kind and file, the environment, the data set."""
        run = self.sweep_run
        if self._key not in self._open:
            self._client.update_run(run, status="RUNNING")
            self._open.add(self._key)
        self._client.log_text(run, spec_yaml, "sweep.yaml")
        self._client.log_text(run, json.dumps(environment, indent=2), "environment.json")
        revision = environment.get("git_revision")
        tags = {"kind": kind, "task": task, "git_revision": revision, "dataset_digest": dataset.digest}
        every = [RunTag(f"foldrace.{name}", str(value)) for name, value in tags.items() if value is not None]
        origin = [RunTag("mlflow.user", _user()), RunTag("mlflow.source.name", "foldrace")]
        self._client.log_batch(run, tags=[*every, *origin])
        profile = {"samples": len(dataset), "test_samples": len(dataset.test_images)}
        entity = DatasetEntity(
            name=dataset.name,
            digest=dataset.digest[:36],  # MLflow's limit; the whole digest is a tag
            source_type="foldrace",
            source=json.dumps({"source": dataset.source, "digest": dataset.digest}),
            schema=json.dumps({"images": ["uint8", *dataset.sample_shape]}),
            profile=json.dumps(profile),
        )
        tags_ = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run, [DatasetInput(dataset=entity, tags=tags_)])

    def started(self, trial: int, params: Mapping[str, Value], tags: Mapping[str, object] | None = None) -> None:
        """A trial begins, or goes on after an interruption.

        Args:
            tags: of its run and its folds' runs, beside those that all have.
        """
        self._tags[trial] = tags or {}
        run = self.trial_run(trial)
        for key in [key for key in self._runs if _belongs(key, f"{self._key}/{trial}") and key not in self._open]:
            self._client.update_run(self._runs[key], status="RUNNING")
            self._open.add(key)
        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in params.items()])

    def reported(
        self, trial: int, report: EpochReport, picture: str | None, timestamp: int, parameters: int | None = None
    ) -> None:
        """A trial at an aligned point: each fold's metrics at each epoch since the last, their means at the fold-epochs
        spent.

        Args:
            picture: a PNG in base64, originals above reconstructions of fold 0, or None.
            timestamp: when the report was made, in ms.
            parameters: trainable weights of the trial's model.

        A trial that goes on after an interruption makes some reports again, with the same numbers; they are left out.
        """
        if report.fold_epochs <= self._recorded.get(f"{self._key}/{trial}", 0):
            return
        for number in dict.fromkeys(fold.fold for fold in report.trained):
            epochs = [fold for fold in report.trained if fold.fold == number]
            metrics = [
                metric
                for fold in epochs
                for metric in _metrics({**fold.metrics, "best_epoch": fold.best_epoch}, fold.epoch, timestamp)
            ]
            for start in range(0, len(metrics), _BATCH):
                self._client.log_batch(self.fold_run(trial, number), metrics=metrics[start : start + _BATCH])
        where = {"folds": len(report.folds), "epoch": report.epoch, "fold_epochs": report.fold_epochs}
        means = {**report.metrics, **where, "train_seconds": report.seconds}
        means |= {} if parameters is None else {"parameters": parameters}
        metrics = _metrics(means, report.fold_epochs, timestamp)
        self._client.log_batch(self.trial_run(trial), metrics=metrics)
        if picture is not None:
            self._picture(self.trial_run(trial), base64.b64decode(picture), report.epoch)

    def _picture(self, run: str, png: bytes, epoch: int) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(png)) as image:
            self._client.log_image(run, image, artifact_file=f"reconstructions/epoch-{epoch:03d}.png")

    def finished(
        self, trial: int, outcome: Outcome, folds: Iterable[FoldReport] = (), reason: str = "", detail: str = ""
    ) -> None:
        """A trial ends, and its folds with it.

        Args:
            reason: why it failed or where it was given up, in one line.
            detail: a traceback, kept as an artifact.
        """
        run = self.trial_run(trial)
        folds = list(folds)
        if reason:
            tag = "foldrace.failure" if outcome is Outcome.FAILED else "foldrace.pruned_at"
            self._client.set_tag(run, tag, reason[:_TAG_LIMIT])
        if detail:
            self._client.log_text(run, detail, "error.txt")
        for fold in folds:
            fold_run = self.fold_run(trial, fold.fold)
            tags: dict[str, object] = {"epochs": fold.epoch, "stopped_early": fold.stopped and not fold.diverged}
            if fold.diverged:
                tags["failure"] = fold.diverged
            self._client.log_batch(fold_run, tags=[RunTag(f"foldrace.{name}", str(v)) for name, v in tags.items()])
        for key in sorted(key for key in self._open if _belongs(key, f"{self._key}/{trial}")):
            self._end(key, outcome)

    def incumbent(self, trial: int, val_loss: float, standard_error: float, fold_epochs: int, timestamp: int) -> None:
        """A new best fully evaluated trial, at the fold-epochs that the sweep has spent."""
        metrics = {"val_loss": val_loss, "val_loss_se": standard_error, "best_trial": trial}
        self._client.log_batch(self.sweep_run, metrics=_metrics(metrics, fold_epochs, timestamp))

    def close(self, outcome: Outcome, tags: Mapping[str, object], note: str) -> None:
        """Ends the sweep's run, and any trial left open with it (given up)."""
        for key in sorted(self._open - {self._key}):
            self._end(key, Outcome.PRUNED)
        every = [RunTag(f"foldrace.{name}", str(value)) for name, value in tags.items()]
        self._client.log_batch(self.sweep_run, tags=[*every, RunTag("mlflow.note.content", note)])
        self._end(self._key, outcome)

    def _end(self, key: str, outcome: Outcome) -> None:
        self._client.set_terminated(self._runs[key], status=outcome.value, end_time=now_ms())
        self._open.discard(key)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"


def _belongs(key: str, trial_key: str) -> bool:
    return key == trial_key or key.startswith(trial_key + "/")


def _metrics(values: Mapping[str, float], step: int, timestamp: int) -> list[Metric]:
    # MLflow's SQL store would keep an infinity as 1.8e308; a diverged trial's status and tag say it better
    return [
        Metric(name, float(value), timestamp, step) for name, value in values.items() if math.isfinite(float(value))
    ]
