"""What Foldrace uses of MLflow beyond its documented interface, and a check that it is there."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foldrace.errors import StateError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["REFUSALS_THAT_PASS", "RETRIES", "check_mlflow", "store_engine"]

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""The environment variable that MLflow's HTTP client reads before each request."""

REFUSALS_THAT_PASS = frozenset(
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

    # the modules that `foldrace.search.recording.tracking.import_store_meanwhile` imports
    for module in ("sqlalchemy_store", "rest_store"):
        name = f"mlflow.store.tracking.{module}"
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise _unsupported(name) from error
    if not hasattr(environment_variables, RETRIES):
        raise _unsupported(RETRIES)
    if unknown := REFUSALS_THAT_PASS - set(ErrorCode.keys()):
        raise _unsupported(f"the error code {min(unknown)}")


def _unsupported(missing: str) -> StateError:
    import mlflow

    return StateError(
        f"mlflow {mlflow.__version__} is not supported: it has no {missing}; install the version"
        " of constraints.txt"
    )
