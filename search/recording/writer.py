"""Writes the events of a sweep into MLflow, by the names of `foldrace.search.recording.schema`."""

from __future__ import annotations

import base64
import getpass
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    Reported,
    Started,
    now_ms,
)
from foldrace.search.recording.runs import Change, Runs
from foldrace.search.recording.schema import (
    BEST_EPOCH,
    BEST_TRIAL,
    ENVIRONMENT_FILE,
    EPOCH,
    ERROR_FILE,
    FOLD_EPOCHS,
    FOLDS,
    PARAMETERS,
    PICTURES,
    SPEC_FILE,
    TRAIN_SECONDS,
    VAL_LOSS,
    VAL_LOSS_SE,
    Level,
    Outcome,
    Place,
    Tag,
    prefixed,
)
from foldrace.trainables.tasks.objective import LOSS, Objective
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from foldrace.trainables.data.arrays import Dataset

__all__ = ["MlflowWriter", "finite_metrics"]

log = logging.getLogger(__name__)

_TAG_LIMIT = 5000
_REFIT: Place = ("refit",)


class MlflowWriter(EventSink):
    """Writes one sweep's events to MLflow: each at once, or many in few calls (`apply`).

    Runs are looked up before they are created, and a report carries its own time. So a repeated
    event adds nothing.

    Args:
        sweep: the sweep's name.
        key: unique among all sweeps of the store.
        folder: the sweep's folder, to which the paths of `Files` events are relative.
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
        """The client of the tracking store."""
        return self._client

    @property
    def written(self) -> int:
        """The number of runs written so far, as a sign of progress."""
        return self._runs.written

    def answers(self) -> bool:
        """Whether the store accepts a tag and a file, which it gets: `Tag.ASKED`."""
        try:
            self._runs.ask()
        except Exception as error:  # MLflow's, requests', or any database driver's
            log.debug("the store takes nothing: %s", error)
            return False
        return True

    # --- runs, one by one ------------------------------------------------------------------------

    @property
    def sweep_run(self) -> str:
        """The id of the sweep's run."""
        return self._runs.id(())

    def trial_run(self, trial: int) -> str:
        """The id of a trial's run, which is created if it does not exist."""
        return self._runs.id((trial,))

    @property
    def finished_refit(self) -> str | None:
        """The id of the run of a completed refit; None before that."""
        run = self._runs.find(_REFIT)
        if run is None or Tag.REFIT_DONE not in run.data.tags:
            return None
        return str(run.info.run_id)

    @contextmanager
    def refit_run(self, params: Mapping[str, Value]) -> Iterator[str]:
        """Yields the id of a new run of the refit, with these params.

        The run ends with the block: as completed, as failed after an exception, as killed after
        an interruption. That of an earlier attempt stays as it is, and is found no more.
        """
        self._runs.set_aside(_REFIT)
        run = self._runs.id(_REFIT)
        try:
            self._client.log_batch(
                run, params=[Param(name, str(value)) for name, value in params.items()]
            )
            yield run
        except BaseException as error:
            ending = Outcome.FAILED if isinstance(error, Exception) else Outcome.PRUNED
            with suppress(Exception):  # of a store that is away; the first error is raised
                self._client.set_terminated(run, status=ending.value)
            raise
        self._client.set_terminated(run, status=Outcome.COMPLETED.value)

    def completed_trials(self, folds: int, epochs: int) -> list[tuple[int, float, int]]:
        """(number, loss, fold-epochs) of each trial that completed, by number.

        Args:
            folds, epochs: the sweep's top rung; a trial may have completed short of it, when all
                its folds stopped early.
        """
        found = []
        for run in self._runs.search(level=Level.TRIAL):
            metrics, status = run.data.metrics, run.info.status
            if VAL_LOSS not in metrics or status == Outcome.FAILED.value:
                continue
            # the status alone is not enough: an interrupted extension has reopened the run
            reached = metrics[FOLDS] == folds and metrics[EPOCH] >= epochs
            if reached or status == Outcome.COMPLETED.value:
                number, spent = int(run.data.tags[Tag.TRIAL]), int(metrics[FOLD_EPOCHS])
                found.append((number, metrics[VAL_LOSS], spent))
        return sorted(found)

    def start_sweep(
        self,
        spec_yaml: str,
        environment: Mapping[str, Any],
        dataset: Dataset,
        task: str,
        kind: str = "sweep",
        task_digest: str = "",
        objectives: Sequence[str] = (VAL_LOSS,),
        objective: Objective = LOSS,
    ) -> None:
        """Opens the sweep's run and records the sweep file, the environment and the data set.

        Args:
            environment: see `foldrace.search.preparing.environment.describe_environment`.
            kind: ``sweep`` or ``comparison``.
            task_digest: of the code of a user's task (`LoadedTask.digest`).
            objectives: of the sweep, ``val_loss`` first.
            objective: what ``val_loss`` is.
        """
        run = self.sweep_run
        self._runs.write({(): Change(now_ms(), running=True)})
        self._client.log_text(run, spec_yaml, SPEC_FILE)
        self._client.log_text(run, json.dumps(environment, indent=2), ENVIRONMENT_FILE)
        revision = environment.get("git_revision")
        tags = {
            Tag.KIND: kind,
            Tag.OBJECTIVES: ",".join(objectives),
            Tag.METRIC: objective.metric,
            Tag.DIRECTION: objective.direction,
            Tag.TASK: task,
            Tag.GIT_REVISION: revision,
            Tag.DATASET_DIGEST: dataset.digest,
            Tag.TASK_DIGEST: task_digest or None,
            "mlflow.user": _user(),
            "mlflow.source.name": "foldrace",
        }
        given = [RunTag(str(name), value) for name, value in tags.items() if value is not None]
        self._client.log_batch(run, tags=given)
        profile = {"samples": len(dataset), "test_samples": dataset.test_count}
        entity = DatasetEntity(
            name=dataset.name,
            digest=dataset.digest[:36],  # MLflow's limit; the whole digest is a tag
            source_type="foldrace",
            source=json.dumps({"source": dataset.source, "digest": dataset.digest}),
            schema=json.dumps(
                {name: [info.dtype, *info.shape] for name, info in dataset.sample.fields.items()}
            ),
            profile=json.dumps(profile),
        )
        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run, [DatasetInput(dataset=entity, tags=context)])

    # --- events ----------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        self.apply([event])

    def apply(self, events: Iterable[Event], *, suspect: bool = False) -> None:
        """Writes events in their order, merged into few calls per run.

        After an error, part of them may have been written. It can be called again with the same
        events.

        Args:
            suspect: what fails for a reason that is not clear is taken to be refused.
        """
        self._runs.load()
        changes = _Changes(self._runs, self._folder)
        for event in events:
            changes.add(event)
        self._runs.write(changes.by_place, suspect=suspect)
        self._runs.reached.update(changes.reached)
        self._runs.incumbents |= changes.incumbents


