"""What is used of MLflow's insides is there; where it is not, one line says what is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from mlflow import environment_variables

from foldrace.errors import InputError, StateError
from foldrace.search.recording.local_store import write_ahead
from foldrace.search.recording.mlflow_internals import (
    RETRIES,
    check_mlflow,
    check_name,
    store_engine,
)
from foldrace.search.recording.tracking import connect


def test_the_installed_mlflow_has_all_that_is_used() -> None:
    check_mlflow()
    assert store_engine(connect("sqlite://")).dialect.name == "sqlite"


def test_a_name_that_mlflow_no_longer_has_is_said_with_the_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(environment_variables, RETRIES)
    with pytest.raises(StateError, match=rf"mlflow {mlflow.__version__} .* it has no {RETRIES};"):
        check_mlflow()


@pytest.mark.parametrize("name", ["a=b", "lr[0]", "", "x" * 251, "/a", "a//b", "é%"])
def test_a_name_that_mlflow_cannot_store_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="MLflow cannot store this name"):
        check_name("task", name)


def test_a_store_without_an_engine_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    base = tmp_path / "mlflow.db"
    base.touch()
    client = SimpleNamespace(tracking_uri=f"sqlite:///{base}", _tracking_client=None)
    with (
        pytest.raises(StateError, match=r"it has no MlflowClient\._tracking_client"),
        write_ahead(client),  # type: ignore[arg-type]
    ):
        pass
    assert base.read_bytes() == b""
