"""The address of the tracking store, and whether it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrace.errors import InputError, StateError
from foldrace.search.recording.tracking import check_tracking, redacted, tracking_uri


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


def test_credentials_in_an_address_are_not_printed() -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as raised:
        check_tracking("http://me:planted@127.0.0.1:9")
    assert "planted" not in str(raised.value)
    with pytest.raises(InputError) as raised:
        check_tracking("ftp://me:pl@nted@host/x")
    assert "nted" not in str(raised.value)
    assert redacted("sqlite:///a/b@c.db http://h/x@y") == "sqlite:///a/b@c.db http://h/x@y"
