"""The tracking store of a sweep: its address, whether it answers, and a client for it."""

from __future__ import annotations

import importlib
import logging
import os
import re
import threading
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from foldrace.errors import InputError, StateError
from foldrace.search.recording.local_store import STORE, alone_in, follow_move

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["check_tracking", "connect", "import_store_meanwhile", "redacted", "tracking_uri"]

_URI = re.compile(
    r"(https?|sqlite|postgresql(\+\w+)?|mysql(\+\w+)?|mssql(\+\w+)?)://.|databricks(://.*)?$"
)

_CREDENTIALS = re.compile(r"(\w://)[^/\s]*@")


def tracking_uri(root: Path, uri: str | None = None) -> str:
    """The address of the tracking store.

    It is ``uri`` if given, else MLFLOW_TRACKING_URI, else the SQLite store in ``root``.
    """
    if given := uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    follow_move(root)
    return f"sqlite:///{(root / STORE).resolve()}"


def connect(uri: str) -> MlflowClient:
    """A client of the store at ``uri``, with few retries and MLflow's own log messages off.

    A new SQLite store is set up by one process at a time.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # every time: importing parts of MLflow resets the levels
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # it logs with a traceback what it also raises
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    path = Path(uri.removeprefix("sqlite:///"))
    own = uri.startswith("sqlite:///") and path.name == STORE and path.parent.is_dir()
    with alone_in(path.parent) if own else nullcontext():
        return MlflowClient(tracking_uri=uri)


def redacted(text: str) -> str:
    """The text with the user and the password of each address in it replaced by ``***``.

    >>> redacted("cannot reach postgresql://me:secret@host/db")
    'cannot reach postgresql://***@host/db'
    """
    return _CREDENTIALS.sub(r"\1***@", text)


def import_store_meanwhile(uri: str) -> None:
    """Starts a thread that imports what `connect` and the first request need; it takes seconds."""
    kind = "rest_store" if uri.startswith(("http://", "https://")) else "sqlalchemy_store"
    name = f"mlflow.store.tracking.{kind}"
    threading.Thread(
        target=importlib.import_module, args=(name,), name="import MLflow", daemon=True
    ).start()


def check_tracking(uri: str) -> None:
    """Checks that ``uri`` is an address that MLflow knows and, for a server, that it answers.

    Raises:
        InputError: MLflow does not know such addresses.
        StateError: the server does not answer.
    """
    if uri.startswith(("http://", "https://")) and redacted(uri) != uri:
        raise InputError(
            "tracking.uri",
            redacted(uri),
            "must not contain a user or a password",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if not _URI.match(uri):
        raise InputError(
            "tracking.uri",
            redacted(uri),
            "must be http://…, https://…, sqlite:///…, postgresql://… or databricks",
        )
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            pass
    except urllib.error.HTTPError:
        pass  # a server is there; whether it accepts us shows at the first request
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StateError(
            f"tracking.uri: {uri}: the MLflow server does not answer ({reason}); start it, or"
            " leave the URI out"
        ) from error
