"""Atomic file writes.

After a crash or a power failure a file has either its old content or its new content, never a
mixture; the same holds for a process that reads it meanwhile. The new content is written beside
the file, flushed to disk, and renamed over it. This needs a POSIX file system.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "state.json"
>>> write_text_atomically(path, "{}")
>>> path.read_text()
'{}'
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write", "fsync_path", "fsync_tree", "write_text_atomically"]


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to disk. A missing path is ignored.

    Raises:
        OSError: the path cannot be opened, or the disk reports an error.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(file)
    finally:
        os.close(file)


def fsync_tree(folder: Path) -> None:
    """Flush everything in a folder, and the folder's own name, to disk.

    Raises:
        OSError: as in `fsync_path`.
    """
    for path in (*folder.rglob("*"), folder, folder.parent):
        fsync_path(path)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Replace the file at ``path`` by what the block writes to the yielded path.

    When the block ends, the new content is flushed to disk and renamed to ``path``. If the block
    raises an exception, the file at ``path`` stays as it was.

    Yields:
        ``path`` with the suffix ``.part``: write the new content there.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        fsync_path(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the content of a text file by ``text``, as UTF-8 (see `atomic_write`)."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
