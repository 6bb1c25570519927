"""Trains a recorded trial again, in this process and without Ray, and compares every number with
the record."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrace.errors import StateError, first_line
from foldrace.search.preparing.environment import describe_environment
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.runs import Runs
from foldrace.search.recording.store import check_tracking, connect, find_sweep
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.trainables.ray.process import prepare_process
from foldrace.trainables.ray.work import shared_tensor

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from foldrace.trainables.tasks.loading import LoadedTask
    from foldrace.trainables.tasks.parameters import Value
    from foldrace.trainables.training.cross_validation import CrossValidation

__all__ = ["Difference", "Replay", "replay_trial"]

_COMPARED = ("python", "platform", "processor", "git_revision", "packages")
Key = tuple[int, int, str]
"""(fold, epoch, metric)."""


@dataclass(frozen=True)
class Difference:
    """A recorded number that did not come out again; ``again`` is None where there was none."""

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
    """A trial trained again.

    Attributes:
        compared: how many numbers.
        differences: those that are not the same to the last bit, in the order of training.
        versions: what was recorded of software and hardware, and what is here, where these differ.
    """

    sweep: str
    trial: int
    compared: int
    differences: tuple[Difference, ...]
    versions: Mapping[str, tuple[Any, Any]]

    @property
    def identical(self) -> bool:
        """Whether every recorded number came out again."""
        return not self.differences


def replay_trial(
    name: str | None,
    trial: int,
    root: Path,
    data_dir: Path,
    *,
    notify: Callable[[str], None] = lambda _: None,
) -> Replay:
    """Trains a trial of a sweep again, as far as it had got.

    Raises:
        StateError: no such sweep or trial, nothing recorded of it, or its file, task or data has
            changed.
        InputError: the data set or the task cannot be read any more.
    """
    folder = find_sweep(root, name)
    state, spec = folder.read_state(), load_spec(folder.spec)
    check_tracking(state.tracking_uri)
    prepared = prepare(spec, data_dir)
    state.check_spec(spec.to_yaml(), folder.name)
    state.check_task(prepared.task.reference, prepared.task.digest, folder.name)
    state.check_data(prepared.dataset.name, prepared.dataset.digest, folder.name)
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
    prepare_process(work.threads, work.options.precision)
    params = _typed(prepared.task, own.data.params)
    repeat = int(own.data.tags.get("foldrace.repeat", 0))
    cv = work.cross_validation(params, shared_tensor(work.images), repeat)
    again = dict(_train(cv, int(own.data.metrics["fold_epochs"]), notify))
    differences = [
        Difference(*key, value, again.get(key))
        for key, value in sorted(recorded.items())
        if again.get(key) != value
    ]
    return Replay(
        folder.name, trial, len(recorded), tuple(differences), _versions(client, runs.find(()))
    )


def _recorded(client: MlflowClient, runs: Runs, trial: int) -> dict[Key, float]:
    """Every number of the trial's folds."""
    numbers: dict[Key, float] = {}
    for run in runs.search(
        f"tags.`foldrace.trial` = '{trial}' and tags.`foldrace.level` = 'fold'"
    ):
        fold = int(run.data.tags["foldrace.fold"])
        for metric in run.data.metrics:
            for point in client.get_metric_history(run.info.run_id, metric):
                numbers[fold, point.step, metric] = point.value
    return numbers


def _typed(task: LoadedTask, params: Mapping[str, str]) -> dict[str, Value]:
    """The recorded texts as what they were; a number's text is exact."""
    typed: dict[str, Value] = {}
    for name, text in params.items():
        if name in task.declared:
            typed[name] = task.declared[name].check(name, _value(text))
    return typed


def _value(text: str) -> Value:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _train(
    cv: CrossValidation, fold_epochs: int, notify: Callable[[str], None]
) -> Iterator[tuple[Key, float]]:
    """What each epoch of each fold is recorded as, up to so many fold-epochs."""
    spent = 0
    while spent < fold_epochs and not cv.finished:
        report = cv.advance()
        spent = report.fold_epochs
        notify(f"{spent} of {fold_epochs} fold-epochs")
        for fold in report.trained:
            for metric, value in {**fold.metrics, "best_epoch": float(fold.best_epoch)}.items():
                if math.isfinite(value):
                    yield (fold.fold, fold.epoch, metric), float(value)


def _versions(client: MlflowClient, sweep: Run | None) -> dict[str, tuple[Any, Any]]:
    """(recorded, here) of what differs between the sweep's environment and this one."""
    if sweep is None:
        return {}
    with tempfile.TemporaryDirectory() as into:
        try:
            path = client.download_artifacts(sweep.info.run_id, "environment.json", into)
            before = _flat(json.loads(Path(path).read_text()))
        except Exception as error:  # MLflow's own and those of whatever lies below
            return {"environment.json": (f"cannot be read: {first_line(error)}", "")}
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
