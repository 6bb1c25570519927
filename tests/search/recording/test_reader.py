"""Reading runs, histories and artifacts; and the states that runs stand for."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from foldrace.errors import InputError, StateError
from foldrace.search.recording import reader
from foldrace.search.recording.reader import (
    artifact,
    artifact_arrays,
    artifact_names,
    metric_points,
    parameter_values,
    runs_of,
    search_runs,
    spec_text,
)
from foldrace.search.recording.schema import Level, having, prefixed, sweep_state, trial_status
from foldrace.trainables.tasks.parameters import Parameter, Value
from tests.helpers.stores import new_store


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def sweep(client: MlflowClient, tmp_path: Path) -> Any:
    """The run of a sweep with three trials of two folds each."""
    key = uuid.uuid4().hex
    experiment = client.create_experiment(key, artifact_location=tmp_path.as_uri())

    def make(at: int, level: Level, **tags: int) -> Any:
        own = prefixed({"sweep": "ae", "sweep_key": key, "level": level, **tags})
        return client.create_run(experiment, start_time=at, tags=own)

    found = make(0, Level.SWEEP)
    for trial in range(3):
        make(10 * trial + 1, Level.TRIAL, trial=trial)
        for fold in range(2):
            run = make(10 * trial + 2 + fold, Level.FOLD, trial=trial, fold=fold)
            for epoch in (1, 2):
                client.log_metric(run.info.run_id, "val_loss", epoch / 10, epoch, epoch)
    return found


def places(runs: list[Any]) -> list[tuple[str, str]]:
    return [
        (run.data.tags.get("foldrace.trial", ""), run.data.tags.get("foldrace.fold", ""))
        for run in runs
    ]


def test_every_page_is_read_and_the_earliest_run_comes_first(
    client: MlflowClient, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_PAGE", 2)
    runs = runs_of(client, sweep)
    assert len(runs) == 10
    assert [run.info.start_time for run in runs] == sorted(run.info.start_time for run in runs)
    assert places(runs_of(client, sweep, Level.TRIAL)) == [("0", ""), ("1", ""), ("2", "")]
    assert places(runs_of(client, sweep, Level.FOLD, trial=0)) == [("0", "0"), ("0", "1")]
    [trial] = search_runs(client, having(level=Level.TRIAL, trial=2), [sweep.info.experiment_id])
    assert places([trial]) == [("2", "")]


def test_points_come_by_run_and_metric(client: MlflowClient, sweep: Any) -> None:
    folds = [run.info.run_id for run in runs_of(client, sweep, Level.FOLD)]
    points = metric_points(client, [*folds, folds[0]], ["val_loss", "val_mse"])
    assert len(points) == 2 * len(folds)
    losses = {point.step: point.value for point in points[folds[0], "val_loss"]}
    assert losses == {1: 0.1, 2: 0.2} and list(points[folds[0], "val_mse"]) == []


def test_artifacts_that_are_not_there_are_none(
    client: MlflowClient, sweep: Any, tmp_path: Path
) -> None:
    run_id = sweep.info.run_id
    assert artifact(client, run_id, "a.txt") is artifact(client, run_id, "b/a.txt") is None
    assert artifact_arrays(client, run_id, "a.npz") == {}
    with pytest.raises(StateError, match=r"ae: its file, sweep\.yaml, is not recorded"):
        spec_text(client, sweep)
    client.log_text(run_id, "größe: 1", "sweep.yaml")
    client.log_text(run_id, "deep", "b/a.txt")
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    client.log_artifact(run_id, str(tmp_path / "a.npz"))
    assert spec_text(client, sweep) == "größe: 1"
    assert artifact(client, run_id, "b/a.txt") == b"deep"
    assert artifact_names(client, run_id, "b") == ["b/a.txt"]
    assert artifact_arrays(client, run_id, "a.npz")["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("status", "pruned_at", "of_sweep", "of_trial"),
    [
        ("RUNNING", False, "running", "running"),
        ("FINISHED", False, "finished", "completed"),
        ("FINISHED", True, "finished", "completed"),
        ("KILLED", True, "interrupted", "pruned"),
        ("KILLED", False, "interrupted", "interrupted"),
        ("FAILED", True, "failed", "failed"),
    ],
)
def test_mlflows_status_and_the_tag_give_the_state(
    status: str, pruned_at: bool, of_sweep: str, of_trial: str
) -> None:
    tags = {"foldrace.pruned_at": "epoch 1"} if pruned_at else {}
    run: Any = SimpleNamespace(
        info=SimpleNamespace(status=status), data=SimpleNamespace(tags=tags)
    )
    assert (sweep_state(run), trial_status(run)) == (of_sweep, of_trial)


def test_a_parameters_text_comes_back_in_its_type() -> None:
    declared = {
        "lr": Parameter(0.1, low=0.0),
        "layers": Parameter(2, low=1),
        "nesterov": Parameter(False),
        "width": Parameter("64", choices=("64", "128")),
        "eps": Parameter(None),
        "label": Parameter("a"),
    }
    values: dict[str, Value] = {
        "lr": 1 / 3,
        "layers": 3,
        "nesterov": True,
        "width": "128",
        "eps": None,
        "label": "True",
    }
    read = parameter_values({name: str(value) for name, value in values.items()}, declared)
    assert read == values and {type(value) for value in read.values()} == {
        float,
        int,
        bool,
        str,
        type(None),
    }
    with pytest.raises(InputError, match="the task has no such parameter"):
        parameter_values({"other": "1"}, declared)
    for name, text in {"layers": "0", "lr": "nan", "nesterov": "1", "width": "12"}.items():
        with pytest.raises(InputError, match=rf"space\.{name}"):
            parameter_values({name: text}, declared)
