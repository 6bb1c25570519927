"""Where sweeps live on disk."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from foldrace.errors import StateError
from foldrace.search.recording.folder import (
    TUNE_FORMAT,
    SweepState,
    create_sweep_folder,
    find_sweep,
    sweep_names,
)


def make_sweep(root: Path, name: str, at: int) -> str:
    folder = create_sweep_folder(root, name)
    folder.spec.write_text("name: x")
    os.utime(folder.spec, ns=(at, at))
    return folder.name


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    assert [make_sweep(root, "ae", at) for at in range(3)] == ["ae", "ae-2", "ae-3"]
    assert sweep_names(root) == ["ae", "ae-2", "ae-3"]


def test_the_latest_is_by_time_and_then_by_number(tmp_path: Path) -> None:
    for number, at in (("b", 30), ("a", 20), ("c", 10)):
        make_sweep(tmp_path, number, at)
    assert sweep_names(tmp_path) == ["c", "a", "b"]
    assert find_sweep(tmp_path, None).name == "b"
    for _ in range(11):
        make_sweep(tmp_path, "b", 30)
    assert find_sweep(tmp_path, None).name == "b-12"


def test_a_sweep_is_found_by_its_name(tmp_path: Path) -> None:
    make_sweep(tmp_path, "conv-ae", 1)
    make_sweep(tmp_path, "digits", 2)
    found = find_sweep(tmp_path, "conv-ae")
    assert (found.name, found.path, found.spec.name) == (
        "conv-ae",
        tmp_path.resolve() / "conv-ae",
        "sweep.yaml",
    )


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    make_sweep(tmp_path, "conv-ae", 1)
    make_sweep(tmp_path, "digits", 2)
    with pytest.raises(
        StateError,
        match=r"conv-ea: no such sweep in .*did you mean 'conv-ae'\? \(conv-ae, digits\)",
    ):
        find_sweep(tmp_path, "conv-ea")


@pytest.mark.parametrize("name", [None, "ae"])
@pytest.mark.parametrize("there", [True, False])
def test_no_sweep_at_all_says_how_to_start_one(
    tmp_path: Path, name: str | None, there: bool
) -> None:
    root = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(StateError, match=r"no sweep here; start one with `foldrace sweep`.*--dir"):
        find_sweep(root, name)
    assert sweep_names(root) == []
    assert root.exists() is there


def test_folders_and_files_of_others_are_no_sweeps(tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "deep").mkdir(parents=True)
    (tmp_path / "mlflow.db").touch()
    make_sweep(tmp_path, "ae", 1)
    assert sweep_names(tmp_path) == ["ae"]


def test_the_state_is_read_back(tmp_path: Path) -> None:
    folder = create_sweep_folder(tmp_path, "ae")
    state = SweepState(key="k", tracking_uri="sqlite:///x", experiment_id="1", seconds=2.5)
    folder.write_state(state)
    assert folder.read_state() == state
    assert [path.name for path in folder.path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"key": "k"}', '{"other": 1}'])
def test_a_state_that_cannot_be_read_is_said(tmp_path: Path, content: str | None) -> None:
    folder = create_sweep_folder(tmp_path, "ae")
    if content is not None:
        (folder.path / "state.json").write_text(content)
    with pytest.raises(StateError, match=r"ae: its state\.json cannot be read"):
        folder.read_state()


@pytest.mark.parametrize("name", ["mlflow.db", "artifacts"])
def test_a_sweep_does_not_take_the_place_of_the_store(tmp_path: Path, name: str) -> None:
    assert create_sweep_folder(tmp_path, name).name == f"{name}-2"


def test_a_new_folder_is_its_users_alone_and_one_that_others_can_write_is_refused(
    tmp_path: Path,
) -> None:
    folder = create_sweep_folder(tmp_path, "ae")
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.check_private()
    folder.path.chmod(0o755)
    folder.check_private()
    for mode in (0o775, 0o757):
        folder.path.chmod(mode)
        with pytest.raises(
            StateError,
            match=r"ae: others can write to .*ae, so it is not trusted; `chmod go-w` it",
        ):
            folder.check_private()


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_sweep_folder(tmp_path, "ae")
    monkeypatch.setattr("os.getuid", lambda: folder.path.stat().st_uid + 1)
    with pytest.raises(StateError, match=r"ae: .*ae belongs to another user"):
        folder.check_private()


def test_a_sweep_of_a_version_with_another_search_state_is_refused_with_what_to_do() -> None:
    old = SweepState("k", "sqlite:///x", "1")  # as versions without the field wrote it
    with pytest.raises(StateError, match=r"ae: another version of Foldrace began it.*resume it"):
        old.check_tune_format("ae")
    replace(old, tune_format=TUNE_FORMAT).check_tune_format("ae")


def test_a_file_system_without_locks_is_said_and_is_not_called_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    folder = create_sweep_folder(tmp_path, "ae")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder.locked():
        assert "has no locks (No locks available)" in caplog.text
