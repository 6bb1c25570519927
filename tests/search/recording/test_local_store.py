"""The local store keeps a write-ahead log while a sweep writes, and is one whole file before and
after."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.pool import Pool

from foldrace.search.recording import local_store
from foldrace.search.recording.local_store import write_ahead
from tests.helpers.stores import new_store


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "mlflow.db"


@pytest.fixture
def client(base: Path) -> MlflowClient:
    client = new_store(base.parent)
    client.create_experiment("before")  # its connection is there before the block
    return client


def mode(base: Path) -> str:
    with closing(sqlite3.connect(base)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def files(base: Path) -> list[str]:
    return sorted(path.name for path in base.parent.iterdir())


@pytest.fixture
def synchronous() -> Iterator[list[int]]:
    """How commits of MLflow's sessions wait for the disk: 2 for each, 1 for none."""
    seen: list[int] = []

    def look(connection: Any, record: object) -> None:
        seen.append(connection.execute("PRAGMA synchronous").fetchone()[0])

    event.listen(Pool, "checkin", look)
    yield seen
    event.remove(Pool, "checkin", look)


def test_commits_go_to_a_log_within_the_block_and_the_file_is_whole_after_it(
    base: Path, client: MlflowClient, synchronous: list[int]
) -> None:
    client.create_experiment("outside")
    assert set(synchronous) == {2}
    with write_ahead(client) as settle:
        synchronous.clear()
        client.create_experiment("inside")
        settle()
        assert mode(base) == "wal" and set(synchronous) == {1}
    synchronous.clear()
    assert mode(base) == "delete" and files(base) == ["mlflow.db"]
    client.create_experiment("after")
    assert set(synchronous) == {2}
    assert {one.name for one in client.search_experiments()} >= {
        "before",
        "outside",
        "inside",
        "after",
    }


def test_somebody_who_reads_keeps_the_log_and_loses_nothing(
    base: Path, client: MlflowClient
) -> None:
    with closing(sqlite3.connect(base)) as reader, write_ahead(client) as settle:
        names = reader.execute("SELECT name FROM experiments")
        assert names.fetchone()
        client.create_experiment("while it reads")
        settle()
    assert "while it reads" in {one.name for one in client.search_experiments()}


def test_what_is_left_of_the_log_while_somebody_has_the_file_open_holds_nothing(
    base: Path, client: MlflowClient, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(base)) as reader:
        with write_ahead(client):
            client.create_experiment("inside")
            assert reader.execute("SELECT name FROM experiments").fetchone()
        assert mode(base) == "wal"
        copy = tmp_path / "copy.db"
        copy.write_bytes(base.read_bytes())  # as somebody copies who knows of one file
    with closing(sqlite3.connect(copy)) as copied:
        assert ("inside",) in copied.execute("SELECT name FROM experiments").fetchall()


def test_a_server_and_a_file_on_a_network_are_left_alone(
    base: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_ahead(SimpleNamespace(tracking_uri="http://127.0.0.1:9")) as settle:  # type: ignore[arg-type]
        settle()
    monkeypatch.setattr(local_store, "_is_local", lambda path: False)
    with write_ahead(client) as settle:
        client.create_experiment("over there")
        settle()
        assert mode(base) == "delete"


def test_the_mount_that_holds_the_file_tells_whether_it_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "disk / ext4 rw 0 0",
        f"there:/x {tmp_path} nfs4 rw 0 0",
        f"disk {tmp_path}/own xfs rw 0 0",
    ]
    monkeypatch.setattr(Path, "read_text", lambda self: "\n".join(lines))
    assert not local_store._is_local(tmp_path / "runs" / "mlflow.db")
    assert local_store._is_local(tmp_path / "own" / "mlflow.db")
    assert local_store._is_local(Path("/elsewhere/mlflow.db"))


@pytest.mark.slow
def test_processes_that_begin_together_in_a_new_folder_share_one_experiment(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path;"
        " from foldrace.search.sweeps.begin import _experiment;"
        " root = Path(sys.argv[1]); sys.stdin.read();"
        " print(_experiment('e', root, f'sqlite:///{root}/mlflow.db'))"
    )
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "new")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in begun:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    said = [process.communicate(timeout=120)[0].strip() for process in begun]
    assert [process.returncode for process in begun] == [0, 0] and len({*said}) == 1
