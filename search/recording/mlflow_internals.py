"""What Foldrace uses of MLflow beyond its documented interface, and a check that it is there."""

from __future__ import annotations

import importlib
import re
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from foldrace.errors import InputError, StateError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["RETRIES", "Cause", "cause_of", "check_mlflow", "check_name", "store_engine"]

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""The environment variable that MLflow's HTTP client reads before each request."""

_LATER = frozenset(
    {
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "CANCELLED",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "CUSTOMER_UNAUTHORIZED",
        "NOT_FOUND",
        "ENDPOINT_NOT_FOUND",
    }
)
"""MLflow's error codes that do not depend on what was sent.

A proxy whose server is down answers 404; a run that does not exist is RESOURCE_DOES_NOT_EXIST.
"""

_NEVER = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_LIMIT_EXCEEDED",
    }
)
"""MLflow's error codes by which it refuses what was sent."""

_FAILED_ITSELF = re.compile(r"too many 5\d\d error responses")


class Cause(Enum):
    """Why something could not be stored."""

    STORE = "the store is away, is busy, or does not accept us now: a retry may succeed"
    EVENT = "what was sent: a retry cannot succeed"
    UNCLEAR = "the store failed: by itself, or at what was sent"


def cause_of(error: Exception) -> Cause:
    """Why storing has failed with this error.

    What is not known is unclear: databases and artifact stores have errors of their own, and a
    server has one word for a database that is away and for a value that this cannot hold.
    """
    from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    code, driver = getattr(error, "error_code", None), error.__cause__
    if code in _LATER or isinstance(error, PoolTimeout):
        return Cause.STORE
    wrong_data = not isinstance(driver, DBAPIError) or isinstance(
        driver, DataError | IntegrityError
    )
    if code in _NEVER and wrong_data:
        return Cause.EVENT
    if code is not None:
        # MLflow's client asks again by itself, and tells of it in a text
        asked = "API request" in str(error) and not _FAILED_ITSELF.search(str(error))
        return Cause.STORE if asked else Cause.UNCLEAR
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:  # requests', of an upload
        passes = status >= 500 or status in (401, 403, 408, 429)
        return Cause.STORE if passes else Cause.EVENT
    if isinstance(error, OSError):
        gone = isinstance(error, FileNotFoundError | IsADirectoryError)
        return Cause.EVENT if gone else Cause.STORE
    ours = isinstance(error, ValueError | TypeError | LookupError | AttributeError)
    return Cause.EVENT if ours else Cause.UNCLEAR


def knows_address(uri: str) -> bool:
    """Whether MLflow, with the plugins that are installed, has a tracking store for an address."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    try:
        _tracking_store_registry.get_store_builder(uri)
    except MlflowException:
        return False
    return urlsplit(uri).scheme not in ("", "file") or uri.startswith("databricks")


def check_name(field: str, name: str) -> None:
    """Checks that MLflow can store a parameter under this name.

    Args:
        field: what the error calls it.

    Raises:
        InputError: it cannot.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils import validation

    try:
        validation._validate_param(name, "")
    except MlflowException as error:
        rule = (
            "MLflow cannot store this name: 1 to 250 letters, digits and any of _ - . : / and"
            " blanks, not a path such as /a or a/../b"
        )
        raise InputError(field, name, rule, "rename it") from error


def store_engine(client: MlflowClient) -> Any:
    """The SQLAlchemy engine of a client's database store.

    Raises:
        StateError: this version of MLflow keeps it elsewhere.
    """
    try:
        return client._tracking_client.store.engine
    except AttributeError as error:
        raise _unsupported("MlflowClient._tracking_client.store.engine") from error


def check_mlflow() -> None:
    """Checks that the installed MLflow has everything that this package uses of its insides.

    No store is opened: `store_engine` checks its own name when a record is begun.

    Raises:
        StateError: something is missing; the message names it and the version.
    """
    from mlflow import environment_variables
    from mlflow.protos.databricks_pb2 import ErrorCode
    from mlflow.tracking._tracking_service import utils as service
    from mlflow.utils import validation

    # the modules that `foldrace.search.recording.tracking.import_store_meanwhile` imports
    for module in ("sqlalchemy_store", "rest_store"):
        name = f"mlflow.store.tracking.{module}"
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise _unsupported(name) from error
    if not hasattr(validation, "_validate_param"):
        raise _unsupported("mlflow.utils.validation._validate_param")
    if not hasattr(service, "_tracking_store_registry"):
        raise _unsupported(f"{service.__name__}._tracking_store_registry")
    if not hasattr(environment_variables, RETRIES):
        raise _unsupported(RETRIES)
    if unknown := (_LATER | _NEVER) - set(ErrorCode.keys()):
        raise _unsupported(f"the error code {min(unknown)}")


def _unsupported(missing: str) -> StateError:
    import mlflow

    return StateError(
        f"mlflow {mlflow.__version__} is not supported: it has no {missing}; install the version"
        " of constraints.txt"
    )
