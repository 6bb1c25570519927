"""A password in an address is never printed, and never written into a sweep's folder or record."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from foldrace.cli.app import main
from foldrace.errors import InputError, StateError, redacted
from foldrace.search.recording.folder import SweepState, create_sweep_folder
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.search.tune import session as ray_session

SECRET = "very-secret"
ADDRESSES = [
    f"http://me:{SECRET}@127.0.0.1:9",
    f"https://{SECRET}@127.0.0.1:9",
    f"postgresql+nodriver://me:{SECRET}@127.0.0.1:9/mlflow",
    f"mysql+nodriver://127.0.0.1:9/mlflow?user=me&password={SECRET}",
    f"ftp://me:{SECRET}@127.0.0.1",
]
COMMANDS = [
    "sweep sweep.yaml --tracking-uri {0}",
    "sweep sweep.yaml --set tracking.uri={0}",
    "status --tracking-uri {0}",
    "report ae --tracking-uri {0}",
    "curves ae --tracking-uri {0} --output curves.npz",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_it_without_showing_it(
    command: str,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text("dataset: digits\n")
    assert main(command.format(address).split()) == 2
    shown = "".join(capsys.readouterr())
    assert shown.count("Error: ") == 1 and SECRET not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize("address", ADDRESSES[:3])
def test_an_address_from_the_environment_is_not_shown(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(ray_session, "ray_session", lambda address: nullcontext())
    main(["doctor", "--dir", str(tmp_path), "--data-dir", str(tmp_path), "--json"])
    main(["status", "--dir", str(tmp_path)])
    shown = "".join(capsys.readouterr())
    assert "***@127.0.0.1" in shown and SECRET not in shown


def test_a_sweep_file_with_a_password_is_refused(tmp_path: Path) -> None:
    keys = {"dataset": "digits", "tracking": {"uri": ADDRESSES[2]}}
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI") as caught:
        parse_spec(keys, tmp_path)
    assert SECRET not in str(caught.value) and SECRET not in str(caught.value.value)


def test_a_state_is_written_without_it_and_read_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = create_sweep_folder(tmp_path, "ae"), ADDRESSES[2]
    state = SweepState(key="k", tracking_uri=whole, experiment_id="1")
    folder.write_state(state)
    assert SECRET not in (folder.path / "state.json").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    assert folder.read_state() == state
    folder.write_state(replace(folder.read_state(), seconds=2.0))
    assert SECRET not in (folder.path / "state.json").read_text()
    for other in ("", "http://127.0.0.1:9"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        with pytest.raises(StateError, match="set MLFLOW_TRACKING_URI to the whole address"):
            folder.read_state()


def test_a_traceback_is_shown_without_it(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom foldrace.cli import app\n"
        "sys.argv = ['foldrace', '--help']\napp.main()\n"
        f"raise RuntimeError('cannot reach {ADDRESSES[0]}')"
    )
    environment = os.environ | {"PYTHONPATH": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 1 and "RuntimeError: cannot reach http://***@" in ended.stderr


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_no_secret_stays(address: str) -> None:
    assert SECRET not in redacted(f"at {address}, and at {address}.")
    for harmless in (
        "sqlite:////home/me@work/runs/mlflow.db",
        "postgresql://me@host:5432/mlflow",
        "https://host:5000/a@b",
        "mail me@host: see http://host/x",
    ):
        assert redacted(harmless) == harmless
