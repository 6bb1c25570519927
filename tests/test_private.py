"""What is read back and trusted lies where no other user can write; a home is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from foldrace.errors import StateError
from foldrace.private import give_home, private_folder

OWN = f"foldrace-{os.getuid()}"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_the_users_alone_and_the_same_again(temporary: Path) -> None:
    found = private_folder("ray")
    assert found == temporary / OWN / "ray" == private_folder("ray")
    assert (temporary / OWN).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["writable by others", "a link", "a file"])
def test_a_place_that_somebody_else_has_taken_is_not_used(temporary: Path, how: str) -> None:
    taken = temporary / OWN
    if how == "a link":
        (temporary / "theirs").mkdir()
        taken.symlink_to(temporary / "theirs")
    elif how == "a file":
        taken.write_text("")
    else:
        taken.mkdir()
        taken.chmod(0o777)
    found = private_folder("tune")
    assert taken not in found.parents and found.parent.stat().st_mode & 0o777 == 0o700
    assert not (temporary / "theirs" / "tune").exists()


def test_a_parent_in_which_others_can_rename_is_not_used(temporary: Path) -> None:
    temporary.chmod(0o777)
    assert temporary not in private_folder("tune").parents
    temporary.chmod(0o1777)  # as /tmp is
    assert temporary in private_folder("tune").parents


def test_a_path_too_long_for_a_socket_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert private_folder("ray", longest=43) == Path("/tmp") / OWN / "ray"
    assert private_folder("ray", first=str(temporary)).is_relative_to(temporary)


def test_no_place_at_all_is_said_in_one_line(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldrace.private._keeps_names", lambda folder: False)
    with pytest.raises(StateError, match="set TMPDIR"):
        private_folder("ray")


def test_a_user_without_a_home_gets_one(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("HOME", "")
    give_home()
    assert os.environ["HOME"] == str(temporary / OWN / "home")


@pytest.mark.skipif(os.getuid() == 0, reason="root can write everywhere")
def test_matplotlib_gets_a_folder_where_the_home_is_read_only(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "home").mkdir(mode=0o555)
    monkeypatch.setenv("HOME", str(temporary / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", "")
    monkeypatch.delenv("MPLCONFIGDIR")
    give_home()
    assert os.environ["MPLCONFIGDIR"] == str(temporary / OWN / "matplotlib")


def test_kernels_are_cached_in_a_private_folder_where_numba_finds_no_place(
    tmp_path: Path,
) -> None:
    """Numba itself raises RuntimeError there, when its kernels are imported."""
    script = (
        "from numba.core import caching\n"
        "kinds = caching.CacheImpl._locator_classes\n"
        "kinds[:] = [kind for kind in kinds if 'UserProvided' in kind.__name__]\n"
        "from foldrace.trainables.cpu import kernels\n"
        "print(kernels.config.CACHE_DIR)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(tmp_path / OWN / "numba")
