"""Put into every process of a sweep under test: notes each epoch that is trained, and what the
disk has confirmed.

Python imports a module of this name by itself when it starts.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LOG = os.environ.get("FOLDRACE_FAULTS_LOG")


def _note(file: str, line: str) -> None:
    with open(os.path.join(str(_LOG), file), "a") as log:  # noqa: PTH118, PTH123 (imported by every process at its start)
        log.write(line + "\n")


def _watch_fsync() -> None:
    """`os.fsync` notes which file (by device and inode) is safe up to which size."""
    fsync = os.fsync

    def noted(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        size = os.fstat(number)
        fsync(number)
        _note("synced", f"{size.st_dev}:{size.st_ino} {size.st_size}")

    os.fsync = noted  # type: ignore[assignment]


class _TrainingWatch(importlib.abc.MetaPathFinder):
    """Wraps `Fold.train_epoch` when its module is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "foldrace.trainables.training.fold":
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if found is not None and found.loader is not None:
            found.loader.exec_module = _then_wrap(found.loader.exec_module)  # type: ignore[method-assign, assignment]
        return found


def _then_wrap(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def wrapped(module: ModuleType) -> None:
        execute(module)
        train = module.Fold.train_epoch

        def noted(run: Any) -> Any:
            before = run.epoch
            report = train(run)
            if run.epoch > before:
                _note("trained", f"{os.getpid()} {run.number} {run.epoch} {time.time():.3f}")
            return report

        module.Fold.train_epoch = noted

    return wrapped


if _LOG:
    _watch_fsync()
    sys.meta_path.insert(0, _TrainingWatch())
