"""A small sweep from the command line to MLflow: one consistent record at three levels, and a
winner to take away."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from foldrace.cli.app import main
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.training.reports import mean_and_standard_error
from tests.helpers.sweeps import SMALL_DIGITS, Swept

PLAIN_PYTORCH = """
import sys
for name in ("trainables", "search", "analysis", "foldrace", "mlflow", "ray"):
    sys.modules[name] = None
import numpy as np
import torch
model = torch.export.load("checkpoint/model.pt2").module()
chosen = np.load("checkpoint/validation_indices.npy")
images = torch.from_numpy(np.load("pixels.npy")[chosen]).float() / 255
with torch.no_grad():
    print(float((model(images) - images).square().double().mean()))
weights = torch.load("checkpoint/state_dict.pt", weights_only=True)
print(len(weights), len(images))
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    assert "limit: 240" in SMALL_DIGITS
    return load_dataset(
        "digits", limit=240, seed=0, size=(12, 12), data_dir=tmp_path_factory.mktemp("data")
    )


def test_the_last_line_of_standard_output_is_the_result(quick: Swept) -> None:
    assert quick.status == 0, quick.err
    result = quick.result
    assert set(result) == {
        "sweep",
        "tracking_uri",
        "run_id",
        "trials",
        "best",
        "fold_epochs",
        "wall_seconds",
    }
    assert result["sweep"] == "quick"
    assert result["trials"] == {"completed": 4, "pruned": 0, "failed": 0}
    assert result["fold_epochs"] == 4 * 3 * 3
    assert 0 < result["wall_seconds"] < 200
    assert set(result["best"]) >= {"trial", "params", "val_loss"}
    assert set(result["best"]["val_loss"]) == {"mean", "standard_error", "folds"}
    assert len(quick.out.splitlines()) == 1  # all else goes to standard error
    assert "Traceback" not in quick.err and "Warning" not in quick.err, quick.err
    assert quick.err.count(" completed 0.") == 4
    assert "foldrace refit quick" in quick.err
    assert result["tracking_uri"] == f"sqlite:///{quick.root}/mlflow.db"


def test_the_record_has_three_levels_and_nothing_runs(quick: Swept) -> None:
    record = quick.record
    assert sorted(record.trials) == [0, 1, 2, 3]
    assert sorted(record.folds) == [(trial, fold) for trial in range(4) for fold in range(3)]
    assert len(record.runs) == 1 + 4 + 12
    assert {run.info.status for run in record.runs} == {"FINISHED"}
    assert record.sweep.info.run_id == quick.result["run_id"]
    for (trial, _), run in record.folds.items():
        assert run.data.tags["mlflow.parentRunId"] == record.trials[trial].info.run_id
    for run in record.trials.values():
        assert run.data.tags["mlflow.parentRunId"] == record.sweep.info.run_id


def test_the_result_is_what_mlflow_has_exactly(quick: Swept) -> None:
    record, best = quick.record, quick.result["best"]
    trial = record.trials[best["trial"]]
    assert trial.data.metrics["val_loss"] == best["val_loss"]["mean"]
    assert trial.data.metrics["val_loss_se"] == best["val_loss"]["standard_error"]
    folds = [record.folds[best["trial"], fold].data.metrics["val_loss"] for fold in range(3)]
    assert folds == best["val_loss"]["folds"]
    assert (
        best["val_loss"]["mean"],
        best["val_loss"]["standard_error"],
    ) == mean_and_standard_error(folds)
    assert {name: trial.data.params[name] for name in best["params"]} == {
        k: str(v) for k, v in best["params"].items()
    }
    assert best["val_loss"]["mean"] == min(
        run.data.metrics["val_loss"] for run in record.trials.values()
    )


def test_at_every_epoch_a_trials_loss_is_the_mean_of_its_folds_losses(quick: Swept) -> None:
    record = quick.record
    for number, trial in record.trials.items():
        folds = [record.folds[number, fold] for fold in range(3)]
        epochs = record.history(trial, "epoch")
        assert epochs == {3: 1, 6: 2, 9: 3}
        for metric in ("val_loss", "val_mse", "train_loss"):
            histories = [record.history(fold, metric) for fold in folds]
            assert [sorted(history) for history in histories] == [[1, 2, 3]] * 3
            means = record.history(trial, metric)
            for step, epoch in epochs.items():
                assert means[step] == math.fsum(history[int(epoch)] for history in histories) / 3


def test_the_sweep_run_says_what_ran_and_who_led(quick: Swept, tmp_path: Path) -> None:
    record = quick.record
    spec = record.artifacts(record.sweep, "sweep.yaml", tmp_path).read_text()
    assert spec == (quick.root / "quick" / "sweep.yaml").read_text() and "limit: 240" in spec
    found = json.loads(record.artifacts(record.sweep, "environment.json", tmp_path).read_text())
    assert (
        found["packages"]["torch"] == torch.__version__.partition("+")[0]
        or found["packages"]["torch"]
    )
    [given] = record.sweep.inputs.dataset_inputs
    assert given.dataset.name == "digits"
    assert record.sweep.data.tags["foldrace.dataset_digest"].startswith(given.dataset.digest)
    # two trials may end at the same fold-epochs of the sweep, each the best so far
    points = record.client.get_metric_history(record.sweep.info.run_id, "val_loss")
    led = sorted(
        ((point.step, point.value) for point in points), key=lambda point: (point[0], -point[1])
    )
    assert [value for _, value in led] == sorted({value for _, value in led}, reverse=True)
    assert led[-1][1] == quick.result["best"]["val_loss"]["mean"]
    assert led[-1][0] <= quick.result["fold_epochs"]
    assert record.sweep.data.metrics["best_trial"] == quick.result["best"]["trial"]
    assert "**quick**: 4 completed" in record.sweep.data.tags["mlflow.note.content"]


