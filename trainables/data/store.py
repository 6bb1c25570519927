"""The data folder: fetched data sets, one file each, written whole or not at all.

A data set NAME lies in ``NAME.npz`` (uncompressed arrays, where they came from, and their digest).
It is written under a temporary name and then renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Parts, digest

__all__ = ["DamagedError", "read_stored", "staging", "stored_path", "write_stored"]

_STAGE = ".fetching-"
_LOCK = ".lock"
_ARRAYS = ("images", "labels", "test_images", "test_labels")


class DamagedError(Exception):
    """A stored data set that is not what was written."""


def stored_path(name: str, data_dir: Path) -> Path:
    """Where the data set lies once it is fetched."""
    return data_dir / f"{name}.npz"


def read_stored(name: str, data_dir: Path) -> Parts | None:
    """The stored data set (without its class names); None if it is not there.

    Raises:
        DamagedError: it cannot be read, or its digest is not the one that it was stored with.
    """
    try:
        with np.load(stored_path(name, data_dir), allow_pickle=False) as file:
            parts = Parts(source=str(file["source"]), **{part: file[part] for part in _ARRAYS})
            expected = str(file["digest"])
    except FileNotFoundError:
        return None
    except (
        Exception
    ) as error:  # zipfile, zlib and numpy raise a dozen kinds of errors over a damaged file
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    if digest(parts) != expected:
        raise DamagedError("its digest is not the one it was stored with")
    return parts


def write_stored(name: str, parts: Parts, data_dir: Path, stage: Path) -> None:
    """Stores ``parts``, by way of the folder ``stage`` on the same file system.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    temporary = stage / f"{name}.npz"
    arrays = {part: getattr(parts, part) for part in _ARRAYS}
    np.savez(temporary, source=np.array(parts.source), digest=np.array(digest(parts)), **arrays)
    temporary.replace(stored_path(name, data_dir))


@contextmanager
def staging(name: str, data_dir: Path, notify: Callable[[str], None]) -> Iterator[Path]:
    """A temporary folder inside ``data_dir`` for one fetch, gone afterwards whatever happens.

    One fetch at a time: a second process waits here for the first. So any other temporary folder
    is left over from a process that was killed, and is removed.

    Raises:
        DataError: the data folder cannot be made, written or locked.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unusable(name, data_dir, error) from error
    try:
        _acquire(lock, name, data_dir, notify)
        for left_over in data_dir.glob(f"{_STAGE}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=_STAGE, dir=data_dir, ignore_cleanup_errors=True
        ) as stage:
            yield Path(stage)
    finally:
        os.close(lock)  # which also gives the lock back


def _acquire(lock: int, name: str, data_dir: Path, notify: Callable[[str], None]) -> None:
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notify(f"{name}: waiting for another process that is fetching into {data_dir}")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise _unusable(name, data_dir, error) from error


def _unusable(name: str, data_dir: Path, error: OSError) -> DataError:
    rule = (
        f"cannot be fetched: the data folder {data_dir} cannot be used: {error.strerror or error}"
    )
    return DataError("dataset", name, rule, "choose a folder that you may write to")
