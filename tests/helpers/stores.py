"""New MLflow stores without the wait: their tables are copied, since MLflow's migrations take a
second for each."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from foldrace.search.recording.local_store import STORE
from foldrace.search.recording.tracking import connect

__all__ = ["new_store", "write_tables"]


@cache
def _tables() -> bytes:
    """A store's file with MLflow's tables and nothing in them."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STORE
        engine = create_sqlalchemy_engine(f"sqlite:///{path}")
        _initialize_tables(engine)
        engine.dispose()
        return path.read_bytes()


def write_tables(root: Path) -> str:
    """Puts an empty store into a folder of sweeps that has none; returns its address."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / STORE).exists():
        (root / STORE).write_bytes(_tables())
    return f"sqlite:///{root / STORE}"


def new_store(root: Path) -> MlflowClient:
    """A client of an empty store in a folder of sweeps."""
    return connect(write_tables(root))
