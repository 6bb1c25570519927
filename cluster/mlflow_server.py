"""The cluster's MLflow server, on the head's loopback alone: ``python -m
foldrace.cluster.mlflow_server start | stop``.

The sweep's driver runs on the head and is the only one that records, so that nobody else needs to
reach it; a laptop does through a tunnel. What it is told comes from the environment:

``FOLDRACE_MLFLOW_STORE``
    where runs are kept: ``postgresql+psycopg2://…``; a SQLite file in ``~/mlflow`` by default.
``FOLDRACE_MLFLOW_ARTIFACTS``
    where artifacts are kept: ``s3://…``, ``gs://…`` or a folder; ``~/mlflow/artifacts`` by
    default.
``FOLDRACE_MLFLOW_APP``
    ``basic-auth`` asks for a user and a password. MLflow makes ``admin`` with
    ``MLFLOW_AUTH_ADMIN_PASSWORD``. Sweeps find theirs in ``MLFLOW_TRACKING_USERNAME`` and
    ``MLFLOW_TRACKING_PASSWORD``. None by default.
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

__all__ = ["command", "main"]

_PORT = 5000
_PATIENCE = 120.0


def command(home: Path) -> list[str]:
    """The server's command. Where runs are kept is not in it: every user of a machine sees its
    commands."""
    artifacts = os.environ.get("FOLDRACE_MLFLOW_ARTIFACTS", str(home / "artifacts"))
    app = os.environ.get("FOLDRACE_MLFLOW_APP")
    at = [
        "--host",
        "127.0.0.1",
        "--port",
        str(_PORT),
        "--workers",
        "1",
        "--allowed-hosts",
        "localhost:*,127.0.0.1:*",
    ]
    places = ["--artifacts-destination", artifacts]
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *at,
        *places,
        *(["--app-name", app] if app else []),
    ]


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/health", timeout=2):
            return True
    except OSError:
        return False


def _key(home: Path) -> str:
    """What basic-auth signs its forms with: made once, for this user alone."""
    path = home / "flask.key"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text()


def start(home: Path) -> int:
    """Starts it, if it does not run yet; returns once it answers: 0, or 1 if it does not."""
    if _answers():
        return 0
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = (
        {"MLFLOW_FLASK_SERVER_SECRET_KEY": _key(home)}
        | os.environ
        | {
            "MLFLOW_BACKEND_STORE_URI": os.environ.get(
                "FOLDRACE_MLFLOW_STORE", f"sqlite:///{home}/mlflow.db"
            ),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
    )
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
    until = time.monotonic() + _PATIENCE
    while not _answers():
        if process.poll() is not None or time.monotonic() > until:
            print(f"MLflow does not start; see {home / 'server.log'}", file=sys.stderr)
            return 1
        time.sleep(0.2)
    return 0


def stop(home: Path) -> int:
    """Ends it, with its workers."""
    try:
        os.killpg(int((home / "server.pid").read_text()), signal.SIGTERM)
    except (OSError, ValueError):
        return 0
    (home / "server.pid").unlink(missing_ok=True)
    return 0


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    actions = {"start": start, "stop": stop}
    if len(arguments) != 1 or arguments[0] not in actions:
        print("usage: python -m foldrace.cluster.mlflow_server start | stop", file=sys.stderr)
        return 2
    return actions[arguments[0]](Path.home() / "mlflow")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
