"""Folders that no other user can write to, whatever the machine offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import njit
from numba.core import config

from foldrace.errors import StateError
from foldrace.private import give_home, private_folder
from foldrace.search.tune.patches import staging_in

OWN = f"foldrace-{os.getuid()}"


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that is writable for everybody and keeps names, as /tmp."""
    parent = tmp_path / "tmp"
    parent.mkdir()
    parent.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(parent))
    return parent


def test_it_is_this_users_and_the_same_again(parent: Path) -> None:
    folder = private_folder("numba")
    assert folder == parent / OWN / "numba" == private_folder("numba")
    for each in (folder, folder.parent):
        assert (each.stat().st_mode & 0o077, each.stat().st_uid) == (0, os.getuid())


@pytest.mark.parametrize("taken", ["writable", "link", "file"])
def test_a_name_that_somebody_has_taken_is_not_trusted(parent: Path, taken: str) -> None:
    place, elsewhere = parent / OWN, parent / "elsewhere"
    elsewhere.mkdir()
    if taken == "writable":
        place.mkdir()
        place.chmod(0o777)
    elif taken == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("")
    folder = private_folder("tune")
    assert folder.parent.resolve() not in (place.resolve(), elsewhere)
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_a_parent_in_which_others_can_rename_is_not_used(parent: Path) -> None:
    parent.chmod(0o777)
    assert parent not in private_folder("ray").parents


def test_a_path_is_no_longer_than_a_socket_allows(parent: Path) -> None:
    with pytest.raises(StateError, match="set TMPDIR to one, with a short path"):
        private_folder("ray", longest=5)
    assert len(str(private_folder("ray", longest=40))) <= 40


def test_without_a_home_there_is_one(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("HOME", "before")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    give_home()
    assert Path(os.environ["HOME"]) == parent / OWN / "home"
    monkeypatch.setattr(Path, "home", lambda: Path("/nonexistent"))
    give_home()
    assert Path(os.environ["MPLCONFIGDIR"]) == parent / OWN / "matplotlib"


def test_compiled_code_is_kept_where_only_this_user_writes(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba has no place for its cache in a container without a home, installed read-only."""
    from foldrace.trainables.cpu import kernels

    compiled: list[str] = []

    class Refusing:
        def __init__(self, function: object) -> None:
            self.function = njit(function)

        def enable_caching(self) -> None:
            if not compiled:
                compiled.append("refused")
                raise RuntimeError("cannot cache function: no locator available")
            compiled.append(config.CACHE_DIR)

    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(kernels, "njit", lambda **_: Refusing)
    kernels._compiled(lambda x: x)
    assert compiled == ["refused", str(parent / OWN / "numba")]


def test_tunes_state_is_staged_in_a_folder_of_ours(tmp_path: Path) -> None:
    from ray.train._internal.storage import StorageContext

    storage = StorageContext.__new__(StorageContext)
    storage.experiment_dir_name = "tune"
    before = StorageContext.experiment_driver_staging_path
    with staging_in(tmp_path):
        assert Path(storage.experiment_driver_staging_path) == tmp_path / "tune"
    assert StorageContext.experiment_driver_staging_path is before


@pytest.mark.slow
@pytest.mark.integration
def test_a_sweep_ends_well_on_a_terminal_for_ascii_alone_without_a_home(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }
    root = Path(__file__).parents[1]
    spec = str(root / "search" / "specs" / "quick.yaml")
    command = [sys.executable, "-m", "foldrace", "sweep", spec, "--set", "search.trials=2"]
    ended = subprocess.run(
        [*command, "--dir", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")],
        cwd=root,
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    shown = (ended.stdout + ended.stderr).decode("ascii")
    assert ended.returncode == 0 and "Traceback" not in shown, shown[-2000:]
    assert "+/-" in shown
