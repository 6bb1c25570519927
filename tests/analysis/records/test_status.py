"""`foldrace status` reads from MLflow what the recorder has written."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from foldrace.analysis.records.status import read_status
from foldrace.cli.tables import status_table
from foldrace.errors import StateError
from foldrace.search.recording.folder import SweepState, create_sweep_folder, find_sweep
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.tracking import connect, tracking_uri
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import parse_spec
from tests.helpers.stores import new_store
from tests.search.recording.test_writer import dataset, report

SPEC = {
    "name": "ae",
    "dataset": "digits",
    "space": {
        "lr": {"log": [1e-4, 1.0]},
        "optimizer": {"choice": ["adam", "sgd"]},
        "latent_dim": 16,
    },
    "search": {"trials": 9},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sweeps: ``first`` finished with every kind of trial, ``second`` interrupted, ``gone``
    killed, ``ae`` running and new."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client = connect(tracking_uri(root))
    experiment = client.create_experiment("ae", artifact_location=(root / "artifacts").as_uri())
    spec = parse_spec(SPEC, root).to_yaml()
    sweeps = {}
    for at, name in enumerate(("first", "second", "gone", "ae")):
        folder = create_sweep_folder(root, name)
        folder.spec.write_text(spec)
        os.utime(folder.spec, (at, at))
        folder.write_state(
            SweepState(key=name, tracking_uri=tracking_uri(root), experiment_id=experiment)
        )
        sweeps[name] = MlflowWriter(client, experiment, name, key=name)
        sweeps[name].start_sweep(spec, {}, dataset(), "autoencoder")
    first = sweeps["first"]
    ends = [
        Outcome.COMPLETED,
        Outcome.PRUNED,
        Outcome.FAILED,
        Outcome.COMPLETED,
        Outcome.COMPLETED,
    ]
    for number, outcome in enumerate(ends):
        first.started(number, {"lr": 0.1 / (number + 1), "optimizer": "adam", "latent_dim": 16})
        last = report(2, 0.4 - 0.1 * number, 0.5 - 0.1 * number)
        first.reported(number, last, None, 1000)
        why = "" if outcome is Outcome.COMPLETED else f"why {number}"
        traceback = "Traceback: …" if outcome is Outcome.FAILED else ""
        first.finished(number, outcome, last.folds, why, traceback)
    first.close(Outcome.COMPLETED, {}, "")
    sweeps["second"].started(0, {"lr": 0.1, "optimizer": "adam"})
    sweeps["second"].close(Outcome.PRUNED, {}, "")
    sweeps["gone"].started(0, {"lr": 0.1, "optimizer": "adam"})
    return root


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_trials_are_counted_by_how_they_ended(root: Path) -> None:
    status = read_status(root, "first")
    assert (status.sweep, status.state, status.planned) == ("first", "finished", 9)
    shown = {state: count for state, count in status.counts.items() if count}
    assert shown == {"completed": 3, "pruned": 1, "failed": 1}
    assert status.summary().startswith("first: finished; 5 of 9 trials: ")
    reasons = status.trials.set_index("trial")["reason"]
    assert reasons.to_dict() == {0: "", 1: "why 1", 2: "why 2", 3: "", 4: ""}


def test_only_completed_trials_are_ranked(root: Path) -> None:
    status = read_status(root, "first")
    assert list(status.ranking["trial"]) == [4, 3, 0]
    best = status.to_json()["best"]
    assert best["trial"] == 4
    assert best["val_loss"] == {"mean": pytest.approx(0.05), "standard_error": pytest.approx(0.05)}


def test_the_table_fits_80_columns_with_whole_scores_and_the_parameters_that_vary(
    root: Path,
) -> None:
    file = StringIO()
    Console(file=file, width=80).print(status_table(read_status(root, "first")))
    text = file.getvalue()
    assert "0.05000 ± 0.05000" in text and "…" not in text
    assert "lr=0.02" in text and "optimizer=adam" in text and "latent_dim" not in text


def test_the_latest_sweep_is_shown_if_none_is_named_and_may_have_no_trial_yet(root: Path) -> None:
    status = read_status(root, None)
    assert (status.sweep, status.state, len(status.trials)) == ("ae", "running", 0)
    assert status.to_json()["best"] is None
    assert sum(status.counts.values()) == 0
    assert math.isfinite(status.seconds) and status.seconds >= 0
    assert status_table(status).row_count == 0


def test_an_interrupted_sweep_says_so(root: Path) -> None:
    status = read_status(root, "second")
    assert status.state == "interrupted"
    assert list(status.trials["status"]) == ["interrupted"]


def test_a_sweep_whose_process_is_gone_without_a_word_is_not_called_running(root: Path) -> None:
    folder = find_sweep(root, "ae")
    with folder.locked():
        driven = read_status(root, "ae")
    gone = read_status(root, "ae")
    assert (driven.state, driven.remedy, gone.state) == ("running", "", "interrupted")
    assert (
        "ae: interrupted (its process has ended; `foldrace resume ae` resumes it); "
        in gone.summary()
    )
    assert read_status(root, "first").state == "finished"
    with folder.locked():  # looking at it has left nothing held
        folder.result.write_text("{}")
    assert "`foldrace sync ae` delivers what waits" in read_status(root, "ae").summary()
    folder.result.unlink()


def test_an_unknown_name_and_an_empty_folder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"frist: no such sweep in .*did you mean 'first'\?"):
        read_status(root, "frist")
    with pytest.raises(StateError, match=r"no sweep here; start one with `foldrace sweep`.*--dir"):
        read_status(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_found_where_its_folder_says_whatever_the_environment_says(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert read_status(root, "first").counts["completed"] == 3


def test_without_a_folder_the_server_in_the_environment_is_asked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    assert read_status(tmp_path, "first").counts["completed"] == 3
    with pytest.raises(StateError, match="is named nothing"):
        read_status(tmp_path, "nothing")


def test_failed_trials_are_counted_and_their_tracebacks_are_named(root: Path) -> None:
    status = read_status(root, "first")
    line, place = status.failures()
    assert line == "trial 2 failed: why 2"
    assert Path(place.strip()).read_text() == "Traceback: …"
    many = pd.concat([status.trials.assign(status="failed")] * 2)
    assert replace(status, trials=many).failures()[-1].startswith("and 7 more failed; ")


def test_the_scores_of_open_trials_are_shown_below_those_of_the_completed(root: Path) -> None:
    status = read_status(root, "first")
    still_open = status.trials["trial"].isin([1, 4])
    trials = status.trials.assign(
        status=status.trials["status"].mask(still_open, "running"),
        folds=status.trials["folds"].mask(status.trials["trial"] == 4, 1),
    )
    file = StringIO()
    Console(file=file, width=80).print(status_table(replace(status, trials=trials)))
    lines = [line.split("│")[1:5] for line in file.getvalue().splitlines()]
    rows = [[cell.strip() for cell in line] for line in lines]
    shown = [row for row in rows if row and row[0] in ("1", "2", "·")]
    assert [row[:2] for row in shown] == [["1", "3"], ["2", "0"], ["·", "1"], ["·", "4"]]
    assert [row[3] for row in shown[1:]] == [
        "completed",
        "2/3 folds, 2/9 epochs",
        "1/3 folds, 2/9 epochs",
    ]


def test_no_trial_of_a_sweep_whose_process_is_gone_is_called_running(root: Path) -> None:
    with find_sweep(root, "gone").locked():
        assert read_status(root, "gone").counts["running"] == 1
    counts = read_status(root, "gone").counts
    assert (counts["running"], counts["interrupted"]) == (0, 1)


def test_a_sweep_of_which_nothing_is_recorded_yet_is_said_to_be_that(tmp_path: Path) -> None:
    """As after Ctrl-C between its folder and its first trial."""
    client = new_store(tmp_path)
    folder = create_sweep_folder(tmp_path, "early")
    folder.spec.write_text("dataset: digits\n")
    folder.write_state(SweepState("key", str(client.tracking_uri), "0"))
    with pytest.raises(StateError, match=r"early: nothing is recorded .* foldrace resume early"):
        read_status(tmp_path, "early")
