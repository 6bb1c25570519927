"""Files that a killed process leaves as they were, and a power failure too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["sync_all", "sync_file", "write_text", "write_whole"]


def sync_file(path: Path) -> None:
    """Makes what has been written to a file, or the names in a folder, safe from a power failure.
    Nothing is done for one that is gone."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_all(folder: Path) -> None:
    """The same for all that is in a folder, and for its name."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync_file(path)


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yields another path to write to. At the block's end what is there takes the place of the
    file at ``path``, and is safe on disk; after an exception that file is as it was."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        sync_file(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_file(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content, whole or not at all."""
    with write_whole(path) as part:
        part.write_text(text)
