"""Survivors that are trained on have the numbers of a sweep that was longer from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foldrace.cli.app import main
from foldrace.search.recording.tracking import connect
from tests.helpers.sweeps import QUICK, SMALL_DIGITS, Record, Swept, run_here

pytestmark = pytest.mark.slow

SWEEP = [
    SMALL_DIGITS,
    "epochs=3",
    "space.lr={log: [1e-4, 2e-2]}",
    "search={sampler: random, trials: 8, seed: 1}",
    "scheduler={kind: promotion}",
]


@pytest.fixture(scope="module")
def extended(
    cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Swept, dict[str, Any], Record]:
    """A race of three epochs; its result after `foldrace extend --epochs 5`, and the record
    then."""
    root = tmp_path_factory.mktemp("extended")
    swept = run_here(QUICK, root, SWEEP, cluster.address)
    assert swept.record.runs and swept.record.numbers  # read now: the store changes under it
    places = ["--dir", str(root), "--data-dir", str(root / "data")]
    assert main(["extend", "--epochs", "5", "--address", cluster.address, *places]) == 0
    import json

    result = json.loads((root / "quick" / "result.json").read_text())
    return swept, result, Record(connect(f"sqlite:///{root}/mlflow.db"))


def test_every_survivor_has_all_the_epochs_and_nothing_else_has_changed(
    extended: tuple[Swept, dict[str, Any], Record],
) -> None:
    swept, result, record = extended
    survivors = {n for n, run in swept.record.trials.items() if run.info.status == "FINISHED"}
    assert 1 <= len(survivors) < 8
    assert result["trials"] == swept.result["trials"]
    assert result["best"]["trial"] in survivors and result["best"]["best_epochs"] == [5, 5, 5]
    assert result["fold_epochs"] == swept.result["fold_epochs"] + len(survivors) * 3 * 2
    before = swept.record.numbers
    assert {key: record.numbers[key] for key in before} == before
    for number, run in record.trials.items():
        assert run.info.status == ("FINISHED" if number in survivors else "KILLED")
        assert max(record.history(run, "epoch")) == (
            15
            if number in survivors
            else swept.record.numbers
            and max(swept.record.history(swept.record.trials[number], "epoch"))
        )


def test_the_numbers_are_those_of_a_sweep_that_was_longer_from_the_start(
    extended: tuple[Swept, dict[str, Any], Record], cluster: Any, tmp_path: Path
) -> None:
    _, result, record = extended
    longer = ["epochs=5", "scheduler={kind: fifo}"]
    whole = run_here(QUICK, tmp_path, [*SWEEP, *longer], cluster.address)
    assert whole.record.params == record.params
    folds = {key: value for key, value in record.numbers.items() if "fold" in str(key[0])}
    assert folds == {key: whole.record.numbers[key] for key in folds}
    best = whole.record.trials[result["best"]["trial"]]
    assert result["best"]["val_loss"]["mean"] == best.data.metrics["val_loss"]


def test_the_extended_sweep_is_refitted_for_its_new_epochs_and_then_left_alone(
    extended: tuple[Swept, dict[str, Any], Record], capsys: pytest.CaptureFixture[str]
) -> None:
    root = extended[0].root
    places = ["--dir", str(root), "--data-dir", str(root / "data")]
    assert main(["extend", "--epochs", "5", *places]) == 2
    assert "--epochs: 5: must be more than the 5 that the sweep had" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["refit", *places]) == 0
    assert "5 epochs" in capsys.readouterr().out
    assert main(["extend", "--epochs", "7", *places]) == 2
    assert "its best trial has been tested" in " ".join(capsys.readouterr().err.split())
