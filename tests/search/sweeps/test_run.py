"""The steps of a run: what is recorded and kept when it ends, is interrupted, or fails. No Ray."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.recording.tracking import connect, tracking_uri
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.sweeps import run as runs
from foldrace.search.sweeps.begin import NewSweep
from foldrace.search.sweeps.run import SweepRun
from foldrace.search.tune.callback import RunningSweep
from foldrace.search.tune.interrupts import Interrupt
from tests.helpers.sweeps import QUICK, SMALL_DIGITS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def prepared(root: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr(runs, "ray_session", lambda *_: nullcontext())
    monkeypatch.setattr(runs, "machines", lambda: [{"CPU": 2.0, "GPU": 0.0}])
    return prepare(load_spec(QUICK, [SMALL_DIGITS, "search.trials=2"]), root / "data")


def execute(prepared: Prepared, root: Path, trials: Callable[[], None]) -> SweepFolder:
    """Runs a sweep whose trials are ``trials``; returns its folder."""

    class Run(SweepRun):
        def run(self, sweep: RunningSweep, interrupt: Interrupt) -> dict[int, Path]:
            trials()
            return {}

    source = NewSweep(prepared, root, tracking_uri(root))
    run = Run(prepared, source, lambda: nullcontext(SimpleNamespace()), None)  # type: ignore[arg-type]
    with suppress(ZeroDivisionError):
        run.execute()
    return run.folder


def status(folder: SweepFolder) -> str:
    state = folder.read_state()
    name = f"tags.`mlflow.runName` = '{folder.name}'"
    [run] = connect(state.tracking_uri).search_runs([state.experiment_id], name)
    return str(run.info.status)


def test_a_run_that_ends_keeps_its_result(prepared: Prepared, root: Path) -> None:
    folder = execute(prepared, root, lambda: None)
    assert status(folder) == "FINISHED"
    assert folder.read_result()["trials"] == {"completed": 0, "pruned": 0, "failed": 0}


def test_a_run_that_is_interrupted_has_no_result_yet(prepared: Prepared, root: Path) -> None:
    folder = execute(prepared, root, lambda: signal.raise_signal(signal.SIGINT))
    assert status(folder) == "KILLED"
    assert not folder.result.exists() and folder.read_state().seconds > 0


def test_a_run_that_raises_is_recorded_as_failed(prepared: Prepared, root: Path) -> None:
    folder = execute(prepared, root, lambda: print(1 / 0))
    assert status(folder) == "FAILED"
    assert not folder.result.exists()
