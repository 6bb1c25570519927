"""Curves as a file, and out of MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run

from foldrace.analysis.records.curves import curves_of, export_curves
from foldrace.analysis.records.recorded_curves import Curves, read_curves
from foldrace.cli.app import main
from foldrace.errors import InputError, StateError
from foldrace.search.recording.folder import SweepState, create_sweep_folder
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.training.reports import EpochReport, FoldReport
from tests.helpers.recorded_sweeps import SPEC
from tests.helpers.stores import new_store
from tests.search.recording.test_writer import dataset

EPOCHS, FOLDS = 3, 2
GOOD = [[0.5, 0.6], [0.3, 0.4], [0.2, 0.25]]  # by epoch, then fold


class Sweeps:
    """Sweeps as the recorder leaves them, each trial's losses given by epoch and fold."""

    def __init__(self, root: Path) -> None:
        self.root, self.client = root, new_store(root)
        self.uri = str(self.client.tracking_uri)
        self._experiment = self.client.create_experiment(
            "all", artifact_location=(root / "artifacts").as_uri()
        )

    def record(
        self,
        name: str,
        trials: Sequence[tuple[Outcome, Sequence[Sequence[float]]]],
        outcome: Outcome | None = Outcome.COMPLETED,
        timed: bool = True,
    ) -> Run:
        folder = create_sweep_folder(self.root, name)
        spec = parse_spec(SPEC | {"name": name, "epochs": EPOCHS}, self.root).to_yaml()
        folder.spec.write_text(spec)
        folder.write_state(
            SweepState(key=name, tracking_uri=self.uri, experiment_id=self._experiment)
        )
        recorder = MlflowWriter(self.client, self._experiment, name, key=name)
        recorder.start_sweep(spec, {}, dataset(), "autoencoder")
        for number, (ending, losses) in enumerate(trials):
            recorder.started(
                number, {"optimizer": "adam", "lr": 0.5 / (number + 1), "latent_dim": 16}
            )
            folds: tuple[FoldReport, ...] = ()
            for epoch, row in enumerate(losses, 1):
                folds = tuple(
                    FoldReport(
                        k,
                        epoch,
                        1,
                        math.isinf(loss),
                        "nan" if math.isinf(loss) else None,
                        {"val_loss": loss},
                    )
                    for k, loss in enumerate(row)
                )
                seconds = (number + 1.0) * epoch**2 if timed else math.nan
                report = EpochReport(epoch, folds, epoch * len(row), seconds, False, trained=folds)
                recorder.reported(number, report, None, 1000 * epoch)
            recorder.finished(number, ending, folds, "" if ending is Outcome.COMPLETED else "why")
        if outcome is not None:
            recorder.close(outcome, {}, "")
        return self.client.get_run(recorder.sweep_run)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    return Sweeps(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FOLDRACE_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


DONE, FAILED, PRUNED = Outcome.COMPLETED, Outcome.FAILED, Outcome.PRUNED
BETTER = [[loss / 2 for loss in row] for row in GOOD]
BROKEN = [[0.9, 0.8], [0.7, math.inf]]


def test_a_sweep_becomes_a_table_of_its_trials_in_order_and_a_failed_one_keeps_what_it_has(
    sweeps: Sweeps,
) -> None:
    run = sweeps.record("whole", [(DONE, GOOD), (FAILED, BROKEN), (DONE, BETTER), (FAILED, [])])
    curves = curves_of(sweeps.client, run)
    assert curves.shape == (4, FOLDS, EPOCHS)
    np.testing.assert_allclose(curves.loss[0], np.transpose(GOOD))
    np.testing.assert_allclose(curves.loss[2], np.transpose(BETTER))
    np.testing.assert_allclose(curves.loss[1], [[0.9, 0.7, np.nan], [0.8, np.nan, np.nan]])
    assert np.isnan(curves.loss[3]).all()
    assert [one["lr"] for one in curves.configurations] == [0.5, 0.25, 0.5 / 3, 0.125]
    assert curves.configurations[0]["latent_dim"] == 16
    assert list(curves.ranking[:2]) == [2, 0] and np.isinf(curves.final[[1, 3]]).all()
    assert str(curves) == "4 configurations × 2 folds × 3 epochs, 2 of them incomplete"


def test_seconds_are_shared_out_between_two_reports(sweeps: Sweeps) -> None:
    run = sweeps.record("timed", [(DONE, GOOD), (DONE, BETTER), (FAILED, BROKEN[:1])])
    seconds = curves_of(sweeps.client, run).seconds  # (number + 1) · epoch² so far, two folds
    np.testing.assert_allclose(seconds[0], [[0.5, 1.5, 2.5]] * 2)
    np.testing.assert_allclose(seconds[1], [[1.0, 3.0, 5.0]] * 2)
    known = [0.5, 1.5, 2.5, 1.0, 3.0, 5.0, 1.5]
    np.testing.assert_allclose(seconds[2], [[1.5, np.median(known), np.median(known)]] * 2)


def test_where_no_time_is_known_an_epoch_takes_one_second(sweeps: Sweeps) -> None:
    run = sweeps.record("untimed", [(DONE, GOOD), (DONE, BETTER)], timed=False)
    assert (curves_of(sweeps.client, run).seconds == 1.0).all()


@pytest.mark.parametrize(
    ("name", "trials", "outcome", "message"),
    [
        ("running", [(DONE, GOOD)] * 3, None, "the sweep has not ended"),
        ("stopped", [(DONE, GOOD)] * 3, PRUNED, "the sweep was interrupted"),
        ("empty", [], DONE, "0 of 0 trials completed"),
        ("single", [(DONE, GOOD), (FAILED, BROKEN)], DONE, "1 of 2 trials completed"),
        (
            "pruned",
            [(DONE, GOOD), (PRUNED, GOOD[:1]), (PRUNED, GOOD[:2])],
            DONE,
            "2 of 3 trials were pruned.*scheduler.kind: fifo",
        ),
        (
            "early",
            [(DONE, GOOD), (DONE, GOOD[:2])],
            DONE,
            "folds of 1 of 2 trials stopped.*without early_stopping",
        ),
        (
            "all-early",
            [(DONE, GOOD[:2])] * 2,
            DONE,
            "folds of 2 of 2 trials stopped before epoch 3",
        ),
    ],
)
def test_a_sweep_without_whole_curves_is_refused(
    sweeps: Sweeps, name: str, trials: Any, outcome: Outcome | None, message: str
) -> None:
    run = sweeps.record(name, trials, outcome)
    with pytest.raises(StateError, match=message):
        curves_of(sweeps.client, run)


def test_the_command_writes_a_file_that_is_read_again(
    sweeps: Sweeps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps.record("command", [(DONE, GOOD), (DONE, BETTER), (FAILED, BROKEN)])
    file = tmp_path / "curves.npz"
    assert main(["curves", "command", "-o", str(file), "--dir", str(sweeps.root)]) == 0
    assert "3 configurations × 2 folds × 3 epochs" in capsys.readouterr().out
    curves = read_curves(file)
    np.testing.assert_allclose(curves.loss[0], np.transpose(GOOD), rtol=1e-6)
    assert curves.configurations[1]["lr"] == 0.25
    by_server = export_curves(tmp_path, "command", tmp_path / "again.npz", uri=sweeps.uri)
    np.testing.assert_allclose(by_server.final, curves.final, rtol=1e-6)
    assert main(["curves", "comand", "-o", str(file), "--dir", str(sweeps.root)]) == 2
    assert "comand: no such sweep" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_the_sweep_is_read(tmp_path: Path) -> None:
    (tmp_path / "taken.npz").mkdir()
    for name, rule in (
        ("curves.txt", "must end with .npz"),
        ("no/c.npz", "does not exist"),
        ("taken.npz", "a folder"),
    ):
        with pytest.raises(InputError, match=rule):
            export_curves(tmp_path, None, tmp_path / name)


LOSS = np.linspace(1.0, 0.1, 4 * 2 * 3).reshape(4, 2, 3)


def test_a_file_round_trip(tmp_path: Path) -> None:
    Curves(LOSS, 2 * LOSS, [{"lr": 0.1}] * 4).save(tmp_path / "c.npz")
    curves = read_curves(tmp_path / "c.npz")
    np.testing.assert_allclose(curves.loss, LOSS, rtol=1e-6)
    np.testing.assert_allclose(curves.seconds, 2 * LOSS, rtol=1e-6)
    assert list(curves.configurations) == [{"lr": 0.1}] * 4


def test_secs_and_cfgs_may_be_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", loss=LOSS)
    curves = read_curves(tmp_path / "c.npz")
    assert (curves.seconds == 1).all() and curves.configurations == ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"losses": LOSS}, "has no array `loss`"),
        ({"loss": LOSS[0]}, "CURVES: loss: 2×3: must be numbers of shape"),
        ({"loss": LOSS[:, :0]}, "CURVES: loss: 4×0×3: must be"),
        ({"loss": LOSS.astype(str)}, "must be numbers"),
        ({"loss": LOSS[:1]}, "loss: 1 configuration: must have at least two"),
        ({"loss": LOSS * np.nan}, "has no configuration with finite losses"),
        (
            {"loss": LOSS, "secs": LOSS[:, :, :2]},
            r"secs: \(4, 2, 2\): must be numbers of the shape of loss",
        ),
        ({"loss": LOSS, "secs": -LOSS}, "secs: -1: must not be negative"),
        ({"loss": LOSS, "cfgs": np.array("[{")}, "cfgs in .* is not JSON"),
        ({"loss": np.array([[[None]]], dtype=object)}, "is not a readable .npz of curves"),
    ],
)
def test_wrong_curves_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_curves(tmp_path / "c.npz")
    assert main(["simulate", str(tmp_path / "c.npz"), "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    for name, content in (("text", b"loss"), ("nothing", b""), ("half", b"PK\x03\x04 not all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            InputError, match=r"is not a readable \.npz of curves: it is of another kind"
        ):
            read_curves(tmp_path / name)
    np.save(tmp_path / "one.npy", LOSS)
    (tmp_path / "json").write_text(json.dumps(LOSS.tolist()))
    for name in ("one.npy", "json", "missing.npz", "."):
        with pytest.raises(InputError, match=r"is not a readable \.npz of curves"):
            read_curves(tmp_path / name)
