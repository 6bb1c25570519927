"""The SQLite store in a folder of sweeps: set up by one process, found again where it was moved
to, and tuned for one writer while others read."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrace.files import fsync_path
from foldrace.search.recording.mlflow_internals import store_engine

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["ARTIFACTS", "STORE", "alone_in", "follow_move", "store_of_sweep", "write_ahead"]

log = logging.getLogger(__name__)

STORE, ARTIFACTS = "mlflow.db", "artifacts"
"""The store and its artifacts, in the folder of all sweeps."""

_SCHEME = "sqlite:///"
# where MLflow writes down addresses of artifacts, all of them absolute
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
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


def store_of_sweep(root: Path, uri: str, key: str) -> str:
    """The address of the store that holds a sweep's record.

    That is the store in ``root`` if the sweep is in it, wherever it was when it was recorded: a
    folder of sweeps may be moved or copied.

    Args:
        root: the folder of sweeps in which the sweep is now.
        uri: the address of the store when the sweep began.
        key: the sweep's.
    """
    here = root.resolve() / STORE
    if not uri.startswith(_SCHEME) or uri == f"{_SCHEME}{here}":
        return uri
    query = "SELECT 1 FROM tags WHERE key = 'foldrace.sweep_key' AND value = ? LIMIT 1"
    return f"{_SCHEME}{here}" if _rows(here, query, key) else uri


def follow_move(root: Path) -> None:
    """Rewrites the addresses of artifacts in the store in ``root``, if it was moved or copied.

    MLflow records them as absolute paths: without this, what is written into a moved or copied
    folder of sweeps would go to the old place. While a sweep runs there nothing is changed.
    """
    root = root.resolve()
    now = f"{root.as_uri()}/{ARTIFACTS}/"
    query = "SELECT DISTINCT artifact_location FROM experiments"
    places = [place for (place,) in _rows(root / STORE, query) if place]
    befores = {
        place.removesuffix(name)
        for place in places
        if (name := place.rpartition(f"/{ARTIFACTS}/")[2]) != place
        and place != now + name
        and (root / ARTIFACTS / name).is_dir()
    }
    if not befores or any(map(_held, root.glob("*/lock"))):
        return
    try:
        with alone_in(root), closing(sqlite3.connect(root / STORE, timeout=20)) as base, base:
            for before in befores:
                for table, column in _ADDRESSES:
                    base.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE substr({column}, 1, ?) = ?",
                        (now, len(before) + 1, len(before), before),
                    )
    except sqlite3.Error as error:
        log.warning("%s: it was moved, and its record cannot be changed: %s", root, error)
        return
    log.info("%s was moved or copied: its record now names the artifacts here", root)


def _rows(store: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    """The rows of a query; none if there is no such store."""
    if not store.is_file():
        return []
    with closing(sqlite3.connect(store, timeout=20)) as base:
        try:
            return base.execute(query, values).fetchall()
        except sqlite3.Error:  # it is not set up yet, or it is no store
            return []


def _held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is gone, or cannot be locked at all
        return False
    return False


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Within the block no other process is in such a block for the same folder of sweeps.

    MLflow creates the tables of a new store without a lock: of two processes that begin together,
    one fails. Where the folder or its file system permits no lock, nothing is held.
    """
    try:
        folder = os.open(root, os.O_RDONLY)  # a folder can be locked, and nothing is left behind
    except OSError:
        yield
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        log.debug("%s: its file system has no locks", root)
    try:
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
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

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
