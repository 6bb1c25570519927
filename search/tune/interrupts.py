"""Ctrl-C once stops a sweep cleanly; twice, at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupt", "graceful_interrupt", "repeat_swallowed_interrupts"]

_MOMENT = 0.05


class Interrupt:
    """Whether the sweep has been asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.tuning = False

    def stop(self) -> None:
        """Lets the Tune experiment that runs end after saving its state."""
        self.asked = True
        os.kill(os.getpid(), signal.SIGUSR1)  # the signal by which Tune is asked to save and stop


@contextmanager
def graceful_interrupt(notify: Callable[[str], None]) -> Iterator[Interrupt]:
    """Within this block, the first SIGINT or SIGTERM lets a running Tune experiment end after
    saving its state.

    Before and after the experiment, and the second time, it raises KeyboardInterrupt.
    """
    state = Interrupt()

    def handle(number: int, frame: FrameType | None) -> None:
        again, state.asked = state.asked, True
        if again or not state.tuning or not callable(signal.getsignal(signal.SIGUSR1)):
            raise KeyboardInterrupt
        notify("Stopping: what is done is kept. Press Ctrl-C again to stop at once.")
        state.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def repeat_swallowed_interrupts() -> None:
    """From now on, a KeyboardInterrupt that Python cannot raise, as it came amid an object's end
    or a weak reference's callback, comes again a moment later, and shows no traceback."""
    before = sys.unraisablehook

    def show(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(_MOMENT, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            before(unraisable)

    sys.unraisablehook = show
