"""Tune's state of an experiment as one file that is always whole: what a sweep goes on from.

Tune writes its state into several files and copies them to the experiment's folder one after the
other, while it goes on. A process that is killed meanwhile, or a power failure soon after, leaves
some of them cut short, or of another time than the others; Tune then begins the experiment anew
with half of what it knew. So each state is kept here as well, in one file that takes the place of
the one before, and only after all that it speaks of is safe on disk.
"""

from __future__ import annotations

import math
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from foldrace.files import atomic_write, fsync_tree

__all__ = ["Snapshots", "go_back_to_snapshot", "has_snapshot"]

_FILE = "state.zip"
_TUNER = "tuner.pkl"
_STATES = ("experiment_state-*.json", "search_gen_state-*.json", "searcher-state-*.pkl")
"""What Tune writes of the trials, of its side of the searcher, and of the searcher; names end in a
session's time."""

_PAUSE = 0.5
"""Seconds between two looks at a folder that has an entry for every trial: Tune writes its state
every ten or so."""


class _Staged(Protocol):
    """Of Tune's StorageContext."""

    @property
    def experiment_driver_staging_path(self) -> str: ...


class _StoredTrial(Protocol):
    """Of Tune's Trial."""

    @property
    def storage(self) -> _Staged: ...


class Snapshots:
    """Keeps each state of an experiment once Tune has written it, and removes the checkpoints of
    trials that it knows to have been given up or to have failed.

    Args:
        experiment: Tune's folder of it, on this machine; the Tuner has been made, and does not run
            yet.
        settle: makes safe on disk what else must not be older than a snapshot.
    """

    def __init__(self, experiment: Path, settle: Callable[[], None] = lambda: None) -> None:
        self._experiment, self._settle = experiment, settle
        self._tuner = (
            experiment / _TUNER
        ).read_bytes()  # later Tune may be copying something over it
        self._kept = 0
        self._looked = -math.inf
        self._checkpoints: list[Path] = []
        self._given_up: set[int] = set()
        self._cleared: set[int] = set()

    def checkpointed(self, folder: Path) -> None:
        """A trial has a new checkpoint, which the next snapshot may name."""
        self._checkpoints.append(folder)

    def keep_newest_soon(
        self, trials: Sequence[_StoredTrial], given_up: Iterable[int] = ()
    ) -> None:
        """`keep_newest`, unless it has looked a moment ago; for every step of a sweep."""
        if time.monotonic() >= self._looked + _PAUSE:
            self.keep_newest(trials, given_up)

    def keep_newest(self, trials: Sequence[_StoredTrial], given_up: Iterable[int] = ()) -> None:
        """Keeps Tune's state if it is a new one; to be called while Tune writes none.

        Args:
            given_up: the trials, by number, whose checkpoints nobody will ask for again.

        Raises:
            OSError: the state cannot be kept.
        """
        if not trials:
            return
        self._looked = time.monotonic()
        staged = Path(trials[0].storage.experiment_driver_staging_path)
        states = [path for pattern in _STATES if (path := _newest(staged, pattern)) is not None]
        written = max(map(_written, states), default=0)
        if len(states) < len(_STATES) or written == self._kept:
            return
        self._settle()
        for folder in self._checkpoints:
            fsync_tree(folder)
        self._checkpoints.clear()
        with (
            atomic_write(self._experiment / _FILE) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        ):
            file.writestr(_TUNER, self._tuner)
            for path in states:
                file.write(path, path.name)
        self._kept = written
        self.clear(given_up)

    def clear(self, given_up: Iterable[int]) -> None:
        """Removes the checkpoints of those that were given up before the last call: Tune has
        written a state since that says so, and nobody who goes on from it asks for them."""
        for number in self._given_up - self._cleared:
            for folder in self._experiment.glob(f"trial-{number:04d}/checkpoint_*"):
                shutil.rmtree(folder, ignore_errors=True)
        self._cleared |= self._given_up
        self._given_up = set(given_up)


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=_written, default=None)


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def has_snapshot(experiment: Path) -> bool:
    """Whether an experiment has got so far that a state of it was kept."""
    return (experiment / _FILE).is_file()


def go_back_to_snapshot(experiment: Path) -> None:
    """Puts the newest snapshot in the place of whatever state Tune has left in the folder of an
    experiment.

    If there is none and no trial has a checkpoint, the experiment had hardly begun, and its folder
    is removed.
    """
    snapshot = experiment / _FILE
    if not has_snapshot(experiment):
        if not any(experiment.glob("trial-*/checkpoint_*")):
            shutil.rmtree(experiment, ignore_errors=True)
        return
    with zipfile.ZipFile(snapshot) as file:
        for pattern in (_TUNER, *_STATES):
            for path in experiment.glob(pattern):
                path.unlink()
        file.extractall(experiment)
