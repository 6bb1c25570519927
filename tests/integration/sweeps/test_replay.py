"""A recorded trial that is trained again has the same numbers, and one that was tampered with has
not."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from foldrace.cli.app import main
from tests.helpers.sweeps import QUICK, RACE, Swept, run_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A race of a good, a hopeless and two random configurations."""
    return run_here(QUICK, tmp_path_factory.mktemp("replayed"), RACE, cluster.address)


def replay(root: Path, trial: int, *options: str) -> int:
    return main(
        [
            "replay",
            "quick",
            str(trial),
            "--dir",
            str(root),
            "--data-dir",
            str(root / "data"),
            *options,
        ]
    )


def test_every_trial_comes_out_again(swept: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = set()
    for number, run in swept.record.trials.items():
        assert replay(swept.root, number, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        folds = [fold for (trial, _), fold in swept.record.folds.items() if trial == number]
        points = sum(
            len(swept.record.history(fold, metric))
            for fold in folds
            for metric in fold.data.metrics
        )
        assert found["identical"] and found["compared"] == points > 0
        assert found["differences"] == [] and found["versions"] == {}
        statuses.add(run.info.status)
    assert "FINISHED" in statuses


def test_a_number_that_was_changed_is_named(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    run = swept.record.folds[0, 0].info.run_id
    with closing(sqlite3.connect(swept.root / "mlflow.db")) as base:
        where = (run, "val_loss", 2)
        [(value,)] = base.execute(
            "SELECT value FROM metrics WHERE run_uuid = ? AND key = ? AND step = ?", where
        )
        change = "UPDATE metrics SET value = ? WHERE run_uuid = ? AND key = ? AND step = ?"
        base.execute(change, (value * (1 + 1e-15), *where))
        base.commit()
        assert replay(swept.root, 0) == 1
        base.execute(change, (value, *where))
        base.commit()
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of" in said and "fold 0, epoch 2: val_loss was" in said
    assert replay(swept.root, 0) == 0


def test_a_trial_that_was_trained_on_another_device_says_so(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = swept.record.trials[0].info.run_id
    swept.record.client.set_tag(trial, "foldrace.device", "NVIDIA H100")
    assert replay(swept.root, 0, "--json") == 0
    assert json.loads(capsys.readouterr().out)["versions"] == {"device": ["NVIDIA H100", "cpu"]}
    swept.record.client.delete_tag(trial, "foldrace.device")


def test_a_trial_that_is_not_there_is_refused(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(swept.root, 99) == 2
    assert "quick: no trial 99 is recorded" in " ".join(capsys.readouterr().err.split())
