"""The MLflow UI on the sweeps of a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from foldrace.search.recording.folder import find_sweep

__all__ = ["serve"]


def serve(root: Path, port: int, tell: Callable[[str], None]) -> None:
    """Becomes an MLflow server on 127.0.0.1, or says where the server is that the latest sweep was
    recorded on.

    Raises:
        StateError: no sweep in ``root``.
    """
    state = find_sweep(root, None).read_state()
    page = f"#/experiments/{state.experiment_id}/runs?workflowType=machine_learning"
    if state.tracking_uri.startswith("http"):
        tell(f"The latest sweep is on a server: {state.tracking_uri.rstrip('/')}/{page}")
        return
    tell(f"MLflow, at the latest sweep: http://127.0.0.1:{port}/{page}  (Ctrl-C ends it)")
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", state.tracking_uri]
    os.execve(
        sys.executable,
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        environment,
    )
