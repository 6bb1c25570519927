"""Trains a recorded trial again, in this process without Ray, and compares it with the record."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrace.errors import StateError, first_line
from foldrace.search.preparing.environment import describe_environment
from foldrace.search.preparing.recorded import open_recorded
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.folder import find_sweep
from foldrace.search.recording.reader import artifact, metric_points, parameter_values
from foldrace.search.recording.runs import Runs
from foldrace.search.recording.schema import (
    BEST_EPOCH,
    ENVIRONMENT_FILE,
    FOLD_EPOCHS,
    Level,
    Tag,
)
from foldrace.search.recording.tracking import check_tracking, connect
from foldrace.trainables.ray.gpus import device_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from foldrace.trainables.training.cross_validation import CrossValidation

__all__ = ["Difference", "Replay", "replay_trial"]

log = logging.getLogger(__name__)

_COMPARED = ("python", "platform", "processor", "git_revision", "packages")
Key = tuple[int, int, str]
"""(fold, epoch, metric)."""


@dataclass(frozen=True)
class Difference:
    """A recorded number that differs from the replayed one.

    Attributes:
        again: the replayed number; None if the replay has no such number.
    """

    fold: int
    epoch: int
    metric: str
    recorded: float
    again: float | None

    def __str__(self) -> str:
        return (
            f"fold {self.fold}, epoch {self.epoch}: {self.metric} was {self.recorded!r} and is"
            f" {self.again!r}"
        )


@dataclass(frozen=True)
class Replay:
    """The comparison of a trial with its record.

    Attributes:
        compared: how many numbers were compared.
        differences: the numbers that differ in any bit, by fold, epoch and metric.
        versions: (recorded, here) of software, hardware and the device that the trial trained on,
            where they differ.
    """

    sweep: str
    trial: int
    compared: int
    differences: tuple[Difference, ...]
    versions: Mapping[str, tuple[Any, Any]]

    @property
    def identical(self) -> bool:
        """Whether every recorded number was reproduced to the bit."""
        return not self.differences


def replay_trial(
    name: str | None,
    trial: int,
    root: Path,
    data_dir: Path,
) -> Replay:
    """Trains a trial of a sweep again, for as many fold-epochs as are recorded of it.

    It trains on a GPU if the trial did and there is one here, else on the CPU.

    Args:
        name: the sweep's; None: the latest sweep.
        trial: the trial's number.
        root: the folder of all sweeps.
        data_dir: where data sets are kept.

    Raises:
        StateError: there is no such sweep or trial, nothing is recorded of it, or the sweep file,
            the task or the data has changed.
        InputError: the data set or the task cannot be read any more.
    """
    folder = find_sweep(root, name)
    opened = open_recorded(folder)
    state = opened.state
    check_tracking(state.tracking_uri)
    prepared = opened.prepare(data_dir)
    client = connect(state.tracking_uri)
    runs = Runs(client, state.experiment_id, folder.name, state.key)
    own = runs.find((trial,))
    if own is None:
        raise StateError(f"{folder.name}: no trial {trial} is recorded")
    recorded = _recorded(client, runs, trial)
    if not recorded:
        raise StateError(
            f"{folder.name}: trial {trial} has no recorded epoch; there is nothing to compare"
        )
    work = make_work(prepared)
    declared = prepared.task.declared
    texts = {name: text for name, text in own.data.params.items() if name in declared}
    params = parameter_values(texts, declared)
    repeat = int(own.data.tags.get(Tag.REPEAT, 0))
    trained_on = own.data.tags.get(Tag.DEVICE)
    if trained_on == "cpu":  # whatever the sweep reserves
        work = replace(work, gpu=0.0)
    with work.process() as device:
        cv = work.cross_validation(params, work.samples_on(device), repeat)
        again = dict(_train(cv, int(own.data.metrics[FOLD_EPOCHS])))
        versions = _versions(client, runs.find(()))
        if trained_on not in (None, here := device_name(device)):
            versions["device"] = (trained_on, here)
    differences = [
        Difference(*key, value, again.get(key))
        for key, value in sorted(recorded.items())
        if again.get(key) != value
    ]
    return Replay(folder.name, trial, len(recorded), tuple(differences), versions)


def _recorded(client: MlflowClient, runs: Runs, trial: int) -> dict[Key, float]:
    """Every number of the trial's folds."""
    numbers: dict[Key, float] = {}
    for run in runs.search(trial=trial, level=Level.FOLD):
        fold = int(run.data.tags[Tag.FOLD])
        histories = metric_points(client, [run.info.run_id], [*run.data.metrics])
        for (_, metric), points in histories.items():
            numbers |= {(fold, point.step, metric): point.value for point in points}
    return numbers


def _train(cv: CrossValidation, fold_epochs: int) -> Iterator[tuple[Key, float]]:
    """Yields what each epoch of each fold would be recorded as, up to ``fold_epochs``."""
    spent = 0
    while spent < fold_epochs and not cv.finished:
        report = cv.advance()
        spent = report.fold_epochs
        log.info("%d of %d fold-epochs", spent, fold_epochs)
        for fold in report.trained:
            for metric, value in {**fold.metrics, BEST_EPOCH: float(fold.best_epoch)}.items():
                if math.isfinite(value):
                    yield (fold.fold, fold.epoch, metric), float(value)


def _versions(client: MlflowClient, sweep: Run | None) -> dict[str, tuple[Any, Any]]:
    """(recorded, here) of what differs between the sweep's environment and this one."""
    if sweep is None:
        return {}
    try:
        recorded = artifact(client, sweep.info.run_id, ENVIRONMENT_FILE)
        before = _flat(json.loads(recorded)) if recorded is not None else None
    except Exception as error:  # MLflow's, or any database driver's
        return {ENVIRONMENT_FILE: (f"cannot be read: {first_line(error)}", "")}
    if before is None:
        return {ENVIRONMENT_FILE: ("is not recorded", "")}
    here = _flat(describe_environment())
    return {
        name: (before.get(name), value)
        for name, value in here.items()
        if before.get(name) != value
    }


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: environment.get(name) for name in _COMPARED}
    packages = known.pop("packages") or {}
    return known | {str(name): version for name, version in packages.items()}
