"""The data folder: one file per fetched data set, written atomically.

The data set NAME is in ``NAME.npz``: uncompressed arrays, where they came from, and their digest.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Parts
from foldrace.trainables.data.parts import digest

__all__ = ["VerificationError", "read_stored", "staging", "stored_path", "write_stored"]

log = logging.getLogger(__name__)

_STAGE = ".fetching-"
_LOCK = ".lock"
_ARRAYS = ("images", "labels", "test_images", "test_labels")


class VerificationError(Exception):
    """The arrays are not those of the data set, or the stored file is damaged."""


def stored_path(name: str, data_dir: Path) -> Path:
    """The file of a data set once it is fetched."""
    return data_dir / f"{name}.npz"


def read_stored(name: str, data_dir: Path) -> Parts | None:
    """Read a stored data set, without its class names; None if it is not there.

    Raises:
        VerificationError: it cannot be read, or its digest is not the stored one.
    """
    try:
        with np.load(stored_path(name, data_dir), allow_pickle=False) as file:
            arrays = {part: file[part] for part in _ARRAYS}
            parts = Parts.of_images(source=str(file["source"]), **arrays)
            expected = str(file["digest"])
    except FileNotFoundError:
        return None
    # zipfile, zlib and NumPy raise many kinds of errors for a damaged file.
    except Exception as error:
        raise VerificationError(f"{type(error).__name__}: {error}") from error
    if digest(parts) != expected:
        raise VerificationError("its digest is not the stored one")
    return parts


def write_stored(name: str, parts: Parts, data_dir: Path, stage: Path) -> None:
    """Store a data set: write it to the folder ``stage``, then rename it.

    Args:
        stage: a folder on the same file system (see `staging`).

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    temporary = stage / f"{name}.npz"
    arrays: Any = {part: parts.arrays[part] for part in _ARRAYS}
    np.savez(temporary, source=np.array(parts.source), digest=np.array(digest(parts)), **arrays)
    temporary.replace(stored_path(name, data_dir))


@contextmanager
def staging(name: str, data_dir: Path) -> Iterator[Path]:
    """A temporary folder inside ``data_dir`` for one fetch; it is removed at the end.

    A lock lets one process fetch at a time; others wait. So any other temporary folder was left by
    a process that was killed, and is removed.

    Raises:
        DataError: the data folder cannot be made, written or locked.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unusable(name, data_dir, error) from error
    try:
        _acquire(lock, name, data_dir)
        for abandoned in data_dir.glob(f"{_STAGE}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=_STAGE, dir=data_dir, ignore_cleanup_errors=True
        ) as stage:
            yield Path(stage)
    finally:
        os.close(lock)  # releases the lock


def _acquire(lock: int, name: str, data_dir: Path) -> None:
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another process that is fetching into %s", name, data_dir)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise _unusable(name, data_dir, error) from error


def _unusable(name: str, data_dir: Path, error: OSError) -> DataError:
    reason = error.strerror or error
    rule = f"cannot be fetched: the data folder {data_dir} cannot be used: {reason}"
    return DataError("dataset", name, rule, "choose a folder that you may write to")
