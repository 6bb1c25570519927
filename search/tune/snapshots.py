"""Tune's state of an experiment in one file that is always complete: the basis of a resume.

Tune writes its state into several files, and copies them to the experiment's folder one after the
other while the sweep runs. If the process is killed meanwhile, or the power fails soon after, some
of them are truncated or older than the others, and Tune starts the experiment again with half of
its state. So each state is also saved as a snapshot: one file, which replaces the one before
atomically, and only after everything that it refers to is on disk.
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
from foldrace.search.tune.patches import SEARCH_STATE, SEARCHER_STATE, TRIALS_STATE, TUNER_FILE

__all__ = ["Snapshots", "go_back_to_snapshot", "has_snapshot"]

_FILE = "state.zip"
_STATES = tuple(name.format("*") for name in (TRIALS_STATE, SEARCH_STATE, SEARCHER_STATE))

_PAUSE = 0.5
"""Seconds between two looks at a folder that has an entry for every trial: Tune writes its state
about every ten seconds."""


class _Storage(Protocol):
    """The part of Tune's StorageContext that is used."""

    @property
    def experiment_driver_staging_path(self) -> str: ...


class _StoredTrial(Protocol):
    """The part of Tune's Trial that is used."""

    @property
    def storage(self) -> _Storage: ...


class Snapshots:
    """Saves each state of an experiment once Tune has written it, and removes the checkpoints of
    trials that are pruned or have failed.

    Args:
        experiment: Tune's folder of the experiment on this machine. The Tuner has been created,
            and is not running yet.
        settle: called before a snapshot; puts on disk what must not be older than the snapshot.
    """

    def __init__(self, experiment: Path, settle: Callable[[], None] = lambda: None) -> None:
        self._experiment, self._settle = experiment, settle
        # read now, since Tune may copy something over this file later
        self._tuner = (experiment / TUNER_FILE).read_bytes()
        self._saved = 0
        self._looked = -math.inf
        self._checkpoints: list[Path] = []
        self._pruned: set[int] = set()
        self._cleared: set[int] = set()

    def checkpointed(self, folder: Path) -> None:
        """A trial has a new checkpoint, which the next snapshot may refer to."""
        self._checkpoints.append(folder)

    def keep_newest_soon(self, trials: Sequence[_StoredTrial], pruned: Iterable[int] = ()) -> None:
        """`keep_newest`, at most every half second; called at every step of a sweep."""
        if time.monotonic() >= self._looked + _PAUSE:
            self.keep_newest(trials, pruned)

    def keep_newest(self, trials: Sequence[_StoredTrial], pruned: Iterable[int] = ()) -> None:
        """Saves Tune's state if it is a new one. Must be called while Tune does not write.

        Args:
            pruned: the numbers of the trials whose checkpoints are not needed any more.

        Raises:
            OSError: the snapshot cannot be written.
        """
        if not trials:
            return
        self._looked = time.monotonic()
        staged = Path(trials[0].storage.experiment_driver_staging_path)
        states = [path for pattern in _STATES if (path := _newest(staged, pattern)) is not None]
        written = max(map(_written, states), default=0)
        if len(states) < len(_STATES) or written == self._saved:
            return
        self._settle()
        for folder in self._checkpoints:
            fsync_tree(folder)
        self._checkpoints.clear()
        with (
            atomic_write(self._experiment / _FILE) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        ):
            file.writestr(TUNER_FILE, self._tuner)
            for path in states:
                file.write(path, path.name)
        self._saved = written
        self.clear(pruned)

    def clear(self, pruned: Iterable[int]) -> None:
        """Removes the checkpoints of the trials of the previous call: a state that says that they
        have ended has been saved since, so no resume needs them.

        Args:
            pruned: the trials whose checkpoints the next call removes.
        """
        for number in self._pruned - self._cleared:
            for folder in self._experiment.glob(f"trial-{number:04d}/checkpoint_*"):
                shutil.rmtree(folder, ignore_errors=True)
        self._cleared |= self._pruned
        self._pruned = set(pruned)


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=_written, default=None)


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def has_snapshot(experiment: Path) -> bool:
    """Whether a state of an experiment has been saved."""
    return (experiment / _FILE).is_file()


def go_back_to_snapshot(experiment: Path) -> None:
    """Replaces the state that Tune has left in an experiment's folder by the newest snapshot.

    If there is no snapshot and no trial has a checkpoint, the experiment had hardly begun, and its
    folder is removed.
    """
    snapshot = experiment / _FILE
    if not has_snapshot(experiment):
        if not any(experiment.glob("trial-*/checkpoint_*")):
            shutil.rmtree(experiment, ignore_errors=True)
        return
    with zipfile.ZipFile(snapshot) as file:
        for pattern in (TUNER_FILE, *_STATES):
            for path in experiment.glob(pattern):
                path.unlink()
        file.extractall(experiment)
