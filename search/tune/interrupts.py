"""Ctrl-C: the first one stops a sweep and saves its state, the second stops it at once."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupt", "graceful_interrupt", "repeat_swallowed_interrupts"]

log = logging.getLogger(__name__)

_MOMENT = 0.05  # seconds


class Interrupt:
    """Whether a sweep has been asked to stop.

    Attributes:
        asked: it has been asked to.
        tuning: a Tune experiment is running, so that it can stop with its state saved.
    """

    def __init__(self) -> None:
        self.asked = False
        self.tuning = False

    def stop(self) -> None:
        """Lets the running Tune experiment save its state and end."""
        self.asked = True
        os.kill(os.getpid(), signal.SIGUSR1)  # Tune handles this signal by saving and stopping


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """Within this block, the first SIGINT or SIGTERM lets a running Tune experiment save its state
    and end. Outside an experiment, and the second time, it raises KeyboardInterrupt."""
    state = Interrupt()

    def handle(number: int, frame: FrameType | None) -> None:
        again, state.asked = state.asked, True
        if again or not state.tuning or not callable(signal.getsignal(signal.SIGUSR1)):
            raise KeyboardInterrupt
        log.info("Stopping: completed work is kept. Press Ctrl-C again to stop at once.")
        state.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def repeat_swallowed_interrupts() -> None:
    """Sends SIGINT again a moment after Python had to ignore a KeyboardInterrupt.

    Python cannot raise it inside an object's finalizer or a weak reference's callback. From now on
    such an interrupt is repeated, and no traceback is printed for it.
    """
    before = sys.unraisablehook

    def show(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(_MOMENT, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            before(unraisable)

    sys.unraisablehook = show
