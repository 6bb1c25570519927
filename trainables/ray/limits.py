"""Limits of a trial: its training time, its process's memory, and its output."""

from __future__ import annotations

import faulthandler
import io
import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

import torch

__all__ = [
    "Limits",
    "Output",
    "TrialTimeout",
    "enforce_limits",
    "is_out_of_memory",
    "limit_memory",
    "private_memory",
]

_REPEAT_SECONDS = 5.0  # until a time-out that was caught is raised again
_EXIT_SECONDS = 30.0  # after the time-out, until the process is ended
_STATUS = Path("/proc/self/status")
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|std::bad_alloc", re.IGNORECASE
)


@dataclass(frozen=True)
class Limits:
    """What a trial may use.

    Attributes:
        seconds: training time, summed over all steps; None: unlimited.
        memory: bytes that its process may allocate in addition to what it held before the first
            trial; None: unlimited.
        output: characters that a trial may print to the worker's log; the rest is dropped.
    """

    seconds: float | None = None
    memory: int | None = None
    output: int = 65_536


class TrialTimeout(BaseException):
    """A trial has used up its time. Not an `Exception`, since a task may catch those."""


class Output:
    """Counts the characters that a trial has printed.

    Attributes:
        limit: characters that are passed on.
        characters: characters printed so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.characters = limit, 0

    @property
    def dropped(self) -> int:
        """Characters that were not passed on."""
        return max(0, self.characters - self.limit)


class _LimitedStream(io.TextIOBase):
    """Passes on what is written, up to a limit."""

    def __init__(self, stream: TextIO, output: Output) -> None:
        self._stream, self._output = stream, output

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        allowed = max(0, self._output.limit - self._output.characters)
        self._output.characters += len(text)
        if allowed:
            self._stream.write(text[:allowed])
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def enforce_limits(limits: Limits, spent: float, output: Output) -> Iterator[None]:
    """Enforces a trial's limits of time and output within the block.

    Code that runs too long is interrupted by an exception, which is raised again every few seconds
    in case the code catches it. If no exception gets through, for instance in a lock inside a C
    library, the process is ended half a minute later and its stack is written to the worker's log.

    Args:
        limits: of the trial.
        spent: seconds that the trial has trained before.
        output: the trial's output, over all its steps.

    Raises:
        TrialTimeout: the trial's time is used up.
    """
    with (
        redirect_stdout(_LimitedStream(sys.stdout, output)),
        redirect_stderr(_LimitedStream(sys.stderr, output)),
    ):
        if limits.seconds is None:
            yield
            return
        with _timeout(max(0.001, limits.seconds - spent), limits.seconds):
            yield


@contextmanager
def _timeout(left: float, limit: float) -> Iterator[None]:
    """Raises `TrialTimeout` after ``left`` seconds; its message names the whole ``limit``."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TrialTimeout(f"no result within limits.trial_timeout ({limit:g} s of training)")

    # Python delivers signals to the main thread only.
    interruptible = threading.current_thread() is threading.main_thread()
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(left + _EXIT_SECONDS, exit=True, file=sys.__stderr__)
    before = signal.signal(signal.SIGALRM, interrupt) if interruptible else None
    try:
        if interruptible:
            signal.setitimer(signal.ITIMER_REAL, left, _REPEAT_SECONDS)
        yield
    finally:
        if interruptible:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def private_memory() -> int:
    """Bytes of memory private to this process, as Linux counts them against `limit_memory`.

    0 on other systems.
    """
    try:
        found = re.search(r"^VmData:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def limit_memory(size: int) -> int:
    """Limits the memory that this process can allocate from now on.

    The system refuses an allocation beyond the limit; Python and torch then raise an error that
    `is_out_of_memory` recognises.

    Args:
        size: bytes in addition to what the process holds now.

    Returns:
        What it holds now, in bytes; 0 if that is unknown and nothing was limited.
    """
    held = private_memory()
    if held:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (held + size, hard))
    return held


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error was raised because no memory was left, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
