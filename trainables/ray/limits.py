"""Keeps a trial within bounds: its time, its process's memory, and how much it prints."""

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
    "Printed",
    "TrialTimeout",
    "guarded",
    "is_out_of_memory",
    "limit_memory",
    "private_memory",
]

_AGAIN = 5.0
_GRACE = 30.0
_STATUS = Path("/proc/self/status")
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|std::bad_alloc", re.IGNORECASE
)


@dataclass(frozen=True)
class Limits:
    """What a trial may use.

    Attributes:
        seconds: of training, all its steps together; None: any.
        memory: bytes that its process may hold beyond what it held before the first trial; None:
            any.
        printed: characters that reach the worker's log; a trial may print more, which is dropped.
    """

    seconds: float | None = None
    memory: int | None = None
    printed: int = 65_536


class TrialTimeout(BaseException):
    """A trial has used up its time. Not an `Exception`, since a task may catch those."""


class Printed:
    """How many characters a trial has printed, and what is left of those that are let through."""

    def __init__(self, limit: int) -> None:
        self.limit, self.characters = limit, 0

    @property
    def dropped(self) -> int:
        return max(0, self.characters - self.limit)


class _Bounded(io.TextIOBase):
    """Passes on what is written, up to a bound."""

    def __init__(self, to: TextIO, printed: Printed) -> None:
        self._to, self._printed = to, printed

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        left = max(0, self._printed.limit - self._printed.characters)
        self._printed.characters += len(text)
        if left:
            self._to.write(text[:left])
        return len(text)

    def flush(self) -> None:
        self._to.flush()


@contextmanager
def guarded(limits: Limits, spent: float, printed: Printed) -> Iterator[None]:
    """Within this block a trial that has trained for ``spent`` seconds keeps within its limits.

    A loop, a wait or a step that goes on too long is ended by an exception, every few seconds
    again if it is caught. What no exception reaches, a lock within a library for instance, is
    ended with its process half a minute later, and where it stood is written to the worker's log.

    Raises:
        TrialTimeout: its seconds are over.
    """
    with (
        redirect_stdout(_Bounded(sys.stdout, printed)),
        redirect_stderr(_Bounded(sys.stderr, printed)),
    ):
        if limits.seconds is None:
            yield
            return
        with _until(max(0.001, limits.seconds - spent), limits.seconds):
            yield


@contextmanager
def _until(left: float, limit: float) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise TrialTimeout(f"no result within limits.trial_timeout ({limit:g} s of training)")

    reachable = threading.current_thread() is threading.main_thread()
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(left + _GRACE, exit=True, file=sys.__stderr__)
    before = signal.signal(signal.SIGALRM, end) if reachable else None
    try:
        if reachable:
            signal.setitimer(signal.ITIMER_REAL, left, _AGAIN)
        yield
    finally:
        if reachable:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def private_memory() -> int:
    """Bytes of memory that are this process's own, as Linux counts them against `limit_memory`; 0
    elsewhere."""
    try:
        found = re.search(r"^VmData:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def limit_memory(size: int) -> int:
    """Lets this process hold so many bytes beyond what it holds. What it asks for beyond is
    refused by the system, which Python and torch tell as an error. Returns what it held; 0 where
    that is not known, and nothing is limited."""
    held = private_memory()
    if held:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (held + size, hard))
    return held


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on the CPU or on a GPU."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
