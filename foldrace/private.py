"""Folders of the user's own below the temporary folder, for what is read back and trusted.

Whoever can write where a cache or a pickle is read from can run code as its reader, and a
container's user may have no home to keep such files in.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from foldrace.errors import StateError

__all__ = ["give_home", "private_folder"]

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(name: str, *, first: str | None = None, longest: int | None = None) -> Path:
    """The folder ``name`` inside ``foldrace-UID``, to which no other user can write.

    It is below the folder for temporary files (``TMPDIR``), or below ``/tmp`` or ``/var/tmp`` if
    others could replace it there. If somebody else has taken its name, it is a new one.

    Args:
        first: a folder that is tried before ``TMPDIR``.
        longest: the most bytes that its path may have; None: any number.

    Raises:
        StateError: there is no such place.
    """
    own = f"foldrace-{os.getuid()}"
    parents = (*filter(None, [first]), tempfile.gettempdir(), "/tmp", "/var/tmp")
    for parent in map(Path, dict.fromkeys(parents)):
        folder = parent.resolve() / own
        if not _keeps_names(folder.parent):
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if not _is_private(folder):
                folder = Path(tempfile.mkdtemp(prefix=f"{own}-", dir=folder.parent))
            inside = folder / name
            if longest is not None and len(os.fsencode(inside)) > longest:
                continue
            inside.mkdir(mode=0o700, exist_ok=True)
        except OSError:  # full, or not writable
            continue
        return inside
    raise StateError(
        "there is no folder for temporary files to which you alone can write; set TMPDIR to one,"
        " with a short path"
    )


def give_home() -> None:
    """Gives a process what it would look for in a home folder, if it has none to write to.

    Without a home at all (``HOME`` is not set, and the user has no entry in the password file)
    ``HOME`` becomes a private folder. Matplotlib's settings and caches go to one if the home is
    read-only.
    """
    try:
        home = Path.home()
    except RuntimeError:
        home = private_folder("home")
        os.environ["HOME"] = str(home)
    if not os.access(home, os.W_OK | os.X_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(private_folder("matplotlib")))


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's, and no link, that no other user can write to."""
    there = folder.lstat()
    return (
        stat.S_ISDIR(there.st_mode)
        and there.st_uid == os.getuid()
        and not there.st_mode & _OTHERS_WRITE
    )


def _keeps_names(folder: Path) -> bool:
    """Whether no other user can rename what this user has in a folder, or the folder itself."""
    modes = [path.stat().st_mode for path in (folder, *folder.parents) if path.exists()]
    return all(mode & stat.S_ISVTX or not mode & _OTHERS_WRITE for mode in modes)
