"""Trials that diverge, raise or stop early, with a task of the user's own: each is told apart, the
sweep goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.sweeps import SMALL_DIGITS, Swept, run_here

MY_MODELS = '''
import torch
from torch import nn


class LinearAE:
    """A linear autoencoder; ``trap`` makes a trial go wrong in one way or another."""

    parameters = {"units": 4, "trap": "none"}

    def build(self, params, sample_shape):
        c, h, w = sample_shape
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(c * h * w, params["units"]),
            nn.Linear(params["units"], c * h * w),
            nn.Unflatten(1, sample_shape),
        )
        model.validations = 0
        return model

    def losses(self, model, images, params):
        error = (model(images) - images).square().flatten(1).mean(1)
        if not model.training:
            model.validations += 1
            if params["trap"] == "worsen":
                error = error + model.validations
        elif params["trap"] == "raise" and model.validations:
            raise RuntimeError("bad luck in the second epoch")
        return {"loss": error, "mse": error.detach()}
'''
MINE = """
name: mine
task: ./my_models.py:LinearAE
dataset: {name: digits, limit: 240, seed: 0, size: [12, 12]}
epochs: 3
early_stopping: {patience: 0}
space:
  units: {choice: [4, 6]}
  lr: 0.003
  batch_size: 64
  trap: {choice: [none, worsen, raise]}
search:
  sampler: random
  trials: 3
  start_with: [{units: 6, trap: raise}, {units: 4, trap: none}, {units: 4, trap: worsen}]
scheduler: {kind: fifo}
"""
DIVERGING = """
dataset: digits
epochs: 2
divergence: {patience: 1}
space:
  lr: {choice: [3.0e-3, 1.0e+3]}
  batch_size: 32
search: {sampler: random, trials: 2, start_with: [{lr: 1.0e+3}, {lr: 3.0e-3}]}
scheduler: {kind: fifo}
"""


@pytest.fixture(scope="module")
def mine(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The task's file lies beside the sweep's, and neither is in the current folder."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_models.py").write_text(MY_MODELS)
    (folder / "sweep.yaml").write_text(MINE)
    return run_here(folder / "sweep.yaml", folder, [], cluster.address)


@pytest.fixture(scope="module")
def diverging(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("diverging")
    (folder / "sweep.yaml").write_text(DIVERGING)
    return run_here(folder / "sweep.yaml", folder, [SMALL_DIGITS], cluster.address)


# --- a task of the user's ------------------------------------------------------------------------


def test_a_failed_trial_makes_status_3_and_the_others_finish(mine: Swept) -> None:
    assert mine.status == 3, mine.err
    assert mine.result["trials"] == {"completed": 2, "pruned": 0, "failed": 1}
    assert mine.result["best"]["trial"] == 1
    assert mine.result["best"]["params"] == {
        "units": 4,
        "lr": 0.003,
        "batch_size": 64,
        "trap": "none",
    }
    assert [mine.record.trials[n].info.status for n in range(3)] == [
        "FAILED",
        "FINISHED",
        "FINISHED",
    ]
    assert not [run for run in mine.record.runs if run.info.status == "RUNNING"]
    assert mine.record.sweep.info.status == "FINISHED"


def test_an_error_in_the_users_code_is_named_and_its_traceback_kept(
    mine: Swept, tmp_path: Path
) -> None:
    failed = mine.record.trials[0]
    assert failed.data.tags["foldrace.failure"] == "RuntimeError: bad luck in the second epoch"
    assert (
        "trial 0 failed" in mine.err and "RuntimeError: bad luck in the second epoch" in mine.err
    )
    text = mine.record.artifacts(failed, "error.txt", tmp_path).read_text()
    assert (
        "my_models.py" in text and "in losses" in text and "bad luck in the second epoch" in text
    )
    assert mine.record.history(failed, "epoch") == {3: 1}
    assert {mine.record.folds[0, fold].info.status for fold in range(3)} == {"FAILED"}


def test_a_fold_that_ceases_to_improve_stops_and_keeps_its_best_epoch(mine: Swept) -> None:
    record = mine.record
    for fold in range(3):
        stopped = record.folds[2, fold]
        tags = stopped.data.tags
        assert (tags["foldrace.epochs"], tags["foldrace.stopped_early"]) == ("2", "True")
        assert stopped.data.metrics["best_epoch"] == 1
        kept, seen = record.history(stopped, "val_loss"), record.history(stopped, "epoch_val_loss")
        assert kept[2] == kept[1] == seen[1] < seen[2]
        tags = record.folds[1, fold].data.tags
        assert (tags["foldrace.epochs"], tags["foldrace.stopped_early"]) == ("3", "False")
    assert record.history(record.trials[2], "epoch") == {3: 1, 6: 2}
    assert mine.result["fold_epochs"] == 3 + 9 + 6


def test_the_users_model_leaves_a_checkpoint(mine: Swept) -> None:
    files = mine.record.client.list_artifacts(mine.record.folds[1, 0].info.run_id, "checkpoint")
    names = {Path(file.path).name for file in files}
    assert names >= {"model.pt2", "state_dict.pt", "validation_indices.npy", "fold.json"}


# --- divergence ----------------------------------------------------------------------------------


def test_a_trial_that_diverges_fails_by_that_name_and_the_sweep_goes_on(diverging: Swept) -> None:
    assert diverging.status == 3, diverging.err
    assert diverging.result["trials"] == {"completed": 1, "pruned": 0, "failed": 1}
    assert diverging.result["best"]["trial"] == 1
    assert diverging.result["best"]["params"]["lr"] == 3e-3
    failed = diverging.record.trials[0]
    assert failed.data.params["lr"] == "1000.0"
    assert failed.info.status == "FAILED"
    assert failed.data.tags["foldrace.failure"].startswith("diverged: fold ")
    assert diverging.record.trials[1].info.status == "FINISHED"
    assert "trial 0 failed (diverged: fold " in diverging.err
    assert not [run for run in diverging.record.runs if run.info.status == "RUNNING"]
