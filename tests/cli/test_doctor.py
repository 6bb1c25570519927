"""What the doctor finds, and the remedy it names for each thing amiss."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from foldrace.cli.app import main
from foldrace.cli.doctor import Finding, Grade, examine
from foldrace.errors import StateError
from foldrace.search.tune import session as ray_session

ROOT = Path(__file__).parents[2]
REQUIRED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
PARTS = [
    "Python",
    "packages",
    "Ray on this machine",
    "GPUs",
    "folder of sweeps",
    "data sets",
    "tracking store",
]


@contextmanager
def no_ray(address: str | None) -> Iterator[None]:
    raise StateError("Ray on this machine does not start or answer: no room in /dev/shm\nmore")
    yield


@pytest.fixture(autouse=True)
def seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own requirements, installed or not; no server; and no Ray, whose start costs
    seconds."""
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRED)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(ray_session, "ray_session", no_ray)


def find(what: str, root: Path, data: Path | None = None) -> Finding:
    found = {finding.what: finding for finding in examine(root, data or root / "data")}
    assert list(found) == PARTS
    return found[what]


def test_all_is_well_on_this_machine_and_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRED)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = ["--dir", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")]
    status = main(["doctor", "--json", *places])
    findings = json.loads(capsys.readouterr().out)
    assert [finding["what"] for finding in findings] == PARTS
    assert not [finding for finding in findings if finding["grade"] == "bad"]
    assert status == 0
    assert findings[2]["found"].startswith("starts; ")
    assert list(tmp_path.iterdir()) == []


def test_a_ray_that_does_not_start_is_said_in_one_line_and_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = find("Ray on this machine", tmp_path)
    assert finding.bad and "no room in /dev/shm" in finding.found and "more" not in finding.found
    assert "/dev/shm" in finding.remedy
    assert main(["doctor", "--dir", str(tmp_path)]) == 1
    assert "✗" in capsys.readouterr().out


def test_missing_and_wrong_packages_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [*REQUIRED, "no-such-package>=1", "numpy>=999", 'pytest>=999; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    finding = find("packages", tmp_path)
    assert finding.bad
    assert (
        finding.found
        == f"no-such-package is missing; numpy {metadata.version('numpy')} is not >=999"
    )
    assert "make install" in finding.remedy


def test_a_project_that_is_not_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    finding = find("packages", tmp_path)
    assert finding.bad and "not installed" in finding.found and "make install" in finding.remedy


def test_a_folder_that_cannot_be_written_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access

    def access(
        path: os.PathLike[str], mode: int
    ) -> bool:  # root may write anywhere, so chmod would not do
        return Path(path) != tmp_path and real(path, mode)

    monkeypatch.setattr(os, "access", access)
    finding = find("folder of sweeps", tmp_path / "not" / "yet")
    assert finding.bad and "not writable" in finding.found and "--dir" in finding.remedy


def test_a_full_disk_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(total=2**40, used=2**40, free=2**28)
    )
    finding = find("folder of sweeps", tmp_path)
    assert finding.bad and "0 GiB free" in finding.found and "free some space" in finding.remedy


def test_a_dead_tracking_server_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finding = find("tracking store", tmp_path)
    assert finding.bad and finding.found.startswith("http://127.0.0.1:9: ")
    assert finding.remedy == "start the server, or unset MLFLOW_TRACKING_URI"


def test_a_damaged_store_is_bad_and_its_remedy_fits(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all " * 100)
    finding = find("tracking store", tmp_path)
    assert finding.bad and "mlflow.db" in finding.found
    assert "MLFLOW_TRACKING_URI" not in finding.remedy  # none is set: it would be no remedy


def test_a_store_that_is_not_there_yet_is_only_noted(tmp_path: Path) -> None:
    assert find("tracking store", tmp_path).grade is Grade.NOTE
    assert list(tmp_path.iterdir()) == []


def test_data_sets_that_are_not_fetched_are_noted(tmp_path: Path) -> None:
    finding = find("data sets", tmp_path)
    assert finding.grade is Grade.NOTE
    assert finding.found.startswith("ready: digits; not fetched: ")
    assert "foldrace data cifar10" in finding.remedy


def test_every_bad_finding_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["no-such-package"])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    findings = examine(tmp_path, tmp_path)
    assert all(finding.remedy for finding in findings if finding.bad)
    assert sum(finding.bad for finding in findings) == 3
