"""The Optuna study of a sweep in a file, which Optuna's dashboard can open."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from foldrace.search.live_objects import live_object

__all__ = [
    "JOURNAL",
    "STUDY_NAME",
    "JournalFile",
    "JournalPlace",
    "SingleWriterStorage",
    "open_journal",
]

STUDY_NAME = "foldrace"
JOURNAL = "journal"


@dataclass(frozen=True)
class JournalPlace:
    """Where the journal of the sweep that runs is, attached as `JOURNAL` for the time of the run.

    A folder of sweeps may have been moved or copied since its journal's path was pickled.
    """

    path: Path


class JournalFile(JournalFileBackend):
    """Optuna's journal file, repaired after a crash and written without fsync.

    A line that a killed process wrote only in part is removed before the first read. Optuna would
    append to it, and then could read nothing after it.

    Optuna calls fsync for every record, which takes 3 ms, sixteen times per trial. Without it a
    killed process loses nothing; a power cut loses the last seconds, as it does of everything else
    that a sweep writes.
    """

    def __init__(self, path: str) -> None:
        _remove_partial_line(Path(path))
        super().__init__(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"_file_path": self._file_path}  # the file may have been replaced since

    def __setstate__(self, state: dict[str, Any]) -> None:
        try:
            path = str(live_object(JournalPlace, JOURNAL).path)
        except LookupError:
            path = state["_file_path"]
        JournalFile.__init__(self, path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            with Path(self._file_path).open("ab") as file:
                file.write(lines.encode())
        finally:
            self._lock.release()


def _remove_partial_line(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as file:
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)


class SingleWriterStorage(JournalStorage):
    """Optuna's journal for a single writer: enqueued trials are searched for only when needed.

    At every suggestion Optuna looks through all trials for one in the state WAITING.
    """

    def __init__(self, backend: JournalFile) -> None:
        self._may_wait = True
        super().__init__(backend)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_may_wait": True})

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._may_wait = self._may_wait or template_trial is not None
        return super().create_new_trial(study_id, template_trial)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        waiting = super().get_all_trials(study_id, deepcopy, states) if self._may_wait else []
        self._may_wait = bool(waiting)
        return waiting


def open_journal(path: Path) -> BaseStorage:
    """The storage in the file at ``path``, which is created if it is missing.

    Only one process at a time may write to it.
    """
    return SingleWriterStorage(JournalFile(str(path)))
