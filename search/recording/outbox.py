"""The outbox of a sweep: events on local disk, in order, until the tracking store has them."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foldrace.files import fsync_path, write_text_atomically
from foldrace.search.recording.events import Event, Reported, from_json, to_json

__all__ = ["OUTBOX", "Batch", "Outbox", "Waiting", "waiting_in", "waiting_records"]

log = logging.getLogger(__name__)

OUTBOX = "spool"
"""The name of the outbox's folder, in the sweep's folder."""

_SEGMENT = re.compile(r"(\d{6,})\.jsonl")
_CURSOR, _REFUSED = "delivered.json", "refused.jsonl"
_MB = 2**20


@dataclass(frozen=True)
class Waiting:
    """An event that waits, and its line in the outbox."""

    event: Event
    line: bytes


@dataclass(frozen=True)
class Batch:
    """The next events to deliver.

    Attributes:
        segment, offset: the file and the byte where they end.
        lines: how many lines they take, unreadable ones included.
    """

    events: Sequence[Waiting]
    segment: int
    offset: int
    lines: int


def _segments(folder: Path) -> list[int]:
    names = (_SEGMENT.fullmatch(path.name) for path in folder.glob("*.jsonl"))
    return sorted(int(name[1]) for name in names if name)


def _segment(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.jsonl"


def _cursor(folder: Path) -> tuple[int, int]:
    """(segment, offset) up to which everything is delivered; if lost, all is delivered again."""
    try:
        cursor = json.loads((folder / _CURSOR).read_text())
        return int(cursor["segment"]), int(cursor["offset"])
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
    """The number of events that wait in an outbox; 0 if the folder does not exist."""
    return _undelivered(folder)[0]


def waiting_records(folder: Path) -> int:
    """The number of events of the sweep in ``folder`` that are not in the tracking store yet."""
    return waiting_in(folder / OUTBOX)


class Outbox:
    """A queue of events that survives its process.

    An event is one line of JSON, appended with one write. So an event that was appended before
    the process was killed is complete. A last line that a power failure cut short is removed when
    the outbox is opened again. Appending does not wait for the disk: the delivering thread makes
    events safe from a power failure (`sync`, `take`). One thread may append while another
    delivers. Only one process may have an outbox open.

    Args:
        folder: created with the first event.
        segment: bytes after which a new file is started; delivered files are removed.
        limit: bytes that may wait: beyond half of it pictures are dropped, beyond it reports too,
            with one warning each.
    """

    def __init__(self, folder: Path, *, segment: int = 4 * _MB, limit: int = 1024 * _MB) -> None:
        self.folder, self._segment_bytes, self._limit = folder, segment, limit
        self._lock = threading.Lock()
        there = _segments(folder)
        self._at, self._offset = _cursor(folder)
        if there:
            _cut_torn_line(_segment(folder, there[-1]))
        self._last = max([self._at, *there])
        self._file: int | None = None
        self._written = 0  # bytes of the open file
        self._unsynced: set[int] = set()
        self._warned: set[str] = set()
        self.waiting, self._bytes = _undelivered(folder)

    def append(self, event: Event) -> None:
        """Keeps an event.

        Raises:
            OSError: the disk refuses it; earlier events stay readable.
        """
        if isinstance(event, Reported) and self._bytes > self._limit / 2:
            self._warn_once("recording: too much waits for MLflow; pictures are dropped from now")
            event = replace(event, picture=None)
            if self._bytes > self._limit:
                waiting = f"{self._bytes // _MB} MB"
                self._warn_once("recording: %s wait for MLflow; reports are lost now", waiting)
                return
        line = to_json(event).encode() + b"\n"
        with self._lock:
            if self._file is None or self._written >= self._segment_bytes:
                self._begin_segment()
            assert self._file is not None
            if (written := os.write(self._file, line)) != len(line):
                os.ftruncate(self._file, self._written)
                message = f"the disk took {written} of an event's {len(line)} bytes"
                raise OSError(errno.ENOSPC, message, str(self.folder))
            self._unsynced.add(self._last)
            self._written += len(line)
            self.waiting, self._bytes = self.waiting + 1, self._bytes + len(line)

    def _warn_once(self, message: str, *values: object) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message, *values)

    def _begin_segment(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._close_file()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(_segment(self.folder, self._last + 1), flags, 0o644)
        self._last, self._written = self._last + 1, 0

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def sync(self) -> None:
        """Makes all events so far safe from a power failure."""
        with self._lock:
            unsynced, self._unsynced = self._unsynced, set()
        for number in unsynced:
            fsync_path(_segment(self.folder, number))
        if unsynced:
            fsync_path(self.folder)

    def take(self, most: int) -> Batch:
        """The next events, at most ``most``, safe on disk; they stay until `delivered`."""
        self.sync()
        with self._lock:
            last, end = self._last, self._written if self._file is not None else None
        for number in [one for one in _segments(self.folder) if self._at <= one <= last]:
            start = self._offset if number == self._at else 0
            with _segment(self.folder, number).open("rb") as file:
                file.seek(start)
                data = file.read(_MB if number != last or end is None else min(_MB, end - start))
                # the last line goes on, except at `end`, where a line ends
                if data and not data.endswith(b"\n"):
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
        """Removes the events of a batch."""
        cursor = {"segment": batch.segment, "offset": batch.offset}
        write_text_atomically(self.folder / _CURSOR, json.dumps(cursor))
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
        """Sets a line aside, in the file `refused`."""
        entry = {"reason": reason, "record": line.decode(errors="replace")}
        with self.refused.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    @property
    def refused(self) -> Path:
        """The file of the lines that were set aside."""
        return self.folder / _REFUSED

    def close(self) -> None:
        """Closes the outbox; if nothing waits, only the file `refused` stays on disk."""
        self._close_file()
        if self.waiting == 0 and self.folder.is_dir():
            for number in _segments(self.folder):
                _segment(self.folder, number).unlink()
            (self.folder / _CURSOR).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def _cut_torn_line(path: Path) -> None:
    """Removes what follows the last newline; a segment is a few MB at most."""
    content = path.read_bytes()
    if (keep := content.rfind(b"\n") + 1) < len(content):
        os.truncate(path, keep)
