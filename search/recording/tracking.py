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

from foldrace.errors import InputError, StateError, first_line, redacted
from foldrace.search.recording.local_store import STORE, alone_in, follow_move

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "check_tracking",
    "connect",
    "import_store_meanwhile",
    "tracking_uri",
    "unusable",
    "whole_address",
]

_URI = re.compile(
    r"(https?|sqlite|postgresql(\+\w+)?|mysql(\+\w+)?|mssql(\+\w+)?)://.|databricks(://.*)?$"
)


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

    Raises:
        StateError: the store cannot be opened.
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
    own = uri.startswith("sqlite:///") and path.name == STORE
    try:
        if own:
            path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(path.parent) if own else nullcontext():
            return MlflowClient(tracking_uri=uri)
    except Exception as error:  # MLflow's own errors, those of the database below it, a driver
        raise unusable(uri, error) from error


def unusable(uri: str, error: Exception) -> StateError:
    """The error of a tracking store that cannot be used."""
    return StateError(f"{uri}: the tracking store cannot be used: {first_line(error)}")


def whole_address(uri: str) -> str:
    """The address that is recorded as ``uri``, with its password.

    Passwords are written nowhere. MLFLOW_TRACKING_URI is expected to be the whole address.

    Raises:
        StateError: it is not.
    """
    if redacted(uri) == uri and "***" not in uri:
        return uri
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if redacted(given) != redacted(uri):
        raise StateError(
            f"{uri}: the password of this tracking store is not recorded; set MLFLOW_TRACKING_URI"
            " to the whole address"
        )
    return given


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
            uri,
            "must not contain a user or a password",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if not _URI.match(uri):
        raise InputError(
            "tracking.uri",
            uri,
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
