"""What a sweep leaves in a real SQLite MLflow: three levels of runs, each point once, each ending
told apart."""

from __future__ import annotations

import json
import math
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from foldrace.search.recording.events import Closed
from foldrace.search.recording.schema import Outcome, Tag
from foldrace.search.recording.writer import MlflowWriter
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.ray.picture import strip_png
from foldrace.trainables.training.reports import EpochReport, FoldReport
from tests.helpers.stores import new_store

PARAMS = {"lr": 0.003, "optimizer": "adam"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def experiment(client: MlflowClient, tmp_path: Path) -> str:
    return str(client.create_experiment(uuid.uuid4().hex, artifact_location=tmp_path.as_uri()))


@pytest.fixture
def writer(client: MlflowClient, experiment: str) -> MlflowWriter:
    return MlflowWriter(client, experiment, "ae-2", key=uuid.uuid4().hex)


class Counting:
    """A client that counts its calls by method and run."""

    def __init__(self, client: MlflowClient) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls[name, str(args[0]) if args else ""] += 1
            return method(*args, **options)

        return call


def report(
    epoch: int, *losses: float, diverged: str | None = None, stopped: bool = False
) -> EpochReport:
    folds = tuple(
        FoldReport(
            k,
            epoch,
            epoch,
            stopped,
            diverged,
            {"train_loss": 2 * loss, "val_loss": loss, "val_mse": loss},
        )
        for k, loss in enumerate(losses)
    )
    return EpochReport(epoch, folds, epoch * len(losses), 0.5, False, trained=folds)


def dataset() -> Dataset:
    images = np.zeros((20, 1, 8, 8), np.uint8)
    return Dataset.of_images(
        "digits", images, None, None, images[:4], None, (), "d" * 64, "scikit-learn"
    )


def runs(client: MlflowClient, experiment: str) -> dict[str, Run]:
    found = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert len(found) == len(client.search_runs([experiment]))
    return found


def points(client: MlflowClient, run: Run, metric: str) -> list[tuple[int, float]]:
    return sorted(
        (point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)
    )


# --- levels --------------------------------------------------------------------------------------


def test_three_levels_with_readable_names_and_their_parents(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.started(7, PARAMS)
    writer.reported(7, report(1, 0.3, 0.5), None, 1000)
    found = runs(client, experiment)
    assert set(found) == {"ae-2", "trial 0007", "trial 0007 fold 0", "trial 0007 fold 1"}
    sweep, trial, fold = found["ae-2"], found["trial 0007"], found["trial 0007 fold 1"]
    levels = [run.data.tags["foldrace.level"] for run in (sweep, trial, fold)]
    assert levels == ["sweep", "trial", "fold"]
    assert "mlflow.parentRunId" not in sweep.data.tags
    assert trial.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert fold.data.tags["mlflow.parentRunId"] == trial.info.run_id
    assert (fold.data.tags["foldrace.trial"], fold.data.tags["foldrace.fold"]) == ("7", "1")
    assert {run.data.tags["foldrace.sweep"] for run in found.values()} == {"ae-2"}
    assert len({run.data.tags["foldrace.key"] for run in found.values()}) == 4
    assert trial.data.params == {"lr": "0.003", "optimizer": "adam"}
    assert {run.info.status for run in found.values()} == {"RUNNING"}


def test_a_kind_of_sweep_and_a_trials_part_in_it_are_tags(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.start_sweep("kind: comparison\n", {}, dataset(), "autoencoder", "comparison")
    writer.started(7, PARAMS, {"arm": "sgd", "phase": "repeat", "repeat": 2})
    writer.started(8, PARAMS)
    for trial in (7, 8):
        writer.reported(trial, report(1, 0.3), None, 1000)
    found = runs(client, experiment)
    assert found["ae-2"].data.tags["foldrace.kind"] == "comparison"
    for name in ("trial 0007", "trial 0007 fold 0"):
        tags = found[name].data.tags
        assert [tags[f"foldrace.{tag}"] for tag in ("arm", "phase", "repeat")] == [
            "sgd",
            "repeat",
            "2",
        ]
    assert not any(
        "arm" in tag
        for name in ("trial 0008", "trial 0008 fold 0")
        for tag in found[name].data.tags
    )


def test_a_trial_has_the_count_of_its_weights(client: MlflowClient, writer: MlflowWriter) -> None:
    writer.started(0, {"lr": 0.1})
    writer.reported(0, report(1, 0.3, 0.5), None, 1000, parameters=1234)
    assert points(client, client.get_run(writer.trial_run(0)), "parameters") == [(2, 1234.0)]


def test_a_fold_counts_epochs_and_a_trial_fold_epochs(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.started(0, PARAMS)
    writer.reported(0, report(1, 0.3, 0.5), None, 1000)
    writer.reported(0, report(2, 0.2, 0.3), None, 2000)
    found = runs(client, experiment)
    assert points(client, found["trial 0000 fold 1"], "val_loss") == [(1, 0.5), (2, 0.3)]
    assert points(client, found["trial 0000 fold 1"], "train_loss") == [(1, 1.0), (2, 0.6)]
    trial = found["trial 0000"]
    assert points(client, trial, "val_loss") == [(2, pytest.approx(0.4)), (4, pytest.approx(0.25))]
    assert points(client, trial, "val_loss_se") == [
        (2, pytest.approx(0.1)),
        (4, pytest.approx(0.05)),
    ]
    assert points(client, trial, "epoch") == [(2, 1), (4, 2)]
    assert points(client, trial, "folds") == [(2, 2), (4, 2)]
    [first, second] = client.get_metric_history(trial.info.run_id, "val_mse")
    assert [first.timestamp, second.timestamp] == [1000, 2000]


def test_a_report_is_one_call_a_run(client: MlflowClient, experiment: str) -> None:
    counting = Counting(client)
    writer = MlflowWriter(counting, experiment, "ae", key=uuid.uuid4().hex)  # type: ignore[arg-type]
    writer.started(0, PARAMS)
    writer.reported(0, report(1, 0.3, 0.5, 0.4), None, 1000)
    counting.calls.clear()
    writer.reported(0, report(2, 0.2, 0.3, 0.4), None, 2000)
    found = runs(client, experiment)
    names = ["trial 0000", *(f"trial 0000 fold {k}" for k in range(3))]
    assert counting.calls == {("log_batch", found[name].info.run_id): 1 for name in names}


# --- once ----------------------------------------------------------------------------------------


def test_another_recorder_with_the_same_key_finds_the_runs_and_adds_no_point(
    client: MlflowClient, experiment: str
) -> None:
    key = uuid.uuid4().hex
    for _ in range(2):
        writer = MlflowWriter(client, experiment, "ae", key)
        writer.started(0, PARAMS)
        writer.reported(0, report(1, 0.3, 0.5), None, 1000)
        writer.reported(0, report(1, 0.3, 0.5), None, 1000)
    found = runs(client, experiment)
    assert len(found) == 4
    for name in ("trial 0000", "trial 0000 fold 0", "trial 0000 fold 1"):
        for metric in found[name].data.metrics:
            assert len(client.get_metric_history(found[name].info.run_id, metric)) == 1, (
                name,
                metric,
            )


def test_a_trial_that_repeats_epochs_after_an_interruption_adds_none_of_them(
    client: MlflowClient, experiment: str
) -> None:
    key = uuid.uuid4().hex
    before = MlflowWriter(client, experiment, "ae", key)
    before.started(0, PARAMS)
    for epoch in (1, 2):
        before.reported(0, report(epoch, 0.3, 0.5), None, epoch * 1000)
    before.close(Outcome.PRUNED, {}, "interrupted")
    assert {run.info.status for run in runs(client, experiment).values()} == {"KILLED"}
    after = MlflowWriter(client, experiment, "ae", key)
    after.started(0, PARAMS)
    assert runs(client, experiment)["trial 0000 fold 1"].info.status == "RUNNING"
    for epoch in (1, 2, 3):
        after.reported(0, report(epoch, 0.3, 0.5), None, epoch * 1000 + 77)
    found = runs(client, experiment)
    assert points(client, found["trial 0000"], "epoch") == [(2, 1), (4, 2), (6, 3)]
    assert points(client, found["trial 0000 fold 0"], "val_loss") == [(1, 0.3), (2, 0.3), (3, 0.3)]


def test_a_best_trial_is_one_point_however_often_it_ends(
    client: MlflowClient, experiment: str
) -> None:
    key = uuid.uuid4().hex
    for begun in (
        1000,
        5000,
    ):  # a kill between two sessions: the second begins from an older snapshot
        writer = MlflowWriter(client, experiment, "ae", key)
        writer.incumbent(0, 0.5, 0.1, 9, begun)
        writer.incumbent(4, 0.4, 0.1, 18, begun + 1)
    writer.incumbent(4, 0.3, 0.1, 27, 9000)
    found = runs(client, experiment)["ae"]
    assert points(client, found, "best_trial") == [(9, 0), (18, 4), (27, 4)]
    assert points(client, found, "val_loss") == [(9, 0.5), (18, 0.4), (27, 0.3)]


def test_another_key_is_another_sweep(client: MlflowClient, experiment: str) -> None:
    ids = {MlflowWriter(client, experiment, "ae", key).trial_run(0) for key in ("one", "two")}
    assert len(ids) == 2


# --- ends ----------------------------------------------------------------------------------------


def test_a_completed_trial_is_finished_and_its_folds_with_it(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.started(0, PARAMS)
    writer.started(1, PARAMS)
    last = report(3, 0.1, 0.2, stopped=True)
    writer.reported(0, last, None, 1000)
    writer.finished(0, Outcome.COMPLETED, last.folds)
    found = runs(client, experiment)
    for name in ("trial 0000", "trial 0000 fold 0", "trial 0000 fold 1"):
        assert (found[name].info.status, found[name].info.end_time is not None) == (
            "FINISHED",
            True,
        )
    assert found["trial 0001"].info.status == "RUNNING"
    tags = found["trial 0000 fold 0"].data.tags
    assert (tags["foldrace.epochs"], tags["foldrace.stopped_early"]) == ("3", "True")
    assert not {"foldrace.failure", "foldrace.pruned_at"} & set(found["trial 0000"].data.tags)


def test_a_trial_that_was_given_up_is_killed_and_says_where(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.started(0, PARAMS)
    writer.reported(0, report(1, 0.1), None, 1000)
    writer.finished(0, Outcome.PRUNED, report(1, 0.1).folds, "given up at epoch 1")
    found = runs(client, experiment)
    assert {found[name].info.status for name in ("trial 0000", "trial 0000 fold 0")} == {"KILLED"}
    assert found["trial 0000"].data.tags["foldrace.pruned_at"] == "given up at epoch 1"
    assert found["trial 0000 fold 0"].data.tags["foldrace.stopped_early"] == "False"


def test_what_a_trial_was_trained_on_is_told_when_it_ends(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.started(0, PARAMS)
    last = report(1, 0.1)
    tags = {"device": "H100", "gpus": "0,1"}
    writer.finished(0, Outcome.COMPLETED, last.folds, tags=tags)
    found = runs(client, experiment)["trial 0000"].data.tags
    assert (found["foldrace.device"], found["foldrace.gpus"]) == ("H100", "0,1")


def test_a_failed_trial_says_why_and_keeps_the_traceback(
    client: MlflowClient, experiment: str, writer: MlflowWriter, tmp_path: Path
) -> None:
    writer.started(0, PARAMS)
    last = report(1, 0.1, math.inf, diverged="fold 1, epoch 1: val_loss is inf")
    writer.reported(0, last, None, 1000)
    writer.finished(0, Outcome.FAILED, last.folds, "x" * 9000, "Traceback ...\nValueError: no")
    found = runs(client, experiment)
    trial = found["trial 0000"]
    assert trial.info.status == "FAILED"
    assert trial.data.tags["foldrace.failure"] == "x" * 5000
    path = client.download_artifacts(trial.info.run_id, "error.txt", str(tmp_path))
    assert Path(path).read_text() == "Traceback ...\nValueError: no"
    assert (
        found["trial 0000 fold 1"].data.tags["foldrace.failure"]
        == "fold 1, epoch 1: val_loss is inf"
    )
    assert found["trial 0000 fold 1"].data.tags["foldrace.stopped_early"] == "False"


def test_closing_leaves_nothing_running(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.started(0, PARAMS)
    writer.reported(0, report(1, 0.1), None, 1000)
    writer.incumbent(0, 0.1, math.nan, 3, 1000)
    writer.close(Outcome.COMPLETED, {"trials_completed": 1}, "**a note**")
    found = runs(client, experiment)
    assert found["ae-2"].info.status == "FINISHED"
    assert {run.info.status for name, run in found.items() if name != "ae-2"} == {"KILLED"}
    tags = found["ae-2"].data.tags
    assert (tags["foldrace.trials_completed"], tags["mlflow.note.content"]) == ("1", "**a note**")
    assert points(client, found["ae-2"], "best_trial") == [(3, 0.0)]


# --- values --------------------------------------------------------------------------------------


def test_what_is_not_finite_is_left_out(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    writer.started(0, PARAMS)
    writer.reported(0, report(1, 0.25), None, 1000)  # a single fold has no standard error
    writer.reported(0, report(2, math.inf), None, 2000)
    found = runs(client, experiment)
    assert points(client, found["trial 0000"], "val_loss_se") == []
    assert [value for _, value in points(client, found["trial 0000"], "val_loss")] == [0.25]
    assert [value for _, value in points(client, found["trial 0000"], "epoch")] == [1, 2]
    assert [value for _, value in points(client, found["trial 0000 fold 0"], "val_loss")] == [0.25]


def test_the_sweep_run_says_what_ran_on_what(
    client: MlflowClient, experiment: str, writer: MlflowWriter, tmp_path: Path
) -> None:
    writer.start_sweep(
        "name: ae\n", {"git_revision": "abc-dirty", "cpus": 2}, dataset(), "autoencoder"
    )
    writer.start_sweep(
        "name: ae\n", {"git_revision": "abc-dirty", "cpus": 2}, dataset(), "autoencoder"
    )
    [sweep] = runs(client, experiment).values()
    artifacts = {file.path for file in client.list_artifacts(sweep.info.run_id)}
    assert artifacts == {"sweep.yaml", "environment.json"}
    path = client.download_artifacts(sweep.info.run_id, "environment.json", str(tmp_path))
    assert json.loads(Path(path).read_text())["cpus"] == 2
    tags = sweep.data.tags
    assert (tags["foldrace.git_revision"], tags["foldrace.task"]) == ("abc-dirty", "autoencoder")
    assert tags["foldrace.dataset_digest"] == "d" * 64
    [given] = sweep.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", "d" * 36)
    assert json.loads(given.dataset.source)["digest"] == "d" * 64
    assert json.loads(given.dataset.profile) == {"samples": 20, "test_samples": 4}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_pictures_lie_at_the_trial(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    import base64

    picture = base64.b64encode(
        strip_png(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.ones(2, 1, 4, 4) * 9)
    )
    writer.started(0, PARAMS)
    writer.reported(0, report(3, 0.25), picture.decode(), 1000)
    trial = runs(client, experiment)["trial 0000"]
    [found] = client.list_artifacts(trial.info.run_id, "reconstructions")
    assert found.path == "reconstructions/epoch-003.png"


def test_a_refit_is_found_again_once_it_has_finished(
    client: MlflowClient, experiment: str
) -> None:
    key = uuid.uuid4().hex
    writer = MlflowWriter(client, experiment, "ae", key)
    with pytest.raises(OSError), writer.refit_run({"lr": 0.003, "epochs": 4}) as run:
        raise OSError
    again = MlflowWriter(client, experiment, "ae", key)
    assert again.finished_refit is None
    # another attempt is a run of its own: its parameters may differ, and no point is there twice
    with again.refit_run({"lr": 0.003, "epochs": 3}) as second:
        client.set_tag(second, Tag.REFIT_DONE, "true")
    assert second != run and client.get_run(run).info.status == "FAILED"
    last = MlflowWriter(client, experiment, "ae", key)
    assert last.finished_refit == second
    last.apply([Closed(Outcome.COMPLETED, {}, "", 1)])  # which reads all runs of the sweep


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_refit_that_does_not_complete_ends_its_run(
    client: MlflowClient, experiment: str, error: type[BaseException], status: str
) -> None:
    writer = MlflowWriter(client, experiment, "ae", uuid.uuid4().hex)
    with pytest.raises(error), writer.refit_run({"epochs": 4}) as run:
        raise error
    assert client.get_run(run).info.status == status


def test_a_refit_whose_parameters_are_refused_ends_its_run(
    client: MlflowClient, experiment: str
) -> None:
    writer = MlflowWriter(client, experiment, "ae", uuid.uuid4().hex)
    with pytest.raises(MlflowException), writer.refit_run({"a=b": 1}):
        pass
    found = runs(client, experiment)
    assert [run.info.status for name, run in found.items() if name != "ae"] == ["FAILED"]


def test_what_mlflow_refuses_does_not_keep_the_rest_of_its_call_from_the_record(
    client: MlflowClient, experiment: str, writer: MlflowWriter
) -> None:
    good = {f"p{i}": i for i in range(20)}
    with pytest.raises(MlflowException, match="a=b"):
        writer.started(0, {**good, "a=b": 1, "long": "x" * 7000})
    bad = report(1, 0.5)
    bad.folds[0].metrics["val_(%)"] = 0.5  # type: ignore[index]
    with pytest.raises(MlflowException, match=r"val_\(%\)"):
        writer.reported(0, bad, None, 1000)
    found = runs(client, experiment)
    stored = found["trial 0000"].data.params
    assert {name: stored[name] for name in good} == {n: str(v) for n, v in good.items()}
    assert "a=b" not in stored
    assert found["trial 0000 fold 0"].data.metrics["val_loss"] == 0.5


def test_a_trial_that_was_trained_on_and_interrupted_is_still_one_of_those_at_the_end(
    client: MlflowClient, experiment: str
) -> None:
    writer = MlflowWriter(client, experiment, "sweep", "key-to-the-end")
    for number, losses in enumerate(([0.4, 0.2], [0.5], [0.3, 0.3])):
        writer.started(number, {"lr": 0.1})
        writer.reported(number, report(2, *losses), None, 1000)
    writer.finished(0, Outcome.COMPLETED)
    writer.finished(1, Outcome.PRUNED, reason="given up at epoch 2 of 1 fold")
    writer.finished(2, Outcome.FAILED, reason="diverged")
    again = MlflowWriter(client, experiment, "sweep", "key-to-the-end")
    assert again.completed_trials(2, 2) == [(0, pytest.approx(0.3), 4)]
    again.started(0, {"lr": 0.1})
    again.reported(0, report(3, 0.3, 0.1), None, 2000)
    again.close(Outcome.PRUNED, {}, "")
    assert MlflowWriter(client, experiment, "sweep", "key-to-the-end").completed_trials(2, 2) == [
        (0, pytest.approx(0.2), 6)
    ]
