"""Brings what the spool keeps to MLflow, from a thread of its own, however long the store is
away."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlflow.exceptions import RestException
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from foldrace.errors import first_line
from foldrace.search.recording.events import Event
from foldrace.search.recording.outbox import Outbox, Waiting

__all__ = ["Delivery", "Patience", "Writer"]

_LONG = 120  # characters of an error that are shown


class Writer(Protocol):
    """What events are delivered to; `foldrace.search.recording.writer.MlflowWriter` is one."""

    @property
    def written(self) -> int:
        """Grows while `apply` gets on."""
        ...

    def apply(self, events: Sequence[Event]) -> None:
        """Stores all of the events; after an error it is called again with the same ones, or with
        some of them."""
        ...


@dataclass(frozen=True)
class Patience:
    """How a delivery goes about it.

    Attributes:
        interval: seconds between two looks into the spool; what comes in between is delivered
            together.
        most: events delivered together.
        first, longest: seconds until a store that is away is tried again, doubled each time.
        end: seconds that the end of a sweep waits without any sign of life from the store.
    """

    interval: float = 1.0
    most: int = 500
    first: float = 0.5
    longest: float = 30.0
    end: float = 30.0


class _GivenUpError(Exception):
    """Nobody waits for the delivery any more."""


class Delivery:
    """Sends what a spool holds, in its order, and forgets it there when it has arrived.

    Each event is delivered at least once; the writer sees to it that twice is the same as once.
    While the store cannot be reached, it is tried again and again; an event that it refuses is set
    aside, and the others go on.

    Args:
        say: where people read; told when the store goes away, when it is back, and once that
            something was refused.
        wait: waits so many seconds, or until the event is set; a test's own clock.
    """

    def __init__(
        self,
        spool: Outbox,
        writer: Writer,
        say: Callable[[str], None],
        patience: Patience = Patience(),
        *,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.spool, self._writer, self._say, self._patience, self._wait = (
            spool,
            writer,
            say,
            patience,
            wait,
        )
        self._hurry, self._abandoned, self._ended = (
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )
        self._away = False
        self.refused = 0
        self._thread = threading.Thread(target=self._run, name="foldrace-delivery", daemon=True)

    def start(self) -> None:
        """Begins to deliver."""
        self._thread.start()

    def drain(self, seconds: float | None = None) -> bool:
        """Ends the delivery: waits until all is delivered, for as long as it gets on; whether it
        all is.

        Args:
            seconds: to wait without any progress; None: as `Patience` says. Ctrl-C ends the wait
                at once.
        """
        self._hurry.set()
        seconds = self._patience.end if seconds is None else seconds
        began = alive = time.monotonic()
        seen: tuple[int, int] | None = None
        told = False
        try:
            while not self._ended.wait(0.2):
                now, state = time.monotonic(), (self.spool.waiting, self._writer.written)
                if state != seen:
                    seen, alive = state, now
                if now - alive > seconds:
                    break
                if not told and now - began > 2:
                    told = True
                    self._say(f"recording: {self.spool.waiting:,} records {self._where()}")
        except KeyboardInterrupt:
            pass
        self._abandoned.set()
        if self.refused:
            self._say(
                f"recording: MLflow refused {self.refused} records; they are in"
                f" {self.spool.refused}"
            )
        return self.spool.waiting == 0

    def _where(self) -> str:
        if not self._away:
            return "are on their way to MLflow …"
        return (
            f"are safe on disk; the tracking store has {self._patience.end:.0f} s to come back"
            " (Ctrl-C: do not wait)"
        )

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            last = False
            while not last:
                self._wait(self._hurry, self._patience.interval)
                last = self._hurry.is_set()  # nothing is appended any more
                self._deliver_what_waits()
        except _GivenUpError:
            pass
        finally:
            self._ended.set()

    def _deliver_what_waits(self) -> None:
        for delay in self._delays():
            try:
                while (batch := self.spool.take(self._patience.most)).lines:
                    self._send(batch.events)
                    self._check()
                    self.spool.delivered(batch)
                return
            except OSError as error:  # the spool's disk
                self._pause(error, delay)

    def _send(self, events: Sequence[Waiting]) -> None:
        """Delivers events, or sets those aside that are refused. Raises: _GivenUpError."""
        if not events:
            return
        for delay in self._delays():
            self._check()
            try:
                self._writer.apply([waiting.event for waiting in events])
            except (
                Exception
            ) as error:  # MLflow's own, requests', those of whatever database lies below
                if _passes(error):
                    self._pause(error, delay)
                    continue
                self._back()
                if len(events) == 1:
                    self._set_aside(events[0], error)
                    return
                half = len(events) // 2
                self._send(events[:half])
                self._send(events[half:])
                return
            self._back()
            return

    def _delays(self) -> Iterator[float]:
        delay = self._patience.first
        while True:
            yield min(delay, self._patience.longest)
            delay *= 2

    def _pause(self, error: Exception, delay: float) -> None:
        if not self._away:
            self._away = True
            self._say(f"recording waits: {_short(error)}; nothing is lost, and the sweep goes on")
        if self._hurry.is_set():  # which would wake it at once
            self._wait(self._abandoned, min(delay, 1.0))
            return
        while delay > 0 and not self._hurry.is_set():
            self.spool.sync()
            self._wait(self._hurry, min(delay, self._patience.interval))
            delay -= self._patience.interval

    def _back(self) -> None:
        if self._away:
            self._away = False
            self._say(f"recording goes on; {self.spool.waiting:,} records are on their way")

    def _set_aside(self, waiting: Waiting, error: Exception) -> None:
        self._check()
        self.spool.refuse(waiting.line, f"{type(error).__name__}: {error}")
        self.refused += 1
        if self.refused == 1:
            self._say(f"recording: MLflow refused a record ({_short(error)}); the others go on")

    def _check(self) -> None:
        if self._abandoned.is_set():  # the spool may be another process's by now
            raise _GivenUpError


_PASSING = {
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "CANCELLED",
    "IO_ERROR",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "CUSTOMER_UNAUTHORIZED",
    "NOT_FOUND",
    "ENDPOINT_NOT_FOUND",
}
"""MLflow's error codes that say nothing about the event. A proxy whose server is gone answers 404;
a run that is gone is RESOURCE_DOES_NOT_EXIST."""


def _passes(error: Exception) -> bool:
    """Whether the same call may succeed later: the store is away, or busy, or does not know us."""
    code = getattr(error, "error_code", None)
    if (
        code == "INTERNAL_ERROR"
    ):  # a server's, or no connection to it; in this process's own store the event broke it
        return isinstance(error, RestException) or "API request" in str(error)
    if code is not None:
        return code in _PASSING
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:  # of an upload, by requests
        return status >= 500 or status in (401, 403, 408, 429)
    if isinstance(error, OperationalError | PoolTimeout):
        return True
    return isinstance(error, OSError) and not isinstance(
        error, FileNotFoundError | IsADirectoryError
    )


def _short(error: Exception) -> str:
    text = first_line(error)
    if away := re.match(
        r"API request to (https?://[^/]+)\S* failed with (?:timeout )?exception", text
    ):
        return f"{away[1]} does not answer"
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"
