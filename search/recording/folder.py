"""The folder of a sweep, below the folder of all sweeps (``--dir``), and the state kept in it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from foldrace.errors import InputError, StateError, nearest, redacted
from foldrace.files import write_text_atomically
from foldrace.search.recording.local_store import (
    ARTIFACTS,
    STORE,
    follow_move,
    store_of_sweep,
)
from foldrace.search.recording.tracking import whole_address

__all__ = [
    "TUNE_FORMAT",
    "SweepFolder",
    "SweepState",
    "check_root",
    "create_sweep_folder",
    "find_sweep",
    "sweep_names",
]

log = logging.getLogger(__name__)

_SPEC = "sweep.yaml"
_RESERVED = (STORE, ARTIFACTS)


TUNE_FORMAT = 1
"""Raised whenever a module or class that Tune pickles moves or changes its meaning."""


@dataclass(frozen=True)
class SweepState:
    """What a sweep needs to be resumed and to find its record.

    Attributes:
        key: unique among all sweeps; the sweep's runs in MLflow are found by it.
        seconds: wall-clock time spent so far, over all sessions.
        dataset_digest: digest of the data set.
        spec: the sweep file as it was when the sweep started, with every default written out.
        task_digest: in records of earlier versions, the digest of the user's file that defines
            the task.
        task_sources: the user's code that the task is made of (`LoadedTask.sources`); empty for a
            built-in task.
        name: of the sweep when it began; its folder may have been renamed since.
        code: the folder in which the sweep began: ``package.module:Name`` is looked for there.
        root: the folder of all sweeps when the sweep began.
        tune_format: of Ray Tune's pickled state. It names modules, so it can be read only by
            versions in which these have the same places (`TUNE_FORMAT`).
    """

    key: str
    tracking_uri: str
    experiment_id: str
    seconds: float = 0.0
    dataset_digest: str = ""
    spec: str = ""
    task_digest: str = ""
    tune_format: int = 0
    name: str = ""
    task_sources: dict[str, str] = field(default_factory=dict)
    code: str = ""
    root: str = ""

    def check_tune_format(self, sweep: str) -> None:
        """Checks that this version can continue the sweep.

        Raises:
            StateError: another version began it.
        """
        if self.tune_format != TUNE_FORMAT:
            raise StateError(
                f"{sweep}: another version of Foldrace began it, and its search state cannot be"
                " read by this one; resume it with that version, or start a new sweep. Its record"
                " is unchanged"
            )


@dataclass(frozen=True)
class SweepFolder:
    """The folder of one sweep.

    Attributes:
        root: the folder of all sweeps (``--dir``).
        name: the sweep's name, and the folder's.
    """

    root: Path
    name: str

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def spec(self) -> Path:
        """The sweep's copy of its sweep file."""
        return self.path / _SPEC

    @property
    def code(self) -> Path:
        """A copy of the user's code that the task was made of, for whoever changes it."""
        return self.path / "code"

    def keep_code(self, sources: Mapping[str, str]) -> None:
        """Writes the sources (`LoadedTask.sources`) into `code`, each in a file of its module."""
        for name, text in sources.items():
            place = name if name.endswith(".py") else f"{name.replace('.', '/')}.py"
            path = self.code / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    @property
    def tune(self) -> Path:
        """Ray Tune's state and the trials' checkpoints."""
        return self.path / "tune"

    @property
    def optuna(self) -> Path:
        """The journal of the sweep's Optuna study."""
        return self.path / "optuna.log"

    def extension(self, epochs: int) -> Path:
        """Like `tune`, for an extension of the sweep to ``epochs`` epochs."""
        return self.path / f"tune-{epochs}"

    def checkpoint(self, trial: int, file: str, epochs: int) -> Path | None:
        """The folder of a trial's newest checkpoint that contains ``file``; None if there is none.

        Checkpoints of the sweep and of its extensions to at most ``epochs`` epochs count.
        """
        longer = {int(path.name.removeprefix("tune-")): path for path in self.path.glob("tune-*")}
        places = [self.tune, *(longer[reached] for reached in sorted(longer) if reached <= epochs)]
        for place in reversed(places):
            found = sorted(place.glob(f"trial-{trial:04d}/checkpoint_*/{file}"))
            if found:
                return found[-1].parent
        return None

    @property
    def winner(self) -> Path:
        """The fold models of the best trial, one folder per fold."""
        return self.path / "winner"

    def check_private(self) -> None:
        """Checks that no other user can write to the folder.

        Resuming a sweep loads pickles from it, and a pickle can run any code.

        Raises:
            StateError: the folder belongs to another user, or others may write to it.
        """
        there = self.path.stat()
        if there.st_uid != os.getuid():
            remedy = f"`chown {os.getuid()} {self.path}`, if you trust its content"
            raise StateError(
                f"{self.name}: {self.path} belongs to another user (uid {there.st_uid}); {remedy}"
            )
        if there.st_mode & 0o022:
            raise StateError(
                f"{self.name}: others can write to {self.path}, so it is not trusted; `chmod"
                " go-w` it"
            )

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the sweep's lock: no other process can run this sweep within the block.

        A file system that has no locks is said.

        Raises:
            StateError: another process holds it.
        """
        with self._lock.open("w") as file:
            # `abandoned`, in another process, holds the lock for a moment
            for pause in (0.05, 0.2, None):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                        text = "%s: %s has no locks (%s): take care not to run this sweep twice"
                        log.warning(text, self.name, self.path, error.strerror)
                        break
                    if pause is None:
                        raise StateError(
                            f"{self.name}: another process is running this sweep"
                        ) from error
                    time.sleep(pause)
            yield

    @property
    def abandoned(self) -> bool:
        """Whether the sweep was started on this node and no process runs it now."""
        try:
            with self._lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # there is no lock file, or the lock is held
            return False
        return True

    def write_state(self, state: SweepState) -> None:
        """Replaces the sweep's state (an atomic write), without the password of its store."""
        state = replace(state, tracking_uri=redacted(state.tracking_uri))
        write_text_atomically(self.path / "state.json", json.dumps(asdict(state)))

    def read_state(self) -> SweepState:
        """The sweep's state.

        Raises:
            StateError: it was never written, cannot be read, or is damaged; or the password of the
                tracking store is missing.
        """
        try:
            state = SweepState(**json.loads((self.path / "state.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise StateError(
                f"{self.name}: its state.json cannot be read, so it cannot be resumed: {error}"
            ) from error
        for each in fields(state):
            if type(getattr(state, each.name)).__name__ != str(each.type).partition("[")[0]:
                raise StateError(
                    f"{self.name}: its state.json is damaged: {each.name} is not a {each.type}"
                )
        if not all(isinstance(text, str) for text in state.task_sources.values()):
            raise StateError(f"{self.name}: its state.json is damaged: task_sources is not text")
        follow_move(self.root)
        uri = store_of_sweep(self.root, state.tracking_uri, state.key)
        return replace(state, tracking_uri=whole_address(uri))

    @property
    def began_as(self) -> str:
        """The sweep's name when it began: pickled callbacks and schedulers are found by it.

        Raises:
            StateError: as `read_state`.
        """
        return self.read_state().name or self.name

    def read_result(self) -> dict[str, Any]:
        """The sweep's result, as ``--json`` prints it.

        Raises:
            StateError: the sweep has not ended, or its result cannot be read.
        """
        if not self.result.is_file():
            raise StateError(f"{self.name}: the sweep has not ended, so there is no result yet")
        try:
            result: dict[str, Any] = json.loads(self.result.read_text())
            if not {"tracking_uri", "run_id", "best", "trials"} <= set(result):
                raise ValueError("it is not the result of a sweep")
        except (OSError, ValueError, TypeError) as error:
            raise StateError(f"{self.name}: its result.json cannot be read: {error}") from error
        return result

    @property
    def result(self) -> Path:
        """The sweep's result as JSON, once it has ended."""
        return self.path / "result.json"


def check_root(root: Path) -> None:
    """Checks that the folder of all sweeps can be created and written to; creates nothing.

    Raises:
        InputError: it cannot.
    """
    try:
        if set("?#%") & set(str(root.resolve())):
            raise InputError(
                "--dir", str(root), "must not contain ?, # or %: the store's URI cannot"
            )
        there = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    except OSError as error:
        raise InputError("--dir", str(root), f"cannot be used: {error.strerror}") from error
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is not writable" if there.is_dir() else "is a file"
        raise InputError("--dir", str(root), f"{there} {what}", "choose another folder")


def create_sweep_folder(root: Path, name: str) -> SweepFolder:
    """Creates the folder of a new sweep: ``name``, or ``name-2``, ``name-3``, … if it exists."""
    root.mkdir(parents=True, exist_ok=True)
    number = 2 if name in _RESERVED else 1
    while True:
        folder = SweepFolder(root.resolve(), name if number == 1 else f"{name}-{number}")
        try:
            folder.path.mkdir(mode=0o700)  # pickles will be loaded from it
        except FileExistsError:
            number += 1
        else:
            return folder


def sweep_names(root: Path) -> list[str]:
    """The names of all sweeps in a folder, the oldest first."""
    if not root.is_dir():
        return []
    found = sorted(
        root.glob(f"*/{_SPEC}"),
        key=lambda path: (path.stat().st_mtime_ns, _natural(path.parent.name)),
    )
    return [path.parent.name for path in found]


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which ``ae-2`` comes before ``ae-10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def find_sweep(root: Path, name: str | None) -> SweepFolder:
    """The folder of the sweep called ``name``; the latest sweep's if ``name`` is None.

    Raises:
        StateError: there is none.
    """
    names = sweep_names(root)
    if not names:
        raise StateError(
            f"{root}: no sweep here; start one with `foldrace sweep`, or name its folder with"
            " --dir"
        )
    if name is None:
        return SweepFolder(root.resolve(), names[-1])
    if name not in names:
        raise StateError(f"{name}: no such sweep in {root}; {nearest(name, names)}")
    return SweepFolder(root.resolve(), name)
