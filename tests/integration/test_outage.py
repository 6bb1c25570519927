"""A tracking server that dies while a sweep runs: the sweep goes on, and no point is lost or there twice."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Timer

import pytest
from sweeps import QUICK, SMALL_DIGITS, environment, sweep_arguments

pytestmark = pytest.mark.slow

DEADLINE = 240.0
SWEEP = [SMALL_DIGITS, "epochs=4", "search.trials=10", "search.sampler=random", "scheduler={kind: fifo}"]
POINTS = """
SELECT r.name, m.key, m.step, COUNT(*) FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid
GROUP BY r.name, m.key, m.step
"""


class Server:
    """A real MLflow server with one worker, and its store."""

    def __init__(self, root: Path) -> None:
        self.root, self._process = root, None
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns once it answers."""
        at = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        places = ["--backend-store-uri", f"sqlite:///{self.root}/server.db"]
        places += ["--artifacts-destination", str(self.root / "art")]
        command = [sys.executable, "-m", "mlflow", "server", *at, *places]
        options = environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.root / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=options, cwd=self.root, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + DEADLINE
        while not self._answers():
            assert time.monotonic() < deadline and self._process.poll() is None, (self.root / "server.log").read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """As a power failure would, with its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def query(self, text: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.root / "server.db")) as base:
            return list(base.execute(text))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_sweep(server: Server) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "foldrace", *sweep_arguments(QUICK, server.root / "sweeps", SWEEP)]
    process = subprocess.Popen(
        [*command, "--tracking-uri", server.uri], cwd=server.root, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    deadline = Timer(DEADLINE, process.kill)
    deadline.start()
    try:
        yield process
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Its standard error up to a line that holds ``pattern``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError(f"no {pattern!r} in:\n" + "".join(lines))


def assert_whole(server: Server, result: Mapping[str, object]) -> None:
    """Ten trials of three folds and four epochs, every point once, every run ended, the winner's models there."""
    assert result["trials"] == {"completed": 10, "pruned": 0, "failed": 0}
    levels = server.query("SELECT value, COUNT(*) FROM tags WHERE key = 'foldrace.level' GROUP BY value")
    assert dict(levels) == {"sweep": 1, "trial": 10, "fold": 30}
    assert server.query("SELECT DISTINCT status FROM runs") == [("FINISHED",)]
    points = server.query(POINTS)
    # two trials may end at the same fold-epochs of the sweep, each the best so far; nothing else is there twice
    assert not [point for point in points if point[3] != 1 and point[0] != "quick"]
    doubled = "SELECT key, step FROM metrics GROUP BY run_uuid, key, step, value HAVING COUNT(*) > 1"
    assert server.query(doubled) == []
    losses = [(name, step) for name, key, step, _ in points if key == "val_loss" and name != "quick"]
    folds = {(f"trial {t:04d} fold {k}", epoch) for t in range(10) for k in range(3) for epoch in (1, 2, 3, 4)}
    assert set(losses) == folds | {(f"trial {t:04d}", 3 * epoch) for t in range(10) for epoch in (1, 2, 3, 4)}
    assert len(list((server.root / "art").glob("**/checkpoint/state_dict.pt"))) == 3


def test_killed_and_restarted_in_the_middle_of_a_sweep(server: Server) -> None:
    with running_sweep(server) as process:
        read_until(process, r"trial \d+ completed")
        server.kill()
        read_until(process, f"recording waits: {server.uri} does not answer")
        server.start()
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert err.count("recording goes on") == 1 and "records wait in" not in err
    assert_whole(server, json.loads(out.splitlines()[-1]))
    assert not (server.root / "sweeps" / "quick" / "spool").exists()


def test_killed_for_good_the_sweep_ends_well_and_sync_completes_the_record_later(server: Server) -> None:
    with running_sweep(server) as process:
        read_until(process, r"trial \d+ completed")
        server.kill()
        read_until(process, f"recording waits: {server.uri} does not answer")
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert re.search(r"records wait in .*foldrace sync quick --dir", err), err
    result = json.loads(out.splitlines()[-1])
    folder = server.root / "sweeps" / "quick"
    assert json.loads((folder / "result.json").read_text())["best"] == result["best"]
    server.start()
    for said in (r"\d+ records delivered", "nothing waits"):
        command = [sys.executable, "-m", "foldrace", "sync", "quick", "--dir", str(folder.parent)]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0 and re.search(said, done.stdout), done.stdout + done.stderr
    assert_whole(server, result)
    assert (folder / "overview.png").is_file()
