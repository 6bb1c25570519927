"""Writes a sweep into MLflow as three levels of runs: the sweep, its trials, their folds."""

from __future__ import annotations

import base64
import getpass
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from foldrace.search.recording.events import (
    Closed,
    Event,
    EventSink,
    Files,
    Finished,
    Incumbent,
    Outcome,
    Reported,
    Started,
    now_ms,
)
from foldrace.search.recording.runs import Change, Place, Runs
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from foldrace.trainables.data.arrays import Dataset

__all__ = ["EVIDENCE", "REFIT_DONE", "MlflowWriter", "Outcome", "now_ms"]

_TAG_LIMIT = 5000
_REFIT: Place = ("refit",)
REFIT_DONE = "foldrace.refit_done"
"""The tag of a refit whose figures are recorded: the test set has been used."""
EVIDENCE = "evidence.npz"
"""The artifact with what a refitted model makes of the test images."""


class MlflowWriter(EventSink):
    """Creates, fills and ends the runs of one sweep; what it is told it writes at once, and many
    events together in few calls (`apply`).

    Runs are looked up before they are made, and every report is written with its own time, so that
    a repeated call adds nothing.

    Args:
        sweep: the sweep's name, unique in its tracking store and folder.
        key: unique to this sweep among all sweeps of the store.
        folder: the sweep's own, below which files to be logged are.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        sweep: str,
        key: str,
        folder: Path | None = None,
    ) -> None:
        self._client, self._folder = client, folder or Path()
        self._runs = Runs(client, experiment_id, sweep, key)

    @property
    def client(self) -> MlflowClient:
        """Of the tracking store."""
        return self._client

    @property
    def written(self) -> int:
        """Grows with each run that is written to."""
        return self._runs.written

    # --- runs, one by one ------------------------------------------------------------------------

    @property
    def sweep_run(self) -> str:
        """The id of the sweep's run."""
        return self._runs.id(())

    def trial_run(self, trial: int) -> str:
        """The id of a trial's run, made if it is not there yet."""
        return self._runs.id((trial,))

    def fold_run(self, trial: int, fold: int) -> str:
        """The id of a fold's run, made if it is not there yet."""
        return self._runs.id((trial, fold))

    @property
    def finished_refit(self) -> str | None:
        """The run of a refit that has been recorded to its end."""
        run = self._runs.find(_REFIT)
        return str(run.info.run_id) if run is not None and REFIT_DONE in run.data.tags else None

    def refit_run(self, params: Mapping[str, Value]) -> str:
        """The id of the run in which the winner is trained on all data, made or opened again."""
        run = self._runs.id(_REFIT)
        self._client.update_run(run, status="RUNNING")
        self._client.log_batch(
            run, params=[Param(name, str(value)) for name, value in params.items()]
        )
        return run

    def trials_to_the_end(self, folds: int, epochs: int) -> list[tuple[int, float, int]]:
        """(number, loss, fold-epochs) of each trial that was evaluated on so many folds for so
        many epochs, or whose folds have all stopped early."""
        found = []
        for run in self._runs.search("tags.`foldrace.level` = 'trial'"):
            metrics = run.data.metrics
            if "val_loss" not in metrics or run.info.status == Outcome.FAILED.value:
                continue
            whole = metrics["folds"] == folds and metrics["epoch"] >= epochs
            # one that was trained on, and interrupted then, is no longer finished
            if whole or run.info.status == Outcome.COMPLETED.value:
                found.append(
                    (
                        int(run.data.tags["foldrace.trial"]),
                        metrics["val_loss"],
                        int(metrics["fold_epochs"]),
                    )
                )
        return sorted(found)

    def start_sweep(
        self,
        spec_yaml: str,
        environment: Mapping[str, Any],
        dataset: Dataset,
        task: str,
        kind: str = "sweep",
    ) -> None:
        """Records what the sweep is: its kind and file, the environment, the data set."""
        run = self.sweep_run
        self._runs.write({(): Change(now_ms(), running=True)})
        self._client.log_text(run, spec_yaml, "sweep.yaml")
        self._client.log_text(run, json.dumps(environment, indent=2), "environment.json")
        revision = environment.get("git_revision")
        tags = {
            "kind": kind,
            "task": task,
            "git_revision": revision,
            "dataset_digest": dataset.digest,
        }
        every = [
            RunTag(f"foldrace.{name}", str(value))
            for name, value in tags.items()
            if value is not None
        ]
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

    # --- events ----------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        self.apply([event])

    def apply(self, events: Iterable[Event]) -> None:
        """Writes events, in their order, merged: each run is made, filled and ended in one call
        each.

        If it raises, part of it may have been written; it can be called again with the same
        events.
        """
        self._runs.load()
        changes = _Changes(self._runs, self._folder)
        for event in events:
            changes.add(event)
        self._runs.write(changes.by_place)
        self._runs.reached.update(changes.reached)
        self._runs.incumbents |= changes.incumbents