class _Changes:
    """The changes to the runs that a series of events amounts to."""

    def __init__(self, runs: Runs, folder: Path) -> None:
        self._runs, self._folder = runs, folder
        self.by_place: dict[Place, Change] = {}
        self.reached: dict[int, int] = {}
        self.incumbents: set[tuple[int, float]] = set()
        self._changed: dict[int | str, set[Place]] = {}  # by trial

    def _of(self, place: Place, at: int) -> Change:
        if place and place not in self.by_place:
            self._of(place[:-1], at)  # if the run above is new, it starts at the same time
            self._changed.setdefault(place[0], set()).add(place)
        return self.by_place.setdefault(place, Change(at))

    def _places(self, trial: int) -> set[Place]:
        return {*self._runs.known(trial), *self._changed.get(trial, ())}

    def _is_open(self, place: Place) -> bool:
        """Whether the run is open after the events so far."""
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
                self._closed(event)

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
            values = {**fold.metrics, BEST_EPOCH: fold.best_epoch}
            self._of((trial, fold.fold), event.at).metrics.extend(
                finite_metrics(values, fold.epoch, event.at)
            )
        means = {
            **report.metrics,
            FOLDS: len(report.folds),
            EPOCH: report.epoch,
            FOLD_EPOCHS: report.fold_epochs,
            TRAIN_SECONDS: report.seconds,
        }
        means |= {} if event.parameters is None else {PARAMETERS: event.parameters}
        own = self._of((trial,), event.at)
        own.metrics.extend(finite_metrics(means, report.fold_epochs, event.at))
        if event.picture is not None:
            name = f"{PICTURES}/epoch-{report.epoch:03d}.png"
            own.files.append((name, base64.b64decode(event.picture)))

    def _incumbent(self, event: Incumbent) -> None:
        found = (event.trial, event.val_loss)
        # a trial ends a second time when its sweep was killed and resumed
        if found in self._runs.incumbents | self.incumbents:
            return
        self.incumbents.add(found)
        metrics = {
            VAL_LOSS: event.val_loss,
            VAL_LOSS_SE: event.standard_error,
            BEST_TRIAL: event.trial,
        }
        self._of((), event.at).metrics.extend(finite_metrics(metrics, event.fold_epochs, event.at))

    def _finished(self, event: Finished) -> None:
        own = self._of((event.trial,), event.at)
        if event.reason:
            tag = Tag.FAILURE if event.outcome is Outcome.FAILED else Tag.PRUNED_AT
            own.tags[str(tag)] = event.reason[:_TAG_LIMIT]
        own.tags |= _limited(event.tags)
        if event.detail:
            own.files.append((ERROR_FILE, event.detail.encode(errors="replace")))
        for fold in event.folds:
            tags: dict[str, object] = {
                "epochs": fold.epoch,
                "stopped_early": fold.stopped and not fold.diverged,
            }
            if fold.diverged:
                tags["failure"] = fold.diverged
            self._of((event.trial, fold.fold), event.at).tags |= _limited(tags)
        for place in filter(self._is_open, self._places(event.trial)):
            self._of(place, event.at).ending = (event.outcome, event.at)

    def _closed(self, event: Closed) -> None:
        for place in filter(self._is_open, {*self._runs.all_open(), *self.by_place} - {()}):
            self._of(place, event.at).ending = (Outcome.PRUNED, event.at)
        sweep = self._of((), event.at)
        sweep.tags |= prefixed(event.tags) | {"mlflow.note.content": event.note}
        sweep.ending = (event.outcome, event.at)


def _limited(tags: Mapping[str, object]) -> dict[str, str]:
    """Tags under their full names, cut to MLflow's limit."""
    return {name: value[:_TAG_LIMIT] for name, value in prefixed(tags).items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        return "unknown"


def finite_metrics(values: Mapping[str, float], step: int, timestamp: int) -> list[Metric]:
    """The finite ones of ``values`` as MLflow's metrics.

    Args:
        timestamp: in milliseconds since 1970.
    """
    # MLflow's SQL store would keep an infinity as 1.8e308; the status and the tag of a diverged
    # trial say it better
    return [
        Metric(name, float(value), timestamp, step)
        for name, value in values.items()
        if math.isfinite(float(value))
    ]
