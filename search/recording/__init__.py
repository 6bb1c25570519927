"""The record of a sweep: events, the outbox on disk, and the writer that brings them to MLflow."""

import os

# MLflow reads this when it is imported, and whatever imports it here passes this module.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