class _Changes:
    """What events mean for the runs."""

    def __init__(self, runs: Runs, folder: Path) -> None:
        self._runs, self._folder = runs, folder
        self.by_place: dict[Place, Change] = {}
        self.reached: dict[int, int] = {}
        self.incumbents: set[tuple[int, float]] = set()
        self._changed: dict[int | str, set[Place]] = {}  # by trial

    def _of(self, place: Place, at: int) -> Change:
        if place and place not in self.by_place:
            self._of(place[:-1], at)  # a run that is made for this one begins with it
            self._changed.setdefault(place[0], set()).add(place)
        return self.by_place.setdefault(place, Change(at))

    def _places(self, trial: int) -> set[Place]:
        return {*self._runs.known(trial), *self._changed.get(trial, ())}

    def _is_open(self, place: Place) -> bool:
        """Whether a run goes on, after the events so far."""
        change = self.by_place.get(place)
        if change is not None and (change.running or change.ending is not None):
            return change.ending is None
        return self._runs.is_open(place) or not self._runs.is_known(place)

    def add(self, event: Event) -> None:
        match event:
            case Started():
                self._started(event)
            case Reported():
                self._reported(event)
            case Finished():
                self._finished(event)
            case Incumbent():
                self._incumbent(event)
            case Files():
                self._of(event.place, event.at).folders.append(
                    (self._folder / event.path, event.into)
                )
            case Closed():
                for place in filter(
                    self._is_open, {*self._runs.all_open(), *self.by_place} - {()}
                ):
                    self._of(place, event.at).ending = (Outcome.PRUNED, event.at)
                sweep = self._of((), event.at)
                sweep.tags |= {
                    f"foldrace.{name}": str(value) for name, value in event.tags.items()
                }
                sweep.tags["mlflow.note.content"] = event.note
                sweep.ending = (event.outcome, event.at)

    def _started(self, event: Started) -> None:
        self._runs.tag_trial(event.trial, event.tags)
        own = self._of((event.trial,), event.at).params
        given = {name: str(value) for name, value in event.params.items()}
        if changed := [name for name in given if own.get(name, given[name]) != given[name]]:
            raise ValueError(f"trial {event.trial} has started before with another {changed[0]}")
        own |= given
        for place in self._places(event.trial):
            change = self._of(place, event.at)
            change.running, change.ending = True, None

    def _reported(self, event: Reported) -> None:
        trial, report = event.trial, event.report
        if report.fold_epochs <= self.reached.get(trial, self._runs.reached.get(trial, 0)):
            return
        self.reached[trial] = report.fold_epochs
        for fold in report.trained:
            figures = {**fold.metrics, "best_epoch": fold.best_epoch}
            self._of((trial, fold.fold), event.at).metrics.extend(
                _metrics(figures, fold.epoch, event.at)
            )
        where = {
            "folds": len(report.folds),
            "epoch": report.epoch,
            "fold_epochs": report.fold_epochs,
        }
        means = {**report.metrics, **where, "train_seconds": report.seconds}
        means |= {} if event.parameters is None else {"parameters": event.parameters}
        own = self._of((trial,), event.at)
        own.metrics.extend(_metrics(means, report.fold_epochs, event.at))
        if event.picture is not None:
            name = f"reconstructions/epoch-{report.epoch:03d}.png"
            own.files.append((name, base64.b64decode(event.picture)))

    def _incumbent(self, event: Incumbent) -> None:
        found = (event.trial, event.val_loss)
        if (
            found in self._runs.incumbents | self.incumbents
        ):  # a trial that has ended a second time, after a kill
            return
        self.incumbents.add(found)
        metrics = {
            "val_loss": event.val_loss,
            "val_loss_se": event.standard_error,
            "best_trial": event.trial,
        }
        self._of((), event.at).metrics.extend(_metrics(metrics, event.fold_epochs, event.at))

    def _finished(self, event: Finished) -> None:
        own = self._of((event.trial,), event.at)
        if event.reason:
            tag = "foldrace.failure" if event.outcome is Outcome.FAILED else "foldrace.pruned_at"
            own.tags[tag] = event.reason[:_TAG_LIMIT]
        own.tags |= {f"foldrace.{name}": value[:_TAG_LIMIT] for name, value in event.tags.items()}
        if event.detail:
            own.files.append(("error.txt", event.detail.encode(errors="replace")))
        for fold in event.folds:
            tags: dict[str, object] = {
                "epochs": fold.epoch,
                "stopped_early": fold.stopped and not fold.diverged,
            }
            if fold.diverged:
                tags["failure"] = fold.diverged
            its = self._of((event.trial, fold.fold), event.at).tags
            its |= {f"foldrace.{name}": str(value)[:_TAG_LIMIT] for name, value in tags.items()}
        for place in filter(self._is_open, self._places(event.trial)):
            self._of(place, event.at).ending = (event.outcome, event.at)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"


def _metrics(values: Mapping[str, float], step: int, timestamp: int) -> list[Metric]:
    # MLflow's SQL store would keep an infinity as 1.8e308; a diverged trial's status and tag say
    # it better
    return [
        Metric(name, float(value), timestamp, step)
        for name, value in values.items()
        if math.isfinite(float(value))
    ]
