"""A local MLflow server that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

__all__ = ["TrackingServer"]

_DEADLINE = 240.0


class TrackingServer:
    """A real MLflow server with one worker process on this machine, and its SQLite store.

    Args:
        root: the folder of its store, its artifacts and its log.
        environment: of its processes; by default that of this process.
    """

    def __init__(self, root: Path, environment: Mapping[str, str] | None = None) -> None:
        self.root, self._environment = (
            root,
            dict(os.environ if environment is None else environment),
        )
        self._process: subprocess.Popen[bytes] | None = None
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts the server and waits until it answers; raises RuntimeError if it does not."""
        at = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        places = ["--backend-store-uri", f"sqlite:///{self.root}/server.db"]
        places += ["--artifacts-destination", str(self.root / "art")]
        command = [sys.executable, "-m", "mlflow", "server", *at, *places]
        options = self._environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.root / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=options, cwd=self.root, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _DEADLINE
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.root / "server.log").read_text())
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """Kills the server and its workers at once (SIGKILL)."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def query(self, text: str) -> list[tuple[object, ...]]:
        """The rows of an SQL query on its store."""
        with closing(sqlite3.connect(self.root / "server.db")) as base:
            return list(base.execute(text))
