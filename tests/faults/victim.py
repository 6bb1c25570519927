"""A sweep in processes of its own, to be hurt: started, watched, killed, and counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

__all__ = ["Session", "Stage"]

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside"
_MARK = "FOLDRACE_FAULTS"
_POLL = 0.05
_NOT_OURS = {"MLFLOW_TRACKING_URI", "FOLDRACE_DIR", "FOLDRACE_DATA_DIR", "RAY_ADDRESS"}


class Stage:
    """The folders of one case: the sweep's root, what is noted of it, and Ray's own.

    Attributes:
        name: unique among all cases that run on the machine; the processes carry it in their
            environment.
        snapshots: seconds between two snapshots of Tune's state, or ``auto``.
    """

    def __init__(self, folder: Path, name: str, *, snapshots: str = "auto") -> None:
        self.folder, self.name, self.snapshots = folder, name, snapshots
        self.root, self.log, self.ray = folder / "runs", folder / "log", folder / "r"
        for made in (self.root, self.log, self.ray):
            made.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of the sweep's processes."""
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
        path = os.pathsep.join([str(INSIDE), str(ROOT), os.environ.get("PYTHONPATH", "")])
        own = {_MARK: self.name, "FOLDRACE_FAULTS_LOG": str(self.log), "RAY_TMPDIR": str(self.ray)}
        own |= {
            "TUNE_GLOBAL_CHECKPOINT_S": self.snapshots,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
        }
        return kept | own | {"RAY_USAGE_STATS_ENABLED": "0"}

    @property
    def sweep(self) -> Path | None:
        """The newest sweep's folder that can be resumed; None if none has got so far."""
        found = [path.parent for path in self.root.glob("*/state.json")]
        return max(found, key=lambda path: (path / "state.json").stat().st_ctime_ns, default=None)

    def trained(self) -> list[float]:
        """When each fold-epoch ended, those that were repeated too."""
        path = self.log / "trained"
        found = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
        return [float(words[3]) for words in found if len(words) == 4]

    def processes(self) -> Iterator[psutil.Process]:
        """Every process of the case that lives, whoever is its parent by now."""
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get(_MARK) == self.name
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    yield process
            except psutil.Error:
                continue

    def named(self, start: str) -> list[psutil.Process]:
        """The processes whose command begins so."""
        found = []
        for process in self.processes():
            try:
                if process.name().startswith(start) or "".join(process.cmdline()[:1]).startswith(
                    start
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def remaining(self, seconds: float) -> list[str]:
        """The processes that are still there after so long at most."""
        until = time.monotonic() + seconds
        while (there := list(self.processes())) and time.monotonic() < until:
            time.sleep(0.2)
        return [_describe(process) for process in there]

    def kill_all(self) -> None:
        """Ends every process of the case at once."""
        until = time.monotonic() + 30
        while (there := list(self.processes())) and time.monotonic() < until:
            for process in there:
                _kill(process.pid)
            psutil.wait_procs(there, timeout=1)


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:80]}"
    except psutil.Error:
        return str(process.pid)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Session:
    """One run of the command line on a stage: ``sweep`` or ``resume``.

    Attributes:
        earlier: the fold-epochs that were trained before it.
        told: what was done to it, for the log.
    """

    def __init__(
        self, stage: Stage, arguments: list[str], watch: Callable[[], None] = lambda: None
    ) -> None:
        self.stage, self._watch, self.told = stage, watch, list[str]()
        self.began, self.earlier = time.time(), len(stage.trained())
        self.out, self.err = stage.folder / "out", stage.folder / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "foldrace", *arguments],
                cwd=stage.folder,
                env=stage.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._until = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.time() - self.began

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def wait_until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Whether the condition came to hold while the session lived and was no older than
        ``limit`` seconds."""
        while self.lives and self.seconds < limit:
            if condition():
                return True
            self._watch()
            time.sleep(_POLL)
        return False

    def kill(self) -> None:
        """kill -9 of the driver."""
        _kill(self.process.pid)
        self.process.wait()

    def kill_everything(self) -> None:
        """kill -9 of the driver, of Ray and of all workers."""
        _kill(self.process.pid)
        self.stage.kill_all()
        self.process.wait()

    @property
    def errors(self) -> str:
        """What it said on standard error."""
        return self.err.read_text(errors="replace")
