"""The Optuna study of a sweep as a file, which outlives the process and which Optuna's dashboard
opens."""

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
    """Optuna's journal file; a line that a killed process has left half-written is taken off
    before the first read, since Optuna would append to it and then could read nothing behind it.

    Optuna has the disk confirm every record, 3 ms each and sixteen a trial; here the operating
    system has them in its own time. A killed process loses nothing, a power cut the last seconds,
    as of all else that a sweep writes.
    """

    def __init__(self, path: str) -> None:
        _mend(Path(path))
        super().__init__(path)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._log_number_offset = {0: 0}  # where its lines begin; the file may be another now
        _mend(Path(self._file_path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            with Path(self._file_path).open("ab") as file:
                file.write(lines.encode())
        finally:
            self._lock.release()


def _mend(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as file:
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)


class _OneWriter(JournalStorage):
    """Optuna's journal, in which nobody else lets trials wait: Optuna looks for one at every
    suggestion, and would look through all trials."""

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
    """The storage in the file at ``path``, made if it is not there. One process at a time may
    write to it."""
    return _OneWriter(_Journal(str(path)))
