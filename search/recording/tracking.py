"""The tracking store of a sweep: its address, whether it answers, and a client for it."""

from __future__ import annotations

import importlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foldrace.errors import InputError, StateError, first_line, redacted
from foldrace.search.recording.local_store import STORE, alone_in, follow_move
from foldrace.search.recording.mlflow_internals import RETRIES, Cause, cause_of, knows_address

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "check_address",
    "check_tracking",
    "connect",
    "import_store_meanwhile",
    "tracking_uri",
    "unusable",
    "whole_address",
]

_URI = re.compile(
    r"(sqlite|postgresql(\+\w+)?|mysql(\+\w+)?|mssql(\+\w+)?)://.|databricks(://.*)?$"
)
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"


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
    os.environ.setdefault(RETRIES, "3")
    os.environ.setdefault(_TIMEOUT, "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # every time: importing parts of MLflow resets the levels
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # it logs with a traceback what it also raises
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    _reach_directly(uri)
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

    MLflow's own client asks, with its variables: for certificates, proxies and credentials.

    Raises:
        InputError: MLflow does not know such addresses.
        StateError: the server does not answer, or refuses us.
    """
    check_address(uri)
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with _one_request():
            connect(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow's, requests', or of the certificates' library
        if not isinstance(error, StateError) and cause_of(error) is Cause.EVENT:
            return  # it answers, and refuses this question alone
        where, said = f"{_named(uri)}: {uri}: the MLflow server", first_line(error)
        if getattr(error, "error_code", "") in _NOT_US:
            remedy = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD"
            raise StateError(f"{where} does not accept us ({said}); {remedy}") from error
        why = re.search(r"\): ([^\"']+)[\"')]*$", said)  # inside what several libraries add
        raise StateError(
            f"{where} does not answer ({why[1] if why else said}); start it, or leave the URI out"
        ) from error


_NOT_US = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")


def _named(uri: str) -> str:
    """What the user has given the address by."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return "MLFLOW_TRACKING_URI" if uri == given else "tracking.uri"


def check_address(uri: str) -> None:
    """Checks that MLflow knows such addresses; nothing is contacted.

    Raises:
        InputError: it does not, or the address holds a secret or a blank.
    """
    field = _named(uri)
    if re.search(r"\s", uri):
        raise InputError(field, None, "must be an address without blanks", "write %20 for one")
    if uri.startswith(("http://", "https://")):
        if redacted(uri) != uri:
            raise InputError(
                field,
                uri,
                "must not contain a user or a password",
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        try:
            known = bool(urlsplit(uri).hostname) and urlsplit(uri).port != 0
        except ValueError:
            known = False
    else:
        known = bool(_URI.match(uri)) or knows_address(uri)
    if not known:
        rule = "must be http://…, https://…, sqlite:///…, postgresql://…, databricks"
        raise InputError(field, uri, f"{rule}, or what an MLflow plugin adds")


@contextmanager
def _one_request() -> Iterator[None]:
    """Within the block, MLflow's client asks once, and waits ten seconds for the answer."""
    before = {name: os.environ.get(name) for name in (RETRIES, _TIMEOUT)}
    os.environ.update({RETRIES: "0", _TIMEOUT: "10"})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _reach_directly(uri: str) -> None:
    """Keeps requests to this machine from a proxy, as they mean this machine."""
    host = urlsplit(uri).hostname or ""
    if host == "localhost" or re.fullmatch(r"127\.[\d.]+|::1", host):
        for name in ("no_proxy", "NO_PROXY"):
            known = os.environ.get(name, "")
            if host not in known.split(","):
                os.environ[name] = ",".join(filter(None, (known, host)))
