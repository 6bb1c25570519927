"""The best trial as `--json` shows it."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from foldrace.cli.messages import print_json
from foldrace.search.sweeps.result import Best
from foldrace.trainables.tasks.objective import Objective


def best(*folds: dict[str, float]) -> Best:
    losses = [fold["val_loss"] for fold in folds]
    trial: Any = SimpleNamespace(
        number=3,
        params={"lr": 0.1},
        val_loss=sum(losses) / len(losses),
        standard_error=0.1,
        fold_losses=losses,
        best_epochs=[2] * len(folds),
        report=SimpleNamespace(folds=[SimpleNamespace(metrics=fold) for fold in folds]),
    )
    return Best.of(trial, Objective("accuracy", maximize=True))


def test_other_metrics_have_an_error_and_their_folds_too() -> None:
    found = best(
        {"val_loss": -0.9, "val_accuracy": 0.9, "val_f1": 0.8, "train_f1": 1.0, "val_odd": 1.0},
        {"val_loss": -0.7, "val_accuracy": 0.7, "val_f1": 0.6, "val_criterion": 3.0},
    ).to_json()
    assert found["score"] == {
        "mean": pytest.approx(0.8),
        "standard_error": 0.1,
        "folds": [0.9, 0.7],
    }
    assert set(found["metrics"]) == {"f1"} and "val_loss" not in found
    assert found["metrics"]["f1"]["mean"] == pytest.approx(0.7)
    assert found["metrics"]["f1"]["standard_error"] == pytest.approx(0.1)


def test_what_is_not_finite_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {"best": best({"val_loss": -0.9, "val_f1": math.nan}).to_json(), "more": (math.inf,)}
    )
    printed = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert printed["best"]["metrics"]["f1"]["folds"] == [None] and printed["more"] == [None]
