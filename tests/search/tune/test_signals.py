"""Ctrl-C at moments at which Python cannot raise."""

from __future__ import annotations

import subprocess
import sys

_SWALLOWED = """
import signal, time, weakref
from foldrace.search.tune.interrupts import repeat_swallowed_interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job in the background
repeat_swallowed_interrupts()

class Thing:
    pass

class Broken:
    def __del__(self):
        raise ValueError("shown as ever")

thing = Thing()
watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
try:
    del thing
    Broken()
    time.sleep(10)
    print("it was swallowed")
except KeyboardInterrupt:
    print("interrupted")
Broken()
"""


def test_an_interrupt_amid_a_weak_references_callback_comes_again_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SWALLOWED], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "interrupted\n"
    assert "KeyboardInterrupt" not in done.stderr
    assert "shown as ever" in done.stderr
