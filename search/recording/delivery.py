"""Delivers the events of an outbox to MLflow in a thread, through any outage of the store."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from foldrace.errors import first_line
from foldrace.search.recording.events import Event
from foldrace.search.recording.mlflow_internals import Cause, cause_of
from foldrace.search.recording.outbox import Outbox, Waiting

__all__ = ["Delivery", "Patience", "Writer"]

log = logging.getLogger(__name__)

_LONG = 120  # characters of an error that are shown


class Writer(Protocol):
    """Stores events; `foldrace.search.recording.writer.MlflowWriter` is one."""

    @property
    def written(self) -> int:
        """Grows while `apply` makes progress, and not where it repeats what it has done."""
        ...

    def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
        """Stores all of the events; after an error it is called again with all or some of them.

        Args:
            suspect: what fails for a reason that is not clear is taken to be refused.
        """
        ...

    def answers(self) -> bool:
        """Whether the store accepts what such events consist of: a tag and a file."""
        ...


@dataclass(frozen=True)
class Patience:
    """How often and how long a delivery tries; times in seconds.

    Attributes:
        interval: between two looks into the outbox; events in between are delivered together.
        most: events delivered together.
        first, longest: until the first retry after an error, and at most; doubled each time.
        end: at the end of a sweep, how long to wait for the store without any progress.
        tries: how often events may fail in a way that can be their own fault, while the store
            accepts others, until they are taken to be at fault.
    """

    interval: float = 1.0
    most: int = 500
    first: float = 0.5
    longest: float = 30.0
    end: float = 30.0
    tries: int = 5


class _AbandonedError(Exception):
    """Nobody waits for the delivery any more."""


class Delivery:
    """Sends the events of an outbox in their order, and removes those that have arrived.

    Each event is delivered at least once; the writer makes a second delivery harmless. While the
    store is away, the delivery retries. An event that the store refuses is set aside, and the
    others are delivered.

    Args:
        wait: waits for an event or a number of seconds; tests pass their own clock.

    Attributes:
        refused: the number of events set aside.
    """

    def __init__(
        self,
        outbox: Outbox,
        writer: Writer,
        patience: Patience = Patience(),
        *,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.outbox, self._writer, self._patience, self._wait = outbox, writer, patience, wait
        # set by `drain`: no more events come; nobody waits any more; by the thread: it has ended
        self._hurry, self._abandoned = threading.Event(), threading.Event()
        self._ended = threading.Event()
        self._away = False
        self.refused = 0
        self._thread = threading.Thread(target=self._run, name="foldrace-delivery", daemon=True)

    def start(self) -> None:
        """Starts to deliver."""
        self._thread.start()

    def drain(self, seconds: float | None = None) -> bool:
        """Ends the delivery and waits for it as long as it makes progress; Ctrl-C ends the wait.

        Args:
            seconds: how long to wait without any progress; None: as `Patience` says.

        Returns:
            Whether everything has been delivered.
        """
        self._hurry.set()
        seconds = self._patience.end if seconds is None else seconds
        began = alive = time.monotonic()
        seen: tuple[int, int] | None = None
        told = False
        try:
            while not self._ended.wait(0.2):
                now, state = time.monotonic(), (self.outbox.waiting, self._writer.written)
                if state != seen:
                    seen, alive = state, now
                if now - alive > seconds:
                    break
                if not told and now - began > 2:
                    told = True
                    log.info("recording: %s records %s", f"{self.outbox.waiting:,}", self._where())
        except KeyboardInterrupt:
            pass
        self._abandoned.set()
        if self.refused:
            log.warning(
                "recording: MLflow refused %d record%s, kept in %s",
                self.refused,
                "" if self.refused == 1 else "s",
                self.outbox.refused,
            )
        return self.outbox.waiting == 0

    def _where(self) -> str:
        if not self._away:
            return "are on their way to MLflow …"
        return (
            f"are safe on disk; waiting {self._patience.end:.0f} s for the tracking store to come"
            " back (Ctrl-C: do not wait)"
        )

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            last = False
            while not last:
                self._wait(self._hurry, self._patience.interval)
                last = self._hurry.is_set()  # no more events come
                self._deliver_what_waits()
        except _AbandonedError:
            pass
        finally:
            self._ended.set()

    def _deliver_what_waits(self) -> None:
        for delay in self._delays():
            try:
                while (batch := self.outbox.take(self._patience.most)).lines:
                    self._send(batch.events)
                    self._check()
                    self.outbox.delivered(batch)
                return
            except OSError as error:  # the outbox's disk
                self._pause(error, delay)

    def _send(self, events: Sequence[Waiting], *, suspect: bool = False) -> None:
        """Delivers the events, and sets aside those that the store refuses.

        A server has one word, an internal error, for a database that is away and for an event
        that it cannot store. So an event is suspect that has failed again and again, and at fault
        if the store accepts others.

        Raises:
            _AbandonedError: nobody waits for the delivery any more.
        """
        if not events:
            return
        tries = 0
        for delay in self._delays():
            self._check()
            try:
                self._writer.apply([waiting.event for waiting in events], suspect=suspect)
            except Exception as error:  # MLflow's, requests', or any database driver's
                cause = cause_of(error)
                tries = tries + 1 if cause is Cause.UNCLEAR else 0
                often = tries >= (1 if suspect else self._patience.tries)
                if often and self._writer.answers():
                    if not suspect:
                        self._send(events, suspect=True)
                        return
                    cause = Cause.EVENT
                if cause is not Cause.EVENT:
                    self._pause(error, delay)
                    continue
                self._back()
                if len(events) == 1:
                    self._set_aside(events[0], error)
                    return
                half = len(events) // 2
                self._send(events[:half], suspect=suspect)
                self._send(events[half:], suspect=suspect)
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
            log.warning(
                "recording waits: %s; nothing is lost, and the sweep continues", _short(error)
            )
        if self._hurry.is_set():  # waiting for it would return at once
            self._wait(self._abandoned, min(delay, 1.0))
            return
        while delay > 0 and not self._hurry.is_set():
            self.outbox.sync()
            self._wait(self._hurry, min(delay, self._patience.interval))
            delay -= self._patience.interval

    def _back(self) -> None:
        if self._away:
            self._away = False
            log.info(
                "recording resumed; %s records are being delivered", f"{self.outbox.waiting:,}"
            )

    def _set_aside(self, waiting: Waiting, error: Exception) -> None:
        self._check()
        self.outbox.refuse(waiting.line, f"{type(error).__name__}: {error}")
        self.refused += 1
        if self.refused == 1:
            log.warning(
                "recording: MLflow refused a record (%s); the others are delivered", _short(error)
            )

    def _check(self) -> None:
        if self._abandoned.is_set():  # another process may use the outbox by now
            raise _AbandonedError


def _short(error: Exception) -> str:
    text = first_line(error)
    if away := re.match(
        r"API request to (https?://[^/]+)\S* failed with (?:timeout )?exception", text
    ):
        return f"{away[1]} does not answer"
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"
