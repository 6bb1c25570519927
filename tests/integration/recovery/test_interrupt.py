"""Ctrl-C: completed work is kept, nothing is left running."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from tests.helpers.sweeps import Swept


def test_it_ends_with_130_and_says_that_all_is_kept_and_how_to_go_on(
    interrupted: tuple[Swept, dict[psutil.Process, str]],
) -> None:
    swept, _ = interrupted
    assert swept.status == 130, swept.err
    assert "Stopping: completed work is kept" in swept.err
    assert re.search(r"[Ii]nterrupted.*kept", swept.err)
    assert f"foldrace resume quick --dir {swept.root}" in swept.err
    assert "Traceback" not in swept.err
    assert swept.result["trials"]["completed"] >= 1 and swept.result["trials"]["failed"] == 0


def test_no_process_of_it_is_left(interrupted: tuple[Swept, dict[psutil.Process, str]]) -> None:
    _, descendants = interrupted
    assert any("raylet" in name for name in descendants.values())
    _, alive = psutil.wait_procs(list(descendants), timeout=20)
    assert not [descendants[process] for process in alive]


def test_nothing_is_recorded_as_running_and_completed_trials_are_whole(
    interrupted: tuple[Swept, dict[psutil.Process, str]],
) -> None:
    swept, _ = interrupted
    record = swept.record
    assert not [run.info.run_name for run in record.runs if run.info.status == "RUNNING"]
    assert record.sweep.info.status == "KILLED"
    assert record.sweep.data.tags["foldrace.interrupted"] == "True"
    completed = [number for number, run in record.trials.items() if run.info.status == "FINISHED"]
    assert len(completed) == swept.result["trials"]["completed"]
    for number in completed:
        assert record.history(record.trials[number], "epoch") == {3: 1, 6: 2, 9: 3, 12: 4}
        for fold in range(3):
            assert record.folds[number, fold].info.status == "FINISHED"
            assert sorted(record.history(record.folds[number, fold], "val_loss")) == [1, 2, 3, 4]
    assert {run.info.status for run in record.trials.values()} <= {"FINISHED", "KILLED"}


def test_the_folder_keeps_what_a_resume_needs(
    interrupted: tuple[Swept, dict[psutil.Process, str]],
) -> None:
    folder: Path = interrupted[0].root / "quick"
    assert (folder / "state.json").is_file() and (folder / "sweep.yaml").is_file()
    assert not (folder / "result.json").exists()
    assert list((folder / "tune").glob("experiment_state-*.json"))
