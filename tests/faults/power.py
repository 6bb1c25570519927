"""What a power cut leaves of a folder: all that the disk had confirmed, and a random part of the
rest."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Disk"]

_YOUNG = 5.0  # seconds within which a system may not have written a file by itself
_APPENDED = ("*/spool/*.jsonl", "*/optuna.log", "mlflow.db-wal")


class Disk:
    """Follows the files that grow, so that it is known what of them is old.

    Args:
        root: the folder of sweeps.
        synced: the log of `inside/sitecustomize.py`: which file was confirmed up to which size.
    """

    def __init__(self, root: Path, synced: Path) -> None:
        self._root, self._synced = root, synced
        self._sizes: dict[str, deque[tuple[float, int]]] = {}
        self._looked = 0.0

    def look(self) -> None:
        """Notes how far the growing files have got; to be called all the time."""
        now = time.time()
        if now - self._looked < 0.2:
            return
        self._looked = now
        for pattern in _APPENDED:
            for path in self._root.glob(pattern):
                try:
                    self._sizes.setdefault(_key(path), deque(maxlen=100)).append(
                        (now, path.stat().st_size)
                    )
                except FileNotFoundError:
                    continue

    def tear(self, draw: random.Random) -> list[str]:
        """Cuts young files to a random length, but never what was confirmed or is old; tells
        which."""
        safe, now, told = self._confirmed(), time.time(), []
        for path in sorted(self._young(now)):
            key, size = _key(path), path.stat().st_size
            old = [known for at, known in self._sizes.get(key, ()) if at < now - _YOUNG]
            least = min(size, max(safe.get(key, 0), max(old, default=0)))
            if least < size and draw.random() < 0.6:
                kept = least if draw.random() < 0.3 else draw.randint(least, size - 1)
                os.truncate(path, kept)
                told.append(f"{path.relative_to(self._root)}: {kept} of {size}")
        return told

    def _young(self, now: float) -> Iterator[Path]:
        for path in self._root.rglob("*"):
            inside = path.relative_to(self._root).parts
            kept = path.name.startswith("mlflow.db") and path.name != "mlflow.db-wal"
            if inside[0] == "artifacts" or kept or path.name == "lock" or not path.is_file():
                # MLflow's own, which nobody confirms; SQLite's file, which SQLite confirms
                continue
            if now - path.stat().st_mtime < _YOUNG:
                yield path

    def _confirmed(self) -> dict[str, int]:
        found: dict[str, int] = {}
        if self._synced.is_file():
            for line in self._synced.read_text().splitlines():
                key, _, size = line.partition(" ")
                if size.isdigit():
                    found[key] = int(size)
        return found


def _key(path: Path) -> str:
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"
