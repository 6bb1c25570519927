"""One sweep that is hurt at random, resumed as often as it takes, and compared with the
undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from foldrace.search.recording.outbox import waiting_records
from tests.faults.kinds import Fault, Kind, Rhythm, draw_fault, inject
from tests.faults.power import Disk
from tests.faults.record import Left, read_left
from tests.faults.victim import Session, Stage

__all__ = ["Case", "Outcome", "Reference", "draw_case", "run_case", "run_reference"]

_SPEC = Path(__file__).parent / "sweep.yaml"
_DISK = "64m"
_SHARED = Path("/dev/shm")
_KILLED = {Kind.DRIVER, Kind.POWER}


@dataclass(frozen=True)
class Reference:
    """The undisturbed sweep: what it left, and what it cost."""

    left: Left
    rhythm: Rhythm
    seconds: float
    ray_bytes: int


@dataclass(frozen=True)
class Case:
    """What shall happen, session by session; after the last fault the sweep is left alone."""

    seed: int
    kind: Kind
    sessions: tuple[tuple[Fault, ...], ...]
    snapshots: str


@dataclass
class Outcome:
    """How it went.

    Attributes:
        injected: by kind, the faults that met a living session.
        sessions: how many runs of the command line it took.
        amiss: what was lost, changed or left behind; nothing else counts as survived.
        repeated: fold-epochs trained beyond the reference's.
        seconds: wall-clock beyond the reference's, all sessions.
        log: what happened, in words.
    """

    case: Case
    injected: Counter[Kind] = field(default_factory=Counter)
    sessions: int = 0
    amiss: list[str] = field(default_factory=list)
    repeated: int = 0
    seconds: float = 0.0
    log: list[str] = field(default_factory=list)


def draw_case(seed: int, kind: Kind, rhythm: Rhythm) -> Case:
    """The case of a seed: one to three faults; a resumed sweep may be hurt again."""
    draw = random.Random(f"{seed}/{kind}")
    snapshots = draw.choice(("auto", "1"))
    several = [one for one in Kind if one not in (Kind.MIXED, Kind.DISK)]
    count = draw.choice((2, 3, 3)) if kind is Kind.MIXED else draw.choice((1, 1, 2))
    kinds = [draw.choice(several) if kind is Kind.MIXED else kind for _ in range(count)]
    faults = [draw_fault(one, rhythm, draw) for one in kinds]
    if kind is Kind.WORKER:  # which the sweep survives: all in one session, in their order
        return Case(
            seed, kind, (tuple(sorted(faults, key=lambda fault: fault.progress or 0)),), snapshots
        )
    return Case(seed, kind, tuple((fault,) for fault in faults), snapshots)


@contextmanager
def _stage(
    name: str, *, snapshots: str = "auto", small_disk: bool = False, keep: bool = False
) -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp(prefix="ff"))  # short: Ray's sockets lie below it
    stage = Stage(folder, name, snapshots=snapshots)
    if small_disk:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(stage.root)], check=True
        )
    try:
        yield stage
    finally:
        stage.kill_all()
        if small_disk and keep:
            shutil.copytree(stage.root, folder / "runs-kept")
        if small_disk:
            subprocess.run(["umount", str(stage.root)], check=True)
        if not (keep or (folder / "keep").exists()):
            shutil.rmtree(folder, ignore_errors=True)


def _command(stage: Stage) -> list[str]:
    """Begins the sweep, or goes on with it."""
    places = ["--dir", str(stage.root), "--data-dir", str(stage.folder / "data"), "--json"]
    if stage.sweep is None:
        return ["sweep", str(_SPEC), *places]
    return ["resume", stage.sweep.name, *places]


def run_reference() -> Reference:
    """The sweep, undisturbed. Raises: RuntimeError if it does not end well."""
    with _stage(f"reference-{os.getpid()}") as stage:
        session = Session(stage, _command(stage))
        session.wait_until(lambda: False, 900)
        if session.process.poll() != 0 or stage.sweep is None:
            raise RuntimeError(
                f"the undisturbed sweep ended with {session.process.poll()}:\n{session.errors}"
            )
        left = read_left(stage.sweep)
        if left.amiss:
            raise RuntimeError(f"the undisturbed sweep: {left.amiss}")
        seconds, epochs = session.seconds, stage.trained()
        rhythm = Rhythm(
            epochs[0] - session.began, len(epochs), session.began + seconds - epochs[-1]
        )
        return Reference(left, rhythm, seconds, _size(stage.ray))


def run_case(case: Case, reference: Reference, *, keep: bool = False) -> Outcome:
    """Hurts a sweep as the case says, and looks at what it has left."""
    outcome, draw = Outcome(case), random.Random(f"{case.seed}/inject")
    limit = 120 + 8 * reference.seconds
    shared = _shared()
    name = f"case-{case.seed}-{case.kind}-{os.getpid()}"
    full_disk = case.kind is Kind.DISK
    with _stage(name, snapshots=case.snapshots, small_disk=full_disk, keep=keep) as stage:
        disk = Disk(stage.root, stage.log / "synced")
        for faults in [*case.sessions, ()]:
            if _ended(stage):
                break
            _run_session(faults, stage, disk, reference.rhythm, outcome, draw, limit)
        outcome.amiss += [f"still running: {process}" for process in stage.remaining(30)]
        stage.kill_all()
        _examine(stage, outcome, reference)
        outcome.amiss += [f"left in {_SHARED}: {name}" for name in _leaked(shared)]
        if outcome.amiss and keep:
            (stage.folder / "keep").touch()
            outcome.log.append(f"kept in {stage.folder}")
            (stage.folder / "outcome.json").write_text(
                json.dumps([outcome.log, outcome.amiss], indent=1)
            )
        elif keep:
            shutil.rmtree(stage.folder / "r", ignore_errors=True)
    if keep and not outcome.amiss:
        shutil.rmtree(stage.folder, ignore_errors=True)
    return outcome


def _ended(stage: Stage) -> bool:
    """Whether there is nothing more to do: it has a result, and all of its record has arrived."""
    return (
        stage.sweep is not None
        and (stage.sweep / "result.json").exists()
        and not waiting_records(stage.sweep)
    )


def _run_session(
    faults: Sequence[Fault],
    stage: Stage,
    disk: Disk,
    rhythm: Rhythm,
    outcome: Outcome,
    draw: random.Random,
    limit: float,
) -> None:
    """One run of the command line, hurt as told, to its end."""
    command = _command(stage)
    session = Session(stage, command, disk.look)
    outcome.sessions += 1
    hurt = False
    for fault in faults:
        met = inject(fault, session, rhythm, disk, draw, limit)
        hurt |= met
        outcome.injected[fault.kind] += met
        outcome.log.append(f"{command[0]}: {fault}" + ("" if met else ": it had ended before"))
        outcome.log += session.told
        session.told.clear()
    session.wait_until(lambda: False, limit)
    if session.lives:
        outcome.amiss.append(f"{command[0]} hangs: {session.seconds:.0f} s")
        session.kill_everything()
    status = session.process.poll()
    outcome.seconds += session.seconds
    outcome.log.append(f"{command[0]} ended with {status} after {session.seconds:.0f} s")
    expected = status == 0 or hurt
    if not expected:
        outcome.amiss.append(f"{command[0]} ended with {status}: {session.errors[-1500:]}")
    before, found, after = session.errors.partition("Traceback")
    if found:
        outcome.amiss.append(
            f"{command[0]} shows a traceback: {before[-300:]}{found}{after[:2000]}"
        )


def _examine(stage: Stage, outcome: Outcome, reference: Reference) -> None:
    if stage.sweep is None or not (stage.sweep / "result.json").exists():
        outcome.amiss.append("there is no result")
        return
    left = read_left(stage.sweep)
    outcome.amiss += [*left.amiss, *reference.left.differences(left)]
    outcome.repeated = len(stage.trained()) - reference.rhythm.fold_epochs
    outcome.seconds -= reference.seconds
    allowed = outcome.sessions * (2 * reference.ray_bytes + 10 * 2**20)
    if (size := _size(stage.ray)) > allowed:
        outcome.amiss.append(
            f"Ray's session folders hold {size} bytes after {outcome.sessions} sessions"
        )


def _shared() -> set[str]:
    return {path.name for path in _SHARED.iterdir()} if _SHARED.is_dir() else set()


def _leaked(before: set[str]) -> list[str]:
    """What is new in shared memory and belongs to nobody who lives."""
    new = _shared() - before
    for process in psutil.process_iter() if new else ():
        try:
            new -= {
                Path(mapped.path).name
                for mapped in process.memory_maps()
                if mapped.path.startswith("/dev/shm/")
            }
            new -= {Path(file.path).name for file in process.open_files()}
        except psutil.Error:
            continue
    return sorted(name for name in new if (_SHARED / name).exists())


def _size(folder: Path) -> int:
    return sum(
        path.lstat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
