"""The SQLite store of a sweep without a server, tuned for one writer while others read."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

from foldrace.files import fsync_path
from foldrace.search.recording.mlflow_internals import store_engine

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["set_up_alone", "write_ahead"]

_SCHEME = "sqlite:///"
# file systems over which SQLite cannot share a write-ahead log
_REMOTE = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "lustre",
    "gpfs",
    "beegfs",
    "afs",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
}


@contextmanager
def set_up_alone(root: Path) -> Iterator[None]:
    """Within the block, no other process sets up a store for sweeps in ``root``.

    MLflow creates the tables of a new store, and then an experiment, without a lock: of two
    processes that begin together, one fails.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY)  # a folder can be locked, and nothing is left behind
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def write_ahead(client: MlflowClient) -> Iterator[Callable[[], None]]:
    """Within the block, commits to the client's SQLite store go to a write-ahead log.

    A commit does not wait for the disk, and readers do not hold up the writer. At the block's end
    the store is one file again, unless another process has it open. A server's store and a file on
    a network file system are left as they are.

    Yields:
        A function that makes all commits so far safe from a power failure.
    """
    uri = str(client.tracking_uri)
    path = Path(uri.removeprefix(_SCHEME))
    local = uri.startswith(_SCHEME) and path.is_file() and _is_local(path)
    engine = store_engine(client) if local else None
    if engine is None or _set_mode(path, "WAL") != "wal":
        yield lambda: None
        return
    event.listen(Pool, "checkout", _do_not_wait_for_the_disk)
    try:
        yield lambda: fsync_path(path.with_name(f"{path.name}-wal"))
    finally:
        event.remove(Pool, "checkout", _do_not_wait_for_the_disk)
        engine.dispose()
        # if another process has it open, the file contains everything at least
        if _set_mode(path, "DELETE") != "delete":
            _ask(path, "PRAGMA wal_checkpoint(TRUNCATE)")


def _do_not_wait_for_the_disk(connection: Any, record: object, proxy: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = NORMAL")


def _set_mode(path: Path, mode: str) -> str | None:
    """The journal mode afterwards; None if another connection prevents the change."""
    return _ask(path, f"PRAGMA journal_mode = {mode}")


def _ask(path: Path, pragma: str) -> str | None:
    with closing(sqlite3.connect(path, timeout=0)) as base:
        try:
            return str(base.execute(pragma).fetchone()[0])
        except sqlite3.OperationalError:
            return None


def _is_local(path: Path) -> bool:
    """Whether a file is on a disk of this node, as far as /proc tells."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:  # not Linux
        return True
    folders = {str(folder) for folder in path.resolve().parents}
    holding = [(len(place), kind) for _, place, kind, *_ in mounts if place in folders]
    return not holding or max(holding)[1] not in _REMOTE