def test_status_agrees(quick: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--dir", str(quick.root), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["trials"]["completed"], shown["planned"]) == ("finished", 4, 4)
    best = quick.result["best"]
    assert shown["best"]["trial"] == best["trial"]
    assert shown["best"]["val_loss"]["mean"] == best["val_loss"]["mean"]


def test_the_winners_folds_are_repeated_by_plain_pytorch(
    quick: Swept, digits: Dataset, tmp_path: Path
) -> None:
    record = quick.record
    np.save(tmp_path / "pixels.npy", digits.images)
    fold = record.folds[quick.result["best"]["trial"], 1]
    record.artifacts(fold, "checkpoint", tmp_path)
    command = [sys.executable, "-I", "-W", "ignore", "-c", PLAIN_PYTORCH]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    score, counts = done.stdout.splitlines()
    assert float(score) == pytest.approx(fold.data.metrics["val_mse"], abs=1e-6)
    assert counts.split()[1] == "80"
    about = json.loads((tmp_path / "checkpoint" / "fold.json").read_text())
    assert (about["fold"], about["metrics"]["val_mse"]) == (1, fold.data.metrics["val_mse"])


def test_only_the_winner_leaves_checkpoints_in_mlflow(quick: Swept) -> None:
    record = quick.record
    for (trial, _), run in record.folds.items():
        names = [file.path for file in record.client.list_artifacts(run.info.run_id)]
        assert names == (["checkpoint"] if trial == quick.result["best"]["trial"] else [])


# --- refit ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refitted(quick: Swept) -> Iterator[dict[str, Any]]:
    """The answer of the first refit; ``environment`` holds the variables that it left changed."""
    out, err = io.StringIO(), io.StringIO()
    before = dict(os.environ)
    with redirect_stdout(out), redirect_stderr(err):
        status = main(
            ["refit", "--dir", str(quick.root), "--data-dir", str(quick.root / "data"), "--json"]
        )
    changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert status == 0, err.getvalue()
    try:
        mlflow.set_tracking_uri(quick.result["tracking_uri"])
        mlflow.set_registry_uri(quick.result["tracking_uri"])
        yield json.loads(out.getvalue().splitlines()[-1]) | {"environment": changed}
    finally:  # later sweeps must not find this store
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.pop("MLFLOW_REGISTRY_URI", None)


def test_a_refit_does_not_redirect_later_sweeps_of_the_process(refitted: dict[str, Any]) -> None:
    """MLflow keeps the store it is told in the environment, and a sweep looks there first."""
    assert "MLFLOW_TRACKING_URI" not in refitted["environment"]


def test_the_champion_loads_by_its_name_and_repeats_the_test_score(
    quick: Swept, refitted: dict[str, Any], digits: Dataset
) -> None:
    assert refitted["model_uri"] == "models:/quick@champion"
    model = mlflow.pytorch.load_model(refitted["model_uri"])
    images = torch.from_numpy(digits.test_images).float() / 255
    with torch.inference_mode():
        error = float((model(images) - images).square().double().mean())
    client = quick.record.client
    run = client.get_run(refitted["run_id"])
    assert run.info.status == "FINISHED"
    assert (
        run.data.metrics["test_mse"] == refitted["test"]["mse"] == pytest.approx(error, abs=1e-6)
    )
    assert run.data.tags["mlflow.parentRunId"] == quick.result["run_id"]
    assert refitted["test_samples"] == len(images) and refitted["samples"] == 240
    assert client.get_model_version_by_alias("quick", "champion").run_id == refitted["run_id"]


def test_the_champion_has_a_signature_and_no_pickle(
    refitted: dict[str, Any], tmp_path: Path
) -> None:
    info = mlflow.models.get_model_info(refitted["model_uri"])
    assert info.signature is not None
    assert [tuple(spec.shape) for spec in info.signature.inputs.inputs] == [(-1, 1, 12, 12)]
    folder = Path(
        mlflow.artifacts.download_artifacts(refitted["model_uri"], dst_path=str(tmp_path))
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".pt2" for path in files), files
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".pth", ".bin"}]
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]  # how a pickle begins


def test_resuming_a_sweep_that_has_ended_refits_it_if_asked(
    quick: Swept, refitted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--dir", str(quick.root), "--data-dir", str(quick.root / "data")]
    assert main(["resume", "quick", "--refit", "--json", *places]) == 0
    shown = capsys.readouterr()
    assert "quick has ended; there is nothing to resume." in shown.err
    assert json.loads(shown.out.splitlines()[-1])["refit"]["test"] == refitted["test"]


def test_a_second_refit_returns_the_first_and_leaves_the_test_set_alone(
    quick: Swept,
    refitted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def untouched(*args: object, **options: object) -> None:
        raise AssertionError("the data set is loaded again")

    monkeypatch.setattr("foldrace.search.preparing.recorded.prepare", untouched)
    assert main(["refit", "quick", "--dir", str(quick.root), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again | {"environment": refitted["environment"]} == refitted | {"repeated": True}
    assert len(quick.record.client.search_model_versions("name = 'quick'")) == 1
