"""The record of a running sweep: kept on disk at once, and brought to MLflow beside the sweep or
after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from foldrace.errors import StateError
from foldrace.search.recording.commands import at, program
from foldrace.search.recording.delivery import Delivery
from foldrace.search.recording.events import Event, EventSink
from foldrace.search.recording.local_store import write_ahead
from foldrace.search.recording.outbox import SPOOL, Outbox, waiting_records
from foldrace.search.recording.store import SweepFolder, check_tracking, connect, find_sweep
from foldrace.search.recording.writer import MlflowWriter

__all__ = ["OutboxSink", "deliver_rest", "keep_for_later", "recording", "sync_sweep"]

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


class OutboxSink(EventSink):
    """Keeps each event in the outbox and returns: it never waits for MLflow."""

    def __init__(self, spool: Outbox) -> None:
        self._spool = spool

    def _take(self, event: Event) -> None:
        self._spool.append(event)

    def sync(self) -> None:
        self._spool.sync()


class _Durable:
    """A recorder whose store has what it was given on disk when `apply` returns."""

    def __init__(self, recorder: MlflowWriter, settle: Callable[[], None]) -> None:
        self._recorder, self._settle = recorder, settle

    @property
    def written(self) -> int:
        return self._recorder.written

    def apply(self, events: Sequence[Event]) -> None:
        self._recorder.apply(events)
        self._settle()


@contextmanager
def _delivering(
    folder: SweepFolder, recorder: MlflowWriter, say: Callable[[str], None]
) -> Iterator[Outbox]:
    """Within this block a sweep's spool is delivered; at its end it is empty, or the store does
    not answer."""
    spool = Outbox(folder.path / SPOOL, say)
    with _no_hidden_retries(), write_ahead(recorder.client) as settle:
        delivery = Delivery(spool, _Durable(recorder, settle), say)
        delivery.start()
        try:
            yield spool
        finally:
            delivery.drain()
            spool.sync()
            spool.close()


@contextmanager
def recording(
    folder: SweepFolder, recorder: MlflowWriter, say: Callable[[str], None]
) -> Iterator[OutboxSink]:
    """Within this block, what is recorded is kept on disk and delivered to ``recorder`` from a
    thread of its own. At the block's end all has been delivered, or it says how that can be done
    later."""
    with ExitStack() as stack:
        stack.callback(_say_what_waits, folder, say)  # after the delivery
        yield OutboxSink(stack.enter_context(_delivering(folder, recorder, say)))


def _say_what_waits(folder: SweepFolder, say: Callable[[str], None]) -> None:
    if waiting := waiting_records(folder.path):
        command = f"{program()} sync {folder.name}{at(folder.root, Path('runs').resolve())}"
        say(
            f"recording: {waiting:,} records wait in {folder.path / SPOOL}; `{command}` delivers"
            " them"
        )


def deliver_rest(folder: SweepFolder, recorder: MlflowWriter, say: Callable[[str], None]) -> int:
    """Delivers what an earlier session of a sweep has left, and returns how many records that
    were. The sweep must be locked. Raises: StateError if the tracking store stays away."""
    waiting = waiting_records(folder.path)
    if waiting:
        say(f"{folder.name}: {waiting:,} records of an earlier session are delivered")
        with _delivering(folder, recorder, say) as spool:
            pass
        if spool.waiting:
            raise StateError(
                f"{folder.name}: the tracking store does not answer; {spool.waiting:,} records"
                " still wait"
            )
    return waiting


def keep_for_later(folder: SweepFolder, event: Event) -> None:
    """Adds an event to the spool of a sweep that has ended. Raises: StateError if somebody runs
    it."""
    with folder.locked():
        spool = Outbox(folder.path / SPOOL)
        spool.append(event)
        spool.sync()
        spool.close()


def sync_sweep(
    name: str | None, root: Path, say: Callable[[str], None]
) -> tuple[SweepFolder, int]:
    """Delivers what waits of a sweep, or of the latest; returns its folder and how many records
    that were.

    Raises: StateError: no such sweep, one that is running, or a tracking store that does not
        answer.
    """
    folder = find_sweep(root, name)
    with folder.locked():
        if not waiting_records(folder.path):
            return folder, 0
        state = folder.read_state()
        check_tracking(state.tracking_uri)
        client = connect(state.tracking_uri)
        recorder = MlflowWriter(client, state.experiment_id, folder.name, state.key, folder.path)
        return folder, deliver_rest(folder, recorder, say)


@contextmanager
def _no_hidden_retries() -> Iterator[None]:
    """Within this block MLflow's HTTP client tries once: a run whose making was tried twice would
    be there twice."""
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RETRIES]
        else:
            os.environ[_RETRIES] = before
