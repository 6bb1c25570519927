"""The kinds of faults, and how each is drawn and done to a running sweep."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.faults.power import Disk
from tests.faults.victim import Session

__all__ = ["Fault", "Kind", "Rhythm", "can_mount", "draw_fault", "inject"]


class Kind(StrEnum):
    """What goes wrong."""

    WORKER = "worker"
    DRIVER = "driver"
    RAYLET = "raylet"
    INTERRUPT = "interrupt"
    POWER = "power"
    DISK = "disk"
    MIXED = "mixed"


@dataclass(frozen=True)
class Rhythm:
    """The undisturbed sweep: seconds to its first epoch, how many fold-epochs, and seconds from
    the last to the end."""

    start: float
    fold_epochs: int
    closing: float


@dataclass(frozen=True)
class Fault:
    """One fault of one session.

    Attributes:
        progress: the share of what is left to train when the session begins, after which it comes:
            so a busy machine changes little. None: before any training.
        delay: seconds after that, or after the session's beginning.
        strength: how many workers; how many signals; seconds that the disk stays full.
        gap: seconds between two signals.
        number: which signal, for an interrupt.
    """

    kind: Kind
    progress: float | None
    delay: float
    strength: float = 1
    gap: float = 0.0
    number: int = signal.SIGKILL

    def __str__(self) -> str:
        also = f" x{self.strength:.1f}".replace(".0", "") if self.strength != 1 else ""
        name = f" {signal.Signals(self.number).name}" if self.kind is Kind.INTERRUPT else ""
        when = "the start" if self.progress is None else f"{self.progress:.0%}"
        return f"{self.kind}{name}{also} {self.delay:.1f} s after {when}"


def draw_fault(kind: Kind, rhythm: Rhythm, draw: random.Random) -> Fault:
    """A fault at a random time: one in seven before the training, one in seven after it, the
    others in it."""
    assert kind is not Kind.MIXED
    phase = (
        "training"
        if kind in (Kind.WORKER, Kind.RAYLET)
        else draw.choice(("start", "closing", *["training"] * 5))
    )
    match phase:
        case "start":
            progress, delay = None, draw.uniform(0.2, rhythm.start)
        case "closing":
            progress, delay = 1.0, draw.uniform(0, rhythm.closing)
        case _:
            progress, delay = draw.random(), draw.uniform(0, 0.5)
    match kind:
        case Kind.WORKER:
            return Fault(kind, progress, delay, draw.choice((1, 1, 2)))
        case Kind.INTERRUPT:
            number = draw.choice((signal.SIGINT, signal.SIGTERM))
            return Fault(
                kind, progress, delay, draw.choice((1, 1, 2)), draw.uniform(0.02, 2.0), number
            )
        case Kind.DISK:
            return Fault(kind, progress, delay, draw.uniform(1, 8))
    return Fault(kind, progress, delay)


def can_mount() -> bool:
    """Whether this process may mount a small file system, which a full disk takes."""
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True
        )
        return (
            tried.returncode == 0
            and subprocess.run(["umount", folder], capture_output=True).returncode == 0
        )


def inject(
    fault: Fault, session: Session, rhythm: Rhythm, disk: Disk, draw: random.Random, limit: float
) -> bool:
    """Waits for its time and does it; False if the session ended before. What was torn is told to
    the session."""
    if fault.progress is not None:
        left = max(1, rhythm.fold_epochs - session.earlier)
        goal = session.earlier + max(1, math.ceil(fault.progress * left))
        if not session.wait_until(lambda: len(session.stage.trained()) >= goal, limit):
            return False
    due = fault.delay + (0.0 if fault.progress is None else session.seconds)
    if not session.wait_until(lambda: session.seconds >= due, limit):
        return False
    match fault.kind:
        case Kind.WORKER:
            return _kill_workers(fault, session, draw, limit)
        case Kind.DRIVER:
            session.kill()
        case Kind.RAYLET:
            for raylet in session.stage.named("raylet"):
                os.kill(raylet.pid, signal.SIGKILL)
        case Kind.INTERRUPT:
            _interrupt(fault, session)
        case Kind.POWER:
            session.kill_everything()
            session.told += disk.tear(draw)
        case Kind.DISK:
            _fill(session.stage.root, fault.strength, session)
    return True


def _kill_workers(fault: Fault, session: Session, draw: random.Random, limit: float) -> bool:
    """kill -9 of those that train, as many as there are at most; waits for one."""
    if not session.wait_until(lambda: bool(session.stage.named("ray::FoldTrainable")), limit):
        return False
    workers = session.stage.named("ray::FoldTrainable")
    for worker in draw.sample(workers, min(len(workers), int(fault.strength))):
        try:
            os.kill(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return bool(workers)


def _interrupt(fault: Fault, session: Session) -> None:
    for turn in range(int(fault.strength)):
        if turn:
            time.sleep(fault.gap)
        if session.lives:
            session.process.send_signal(fault.number)


def _fill(root: Path, seconds: float, session: Session) -> None:
    """Takes all that is left of the disk, for so long."""
    filler = root / "filler"
    until = time.monotonic() + seconds
    with filler.open("wb", buffering=0) as file:
        size = 2**20
        while time.monotonic() < until:  # what others free is taken as well
            try:
                file.write(b"\0" * size)
            except OSError:
                if size > 1:
                    size //= 2
                    continue
                size = 4096
                time.sleep(0.05)
    session.told.append(f"{shutil.disk_usage(root).free} bytes were free")
    filler.unlink()
