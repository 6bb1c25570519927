"""The cluster's MLflow server: ``python -m foldrace.cluster.mlflow_server start | stop``.

It listens on the head's loopback alone. The sweep's driver runs on the head and is the only
process that records; a laptop reads through a tunnel. Options come from the environment:

``FOLDRACE_MLFLOW_STORE``
    the store of runs, ``postgresql+psycopg2://…``; by default a SQLite file in ``~/mlflow``.
``FOLDRACE_MLFLOW_ARTIFACTS``
    the store of artifacts, ``s3://…``, ``gs://…`` or a folder; by default ``~/mlflow/artifacts``.
``FOLDRACE_MLFLOW_APP``
    ``basic-auth`` asks for a user and a password; by default nothing is asked. MLflow creates the
    user ``admin`` with ``MLFLOW_AUTH_ADMIN_PASSWORD``. Sweeps log in with
    ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

__all__ = ["command", "main", "start", "stop"]

_PORT = 5000
_START_SECONDS = 120.0


def command(home: Path) -> list[str]:
    """The server's command.

    The store of runs is not in it, because its address can hold a password, and every user of a
    machine sees the commands that run there.
    """
    artifacts = os.environ.get("FOLDRACE_MLFLOW_ARTIFACTS", str(home / "artifacts"))
    found = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(_PORT)]
    found += ["--workers", "1", "--allowed-hosts", "localhost:*,127.0.0.1:*"]
    found += ["--artifacts-destination", artifacts]
    if app := os.environ.get("FOLDRACE_MLFLOW_APP"):
        found += ["--app-name", app]
    return found


def start(home: Path) -> bool:
    """Starts the server unless one runs already; returns whether it answers.

    Args:
        home: the folder of its log, its process id and its default stores; created if missing.
    """
    if _answers():
        return True
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = os.environ.get("FOLDRACE_MLFLOW_STORE", f"sqlite:///{home}/mlflow.db")
    environment = {"MLFLOW_FLASK_SERVER_SECRET_KEY": _key(home)} | os.environ
    environment |= {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command(home),
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (home / "server.pid").write_text(str(process.pid))
    until = time.monotonic() + _START_SECONDS
    while not _answers():
        if process.poll() is not None or time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def stop(home: Path) -> None:
    """Stops the server and its workers; nothing if none runs."""
    try:
        os.killpg(int((home / "server.pid").read_text()), signal.SIGTERM)
    except (OSError, ValueError):
        return
    (home / "server.pid").unlink(missing_ok=True)


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/health", timeout=2):
            return True
    except OSError:
        return False


def _key(home: Path) -> str:
    """The key that basic-auth signs its forms with: created once, readable by this user alone."""
    path = home / "flask.key"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text()


def main(arguments: list[str]) -> int:
    """Runs ``start`` or ``stop``; returns the exit status."""
    home = Path.home() / "mlflow"
    if arguments == ["stop"]:
        stop(home)
        return 0
    if arguments != ["start"]:
        print("usage: python -m foldrace.cluster.mlflow_server start | stop", file=sys.stderr)
        return 2
    if start(home):
        return 0
    print(f"MLflow does not start; see {home / 'server.log'}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
