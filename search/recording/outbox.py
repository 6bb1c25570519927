"""Events on local disk, in their order, until the tracking store has them."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foldrace.files import fsync_path
from foldrace.search.recording.events import Event, Reported, from_json, to_json

__all__ = ["SPOOL", "Batch", "Outbox", "Waiting", "waiting_in", "waiting_records"]

SPOOL = "spool"
"""The folder of a sweep's spool, in the sweep's own."""

_SEGMENT = re.compile(r"(\d{6,})\.jsonl")
_CURSOR, _REFUSED = "delivered.json", "refused.jsonl"
_MB = 2**20


@dataclass(frozen=True)
class Waiting:
    """An event of the spool, as its line has it."""

    event: Event
    line: bytes


@dataclass(frozen=True)
class Batch:
    """The next events to deliver; they end in ``segment`` at byte ``offset``. ``lines`` counts
    those that could not be read too."""

    events: Sequence[Waiting]
    segment: int
    offset: int
    lines: int


def _segments(folder: Path) -> list[int]:
    return sorted(
        int(found[1])
        for path in folder.glob("*.jsonl")
        if (found := _SEGMENT.fullmatch(path.name))
    )


def _segment(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.jsonl"


def _cursor(folder: Path) -> tuple[int, int]:
    """(segment, offset) up to which all is delivered. One that is lost costs a delivery of what is
    there again."""
    try:
        told = json.loads((folder / _CURSOR).read_text())
        return int(told["segment"]), int(told["offset"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def _undelivered(folder: Path) -> tuple[int, int]:
    """(lines, bytes) after the cursor."""
    at, offset = _cursor(folder)
    lines = size = 0
    for number in _segments(folder):
        if number >= at:
            with _segment(folder, number).open("rb") as file:
                file.seek(offset if number == at else 0)
                while part := file.read(4 * _MB):
                    lines, size = lines + part.count(b"\n"), size + len(part)
    return lines, size


def waiting_in(folder: Path) -> int:
    """How many events of a spool wait to be delivered; 0 if there is no such folder. Changes
    nothing."""
    return _undelivered(folder)[0]


def waiting_records(folder: Path) -> int:
    """How many records of the sweep in ``folder`` have not reached the tracking store."""
    return waiting_in(folder / SPOOL)


class Outbox:
    """A queue of events that survives the process.

    An event is one line, appended with one write: what was appended before the process was killed
    is there whole, and a last line that was cut short is dropped at the next opening. Making it
    safe from a power failure takes an ``fsync``, which is left to the thread that delivers
    (`sync`, `take`). One thread may append while another delivers; one process has a spool open at
    a time.

    Args:
        folder: made with the first event.
        segment: bytes after which another file is begun; delivered ones are removed.
        limit: bytes that may wait: beyond half of it pictures are left out, beyond it reports too,
            and ``notify`` is told so once.
    """

    def __init__(
        self,
        folder: Path,
        notify: Callable[[str], None] = lambda _: None,
        *,
        segment: int = 4 * _MB,
        limit: int = 1024 * _MB,
    ) -> None:
        self.folder, self._notify, self._segment_bytes, self._limit = (
            folder,
            notify,
            segment,
            limit,
        )
        self._lock = threading.Lock()
        there = _segments(folder)
        self._at, self._offset = _cursor(folder)
        if there:
            _cut_torn_line(_segment(folder, there[-1]))
        self._last = max([self._at, *there])
        self._file: int | None = None
        self._written = 0  # bytes of the file that is open
        self._unsynced: set[int] = set()
        self._said: set[str] = set()
        self.waiting, self._bytes = _undelivered(folder)

    def append(self, event: Event) -> None:
        """Keeps an event. Raises: OSError if the disk refuses it; what was there before stays
        readable then."""
        if isinstance(event, Reported) and self._bytes > self._limit / 2:
            self._say_once(
                "pictures", "recording: so much waits for MLflow that pictures are left out now"
            )
            event = replace(event, picture=None)
            if self._bytes > self._limit:
                self._say_once(
                    "reports",
                    f"recording: {self._bytes // _MB} MB wait for MLflow; reports are lost now",
                )
                return
        line = to_json(event).encode() + b"\n"
        with self._lock:
            if self._file is None or self._written >= self._segment_bytes:
                self._begin_segment()
            assert self._file is not None
            if (written := os.write(self._file, line)) != len(line):
                os.ftruncate(self._file, self._written)
                told = f"the disk took {written} of an event's {len(line)} bytes"
                raise OSError(errno.ENOSPC, told, str(self.folder))
            self._unsynced.add(self._last)
            self._written += len(line)
            self.waiting, self._bytes = self.waiting + 1, self._bytes + len(line)

    def _say_once(self, what: str, line: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._notify(line)

    def _begin_segment(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(_segment(self.folder, self._last + 1), flags, 0o644)
        self._last, self._written = self._last + 1, 0

    def sync(self) -> None:
        """Makes what has been appended safe from a power failure."""
        with self._lock:
            unsynced, self._unsynced = self._unsynced, set()
        for number in unsynced:
            fsync_path(_segment(self.folder, number))
        if unsynced:
            fsync_path(self.folder)

    def take(self, most: int) -> Batch:
        """The next events, at most so many, which are safe on disk; they stay until they are
        `delivered`."""
        self.sync()
        with self._lock:
            last, end = self._last, self._written if self._file is not None else None
        for number in [one for one in _segments(self.folder) if self._at <= one <= last]:
            start = self._offset if number == self._at else 0
            with _segment(self.folder, number).open("rb") as file:
                file.seek(start)
                data = file.read(_MB if number != last or end is None else min(_MB, end - start))
                if data and not data.endswith(
                    b"\n"
                ):  # a line goes on; where this process has got to, one ends
                    data += file.readline()
            lines = data.split(b"\n")[:-1][:most]
            if lines:
                return self._batch(lines, number, start + sum(len(line) + 1 for line in lines))
        return Batch((), self._at, self._offset, 0)

    def _batch(self, lines: Sequence[bytes], segment: int, end: int) -> Batch:
        events = []
        for line in lines:
            try:
                events.append(Waiting(from_json(line), line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self.refuse(line, f"it cannot be read: {type(error).__name__}: {error}")
        return Batch(events, segment, end, len(lines))

    def delivered(self, batch: Batch) -> None:
        """The events of a batch need not be kept any longer."""
        staged = self.folder / f"{_CURSOR}.part"
        with staged.open("w") as file:
            file.write(json.dumps({"segment": batch.segment, "offset": batch.offset}))
            file.flush()
            os.fsync(file.fileno())
        staged.replace(self.folder / _CURSOR)
        gone = batch.offset if batch.segment != self._at else batch.offset - self._offset
        for number in _segments(self.folder):
            if number < batch.segment:
                path = _segment(self.folder, number)
                gone += path.stat().st_size - (self._offset if number == self._at else 0)
                path.unlink()
        self._at, self._offset = batch.segment, batch.offset
        with self._lock:
            self.waiting, self._bytes = self.waiting - batch.lines, self._bytes - gone

    def refuse(self, line: bytes, reason: str) -> None:
        """Sets a line aside in ``refused.jsonl``."""
        entry = {"reason": reason, "record": line.decode(errors="replace")}
        with (self.folder / _REFUSED).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    @property
    def refused(self) -> Path:
        """Where refused lines are."""
        return self.folder / _REFUSED

    def close(self) -> None:
        """Closes the file; of a spool with nothing waiting, only what was refused is left on
        disk."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self.waiting == 0 and self.folder.is_dir():
            for number in _segments(self.folder):
                _segment(self.folder, number).unlink()
            (self.folder / _CURSOR).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def _cut_torn_line(path: Path) -> None:
    """Cuts off what follows the last end of a line."""
    with path.open("r+b") as file:
        end = keep = file.seek(0, os.SEEK_END)
        while keep > 0:
            start = max(0, keep - 64 * 1024)
            file.seek(start)
            found = file.read(keep - start).rfind(b"\n")
            if found >= 0:
                keep = start + found + 1
                break
            keep = start
        if keep < end:
            file.truncate(keep)
