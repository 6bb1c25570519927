"""The address of the tracking store, and whether it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrace.errors import StateError
from foldrace.search.recording.tracking import check_tracking, tracking_uri


def test_where_the_record_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(tmp_path) == "http://server:5000"
    assert tracking_uri(tmp_path, "http://named:1") == "http://named:1"


def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    check_tracking(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(
        StateError, match=r"tracking.uri: http://127.0.0.1:9: the MLflow server does not answer"
    ):
        check_tracking("http://127.0.0.1:9")
