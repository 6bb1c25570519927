"""A local Ray: private, with a token of its own, and apart from the group's signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import services
from ray.train._internal.storage import StorageContext

from foldrace.errors import StateError
from foldrace.search.tune import session
from foldrace.search.tune.patches import in_own_sessions, staging_in


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray is started with, instead of Ray."""
    asked: dict[str, Any] = {}

    def init(**given: Any) -> None:
        asked.update(given, token=os.environ.get("RAY_AUTH_TOKEN"))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return asked


def test_a_local_ray_keeps_its_files_where_no_other_user_can_write(asked: dict[str, Any]) -> None:
    with session.ray_session(None):
        folder = Path(asked["_temp_dir"])
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_uid == os.getuid()


def test_a_local_ray_has_a_token_of_its_own_and_the_users_comes_back(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-a-cluster")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nonexistent")
    with session.ray_session(None):
        first = asked["token"]
    with session.ray_session(None):
        second = asked["token"]
    assert len({first, second, "of-a-cluster"}) == 3
    assert os.environ["RAY_AUTH_TOKEN"] == "of-a-cluster"
    monkeypatch.setattr(session, "_check_address", lambda address: None)
    with session.ray_session("127.0.0.1:6379"):
        assert asked["token"] == "of-a-cluster"


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out.\nmore"), AssertionError(), KeyError("x")]
)
def test_a_ray_that_does_not_start_is_one_line(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(StateError, match="Ray on this machine does not start") as told,
        session.ray_session(None),
    ):
        pass
    assert "\n" not in str(told.value) and "foldrace doctor" in str(told.value)


def test_tune_stages_its_state_in_the_given_folder_alone(tmp_path: Path) -> None:
    path = StorageContext.experiment_driver_staging_path
    storage = SimpleNamespace(experiment_dir_name="tune")
    with staging_in(tmp_path):
        found = StorageContext.experiment_driver_staging_path.fget(storage)
        assert found == f"{tmp_path}/tune"
    assert StorageContext.experiment_driver_staging_path is path


def test_a_signal_to_the_group_does_not_reach_what_ray_starts() -> None:
    with in_own_sessions():
        process = services.ConsolePopen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert services.ConsolePopen.__mro__[1] is subprocess.Popen
