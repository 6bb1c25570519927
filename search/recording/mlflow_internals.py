"""What Foldrace uses of MLflow beyond its documented interface, and a check that it is there."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foldrace.errors import InputError, StateError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["RETRIES", "check_mlflow", "check_name", "may_pass", "store_engine"]

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""The environment variable that MLflow's HTTP client reads before each request."""

_REFUSALS_THAT_PASS = frozenset(
    {
        "TEMPORARILY_UNAVAILABLE",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "CANCELLED",
        "IO_ERROR",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "CUSTOMER_UNAUTHORIZED",
        "NOT_FOUND",
        "ENDPOINT_NOT_FOUND",
    }
)
"""MLflow's error codes that do not depend on what was sent, so that a retry may succeed.

A proxy whose server is down answers 404; a run that does not exist is RESOURCE_DOES_NOT_EXIST.
"""


def may_pass(error: Exception) -> bool:
    """Whether a retry may succeed: the store is away, is busy, or does not accept us now."""
    from mlflow.exceptions import RestException
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    code = getattr(error, "error_code", None)
    if code == "INTERNAL_ERROR":
        # from a server: its own fault, or no connection; from a store in this process: the event's
        return isinstance(error, RestException) or "API request" in str(error)
    if code is not None:
        return code in _REFUSALS_THAT_PASS
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:  # requests', of an upload
        return status >= 500 or status in (401, 403, 408, 429)
    if isinstance(error, OperationalError | PoolTimeout):
        return True
    return isinstance(error, OSError) and not isinstance(
        error, FileNotFoundError | IsADirectoryError
    )


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
    if not hasattr(environment_variables, RETRIES):
        raise _unsupported(RETRIES)
    if unknown := _REFUSALS_THAT_PASS - set(ErrorCode.keys()):
        raise _unsupported(f"the error code {min(unknown)}")


def _unsupported(missing: str) -> StateError:
    import mlflow

    return StateError(
        f"mlflow {mlflow.__version__} is not supported: it has no {missing}; install the version"
        " of constraints.txt"
    )
