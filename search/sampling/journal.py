"""The Optuna study of a sweep in a file, which Optuna's dashboard can open."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

__all__ = ["STUDY_NAME", "open_journal"]

STUDY_NAME = "foldrace"


class _Journal(JournalFileBackend):
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._log_number_offset = {0: 0}  # offsets of its lines; the file may have been replaced
        _remove_partial_line(Path(self._file_path))

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


class _OneWriter(JournalStorage):
    """Optuna's journal for a single writer: enqueued trials are searched for only when needed.

    At every suggestion Optuna looks through all trials for one in the state WAITING.
    """

    def __init__(self, backend: _Journal) -> None:
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
    return _OneWriter(_Journal(str(path)))
