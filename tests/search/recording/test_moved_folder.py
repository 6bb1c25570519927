"""A folder of sweeps that is moved, copied, or used by two sweeps from its first moment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from foldrace.analysis.records.tables import locate_sweep
from foldrace.search.recording.folder import SweepState, create_sweep_folder, find_sweep
from foldrace.search.recording.local_store import ARTIFACTS
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.tracking import tracking_uri
from foldrace.search.recording.writer import MlflowWriter
from tests.helpers.stores import new_store
from tests.search.recording.test_writer import dataset


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of sweeps with one sweep ``ae``, its artifacts and a registered model."""
    root = tmp_path / "old place"
    root.mkdir()
    client, uri = new_store(root), tracking_uri(root)
    place = (root / ARTIFACTS / "ae").as_uri()
    experiment = client.create_experiment("ae", artifact_location=place)
    folder = create_sweep_folder(root, "ae")
    folder.spec.write_text("dataset: digits\n")
    folder.write_state(SweepState(key="key-of-ae", tracking_uri=uri, experiment_id=experiment))
    writer = MlflowWriter(client, experiment, "ae", "key-of-ae", folder.path)
    writer.start_sweep("dataset: digits\n", {}, dataset(), "autoencoder")
    writer.close(Outcome.COMPLETED, {}, "")
    client.create_registered_model("ae")
    client.create_model_version("ae", f"{place}/model", writer.sweep_run)
    return root


def written(root: Path) -> tuple[MlflowClient, Path]:
    """Writes a text into the record of ``ae`` in ``root``; the client, and where it went."""
    utils._artifact_repos_cache.clear()  # as in a new process
    client, run, _ = locate_sweep(root, "ae")
    client.log_text(run.info.run_id, "here", "later.txt")
    return client, root / ARTIFACTS / "ae" / run.info.run_id / ARTIFACTS / "later.txt"


def test_what_is_written_into_a_moved_folder_is_there(root: Path, tmp_path: Path) -> None:
    moved = root.rename(tmp_path / "new place")
    client, there = written(moved)
    assert there.read_text() == "here" and not root.exists()
    assert client.get_model_version("ae", "1").source == (moved / ARTIFACTS / "ae/model").as_uri()
    _, run, _ = locate_sweep(moved, "ae")
    assert client.download_artifacts(run.info.run_id, "sweep.yaml", str(tmp_path))


def test_what_is_written_into_a_copy_does_not_touch_the_original(
    root: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    _, there = written(copy)
    assert there.read_text() == "here"
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert written(root)[1].is_file()


def test_a_sweep_whose_folder_is_renamed_keeps_its_record(root: Path) -> None:
    (root / "ae").rename(root / "best-so-far")
    _, run, folder = locate_sweep(root, "best-so-far")
    assert folder is not None and folder.name == "best-so-far"
    assert run.data.tags["foldrace.sweep"] == "ae"


def test_a_sweep_that_is_moved_alone_keeps_its_record_where_it_is(
    root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    new_store(other)
    (root / "ae").rename(other / "ae")
    assert find_sweep(other, "ae").read_state().tracking_uri == tracking_uri(root)
    assert locate_sweep(other, "ae")[1].data.tags["foldrace.sweep"] == "ae"


def test_nothing_is_rewritten_under_a_sweep_that_runs(root: Path, tmp_path: Path) -> None:
    """The same folder may be mounted at another place, in a container for instance."""
    (tmp_path / "mount").symlink_to(root)
    moved = root.rename(tmp_path / "new place")
    with find_sweep(moved, "ae").locked():
        _, run, _ = locate_sweep(moved, "ae")
        assert run.info.artifact_uri.startswith(root.as_uri())
    assert locate_sweep(moved, "ae")[1].info.artifact_uri.startswith(moved.as_uri())


_FIRST_MOMENT = """
import sys
from pathlib import Path
from foldrace.search.recording.tracking import connect, tracking_uri
from foldrace.search.sweeps.begin import _experiment
root = Path(sys.argv[1])
connect(tracking_uri(root))
print(_experiment("ae", root, tracking_uri(root)))
"""


def test_sweeps_that_begin_at_once_in_a_new_folder_share_its_store(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FIRST_MOMENT, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert len({out for out, _ in ended}) == 1
