"""A trial keeps within its time, its memory and what it may print."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

from foldrace.trainables.ray.limits import (
    Limits,
    Output,
    TrialTimeout,
    enforce_limits,
    is_out_of_memory,
)


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )


def test_a_loop_is_ended_though_it_catches_exceptions() -> None:
    began = time.monotonic()
    named = pytest.raises(TrialTimeout, match=r"limits.trial_timeout \(0.2 s of training\)")
    with named, enforce_limits(Limits(seconds=0.2), 0.0, Output(10)):
        while time.monotonic() - began < 60:
            with suppress(Exception):
                time.sleep(60)
    assert time.monotonic() - began < 30


def test_the_time_that_was_spent_before_counts() -> None:
    with pytest.raises(TrialTimeout), enforce_limits(Limits(seconds=100.0), 100.0, Output(10)):
        time.sleep(60)


def test_nothing_comes_after_a_trial_that_was_in_time() -> None:
    with enforce_limits(Limits(seconds=0.2), 0.0, Output(10)):
        pass
    time.sleep(0.4)


def test_what_no_exception_reaches_ends_with_its_process_and_says_where() -> None:
    told = alone(
        "import signal\n"
        "from foldrace.trainables.ray import limits\n"
        "limits._EXIT_SECONDS = 0.3\n"
        "def stuck():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    while True: pass\n"
        "with limits.enforce_limits(limits.Limits(seconds=0.1), 0.0, limits.Output(10)):\n"
        "    stuck()\n"
    )
    assert told.returncode == 1 and "Timeout" in told.stderr and "in stuck" in told.stderr


def test_only_so_much_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    output = Output(10)
    for text in ("12345", "67890abc", "def"):
        with enforce_limits(Limits(), 0.0, output):
            print(text, end="")
            print(text, end="", file=sys.stderr)
    out, err = capfd.readouterr()
    assert (out, err) == ("12345", "12345")
    assert output.dropped == 2 * 16 - 10


def test_memory_beyond_the_limit_is_refused_and_that_is_known() -> None:
    told = alone(
        "import torch\n"
        "from foldrace.trainables.ray.limits import *\n"
        "held = limit_memory(200_000_000)\n"
        "assert held > 0\n"
        "first = torch.zeros(25_000_000)\n"
        "assert private_memory() - held > 90_000_000\n"
        "for make in (lambda: torch.zeros(50_000_000), lambda: bytearray(200_000_000)):\n"
        "    try:\n"
        "        make()\n"
        "    except Exception as error:\n"
        "        assert is_out_of_memory(error), error\n"
        "    else:\n"
        "        raise SystemExit('not refused')\n"
    )
    assert told.returncode == 0, told.stderr


def test_what_says_that_memory_is_out() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(ValueError("out of memory")) and not is_out_of_memory(
        RuntimeError("shapes differ")
    )
