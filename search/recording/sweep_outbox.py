"""The outbox of a sweep and its delivery to MLflow: during the sweep, at its end, or later."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from foldrace.command_hints import dir_option, program
from foldrace.errors import StateError
from foldrace.search.recording.delivery import Delivery
from foldrace.search.recording.events import Event, EventSink
from foldrace.search.recording.folder import SweepFolder, find_sweep
from foldrace.search.recording.local_store import write_ahead
from foldrace.search.recording.mlflow_internals import RETRIES, check_mlflow
from foldrace.search.recording.outbox import OUTBOX, Outbox, waiting_records
from foldrace.search.recording.tracking import check_tracking, connect
from foldrace.search.recording.writer import MlflowWriter

__all__ = ["OutboxSink", "deliver_rest", "keep_for_later", "recording", "sync_sweep"]

log = logging.getLogger(__name__)


class OutboxSink(EventSink):
    """Puts each event into the outbox and returns: it never waits for MLflow."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def _take(self, event: Event) -> None:
        self._outbox.append(event)

    def sync(self) -> None:
        self._outbox.sync()


class _SyncedWriter:
    """A writer whose store has on disk what it was given when `apply` returns."""

    def __init__(self, writer: MlflowWriter, sync: Callable[[], None]) -> None:
        self._writer, self._sync = writer, sync

    @property
    def written(self) -> int:
        return self._writer.written

    def apply(self, events: Sequence[Event], *, suspect: bool = False) -> None:
        self._writer.apply(events, suspect=suspect)
        self._sync()

    def answers(self) -> bool:
        return self._writer.answers()


@contextmanager
def _delivering(folder: SweepFolder, writer: MlflowWriter) -> Iterator[Outbox]:
    """Delivers the sweep's outbox within the block, and drains it at the end."""
    outbox = Outbox(folder.path / OUTBOX)
    with _single_requests(), write_ahead(writer.client) as sync:
        delivery = Delivery(outbox, _SyncedWriter(writer, sync))
        delivery.start()
        try:
            yield outbox
        finally:
            delivery.drain()
            outbox.sync()
            outbox.close()


@contextmanager
def recording(folder: SweepFolder, writer: MlflowWriter) -> Iterator[OutboxSink]:
    """Yields a sink whose events are kept on disk and delivered to ``writer`` in a thread.

    At the block's end everything is delivered, or a warning says how to deliver the rest later.
    """
    with ExitStack() as stack:
        stack.callback(_warn_of_waiting, folder)  # called after the delivery has ended
        yield OutboxSink(stack.enter_context(_delivering(folder, writer)))


def _warn_of_waiting(folder: SweepFolder) -> None:
    if waiting := waiting_records(folder.path):
        place, where = folder.path / OUTBOX, dir_option(folder.root, Path("runs").resolve())
        command = f"{program()} sync {folder.name}{where}"
        log.warning(
            "recording: %s records wait in %s; `%s` delivers them", f"{waiting:,}", place, command
        )


def deliver_rest(folder: SweepFolder, writer: MlflowWriter) -> int:
    """Delivers what earlier sessions of a sweep have left in the outbox; the sweep must be locked.

    Returns:
        How many records these were.

    Raises:
        StateError: the tracking store does not answer.
    """
    waiting = waiting_records(folder.path)
    if waiting:
        log.info("%s: delivering %s records of an earlier session", folder.name, f"{waiting:,}")
        with _delivering(folder, writer) as outbox:
            pass
        if outbox.waiting:
            raise StateError(
                f"{folder.name}: the tracking store does not answer; {outbox.waiting:,} records"
                f" still wait; `foldrace sync {folder.name}` once it does"
            )
    return waiting


def keep_for_later(folder: SweepFolder, event: Event) -> None:
    """Adds an event to the outbox of a sweep that has ended.

    Raises:
        StateError: another process runs the sweep.
    """
    with folder.locked():
        outbox = Outbox(folder.path / OUTBOX)
        outbox.append(event)
        outbox.sync()
        outbox.close()


def sync_sweep(name: str | None, root: Path) -> tuple[SweepFolder, int]:
    """Delivers the outbox of the sweep called ``name``, or of the latest sweep.

    Returns:
        The sweep's folder, and how many records were delivered.

    Raises:
        StateError: there is no such sweep, it is running, or its tracking store does not answer.
    """
    folder = find_sweep(root, name)
    with folder.locked():
        if not waiting_records(folder.path):
            return folder, 0
        state = folder.read_state()
        check_mlflow()
        check_tracking(state.tracking_uri)
        client = connect(state.tracking_uri)
        writer = MlflowWriter(client, state.experiment_id, folder.name, state.key, folder.path)
        return folder, deliver_rest(folder, writer)


@contextmanager
def _single_requests() -> Iterator[None]:
    """Keeps MLflow's HTTP client from retrying: a retry of `create_run` could create a second run.

    `Delivery` retries instead, and looks first whether the run exists.
    """
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RETRIES]
        else:
            os.environ[RETRIES] = before
