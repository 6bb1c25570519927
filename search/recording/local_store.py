"""The SQLite file that a sweep without a server is recorded in, tuned for one writer while others
read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

from foldrace.files import fsync_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["write_ahead"]

_SCHEME = "sqlite:///"
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
def write_ahead(client: MlflowClient) -> Iterator[Callable[[], None]]:
    """Within this block a commit to the client's SQLite store goes to a write-ahead log and waits
    for no disk, and who reads does not hold up who writes. Yields what makes all commits so far
    safe from a power failure.

    At the block's end the file is whole by itself again, unless somebody else has it open. A
    server's store is left as it is, and a file on a network's file system, over which such a log
    cannot be shared.
    """
    uri = str(client.tracking_uri)
    path = Path(uri.removeprefix(_SCHEME))
    if (
        not (uri.startswith(_SCHEME) and path.is_file() and _is_local(path))
        or _set_mode(path, "WAL") != "wal"
    ):
        yield lambda: None
        return
    event.listen(Pool, "checkout", _do_not_wait_for_the_disk)
    try:
        yield lambda: fsync_path(path.with_name(f"{path.name}-wal"))
    finally:
        event.remove(Pool, "checkout", _do_not_wait_for_the_disk)
        engine = getattr(client._tracking_client.store, "engine", None)
        if engine is not None:
            engine.dispose()
        if (
            _set_mode(path, "DELETE") != "delete"
        ):  # somebody has it open; the file has all of it at least
            _ask(path, "PRAGMA wal_checkpoint(TRUNCATE)")


def _do_not_wait_for_the_disk(connection: Any, record: object, proxy: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = NORMAL")


def _set_mode(path: Path, mode: str) -> str | None:
    """The journal's mode afterwards; None if somebody has the file open who must not."""
    return _ask(path, f"PRAGMA journal_mode = {mode}")


def _ask(path: Path, pragma: str) -> str | None:
    with closing(sqlite3.connect(path, timeout=0)) as base:
        try:
            return str(base.execute(pragma).fetchone()[0])
        except sqlite3.OperationalError:
            return None


def _is_local(path: Path) -> bool:
    """Whether a file is on a disk of this machine, as far as that can be told."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:  # not Linux
        return True
    folders = {str(folder) for folder in path.resolve().parents}
    holding = [(len(place), kind) for _, place, kind, *_ in mounts if place in folders]
    return not holding or max(holding)[1] not in _REMOTE
