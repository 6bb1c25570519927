"""The door to a recorded sweep: what it takes as recorded, and what it refuses."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foldrace.errors import InputError, StateError
from foldrace.search.preparing.recorded import RecordedSweep, open_recorded
from foldrace.search.recording.folder import SweepFolder, SweepState, create_sweep_folder
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.data.datasets import load_dataset
from tests.helpers.recorded_sweeps import Store

TREE = {
    "dataset": {"name": "digits", "limit": 40},
    "epochs": 3,
    "space": {"lr": {"log": [1e-4, 1.0]}, "latent_dim": 16},
}
TASK = (
    "import torch\nclass Mine:\n    def build(self, params, shape):\n"
    "        return torch.nn.Conv2d(1, 1, 1)\n    def losses(self, model, images, params):\n"
    "        return {'loss': model(images).flatten(1).mean(1)}\n"
)


def recorded(root: Path, text: str | None = None, **state: str) -> SweepFolder:
    """The folder of a sweep whose sweep.yaml is ``text``."""
    spec = parse_spec({**TREE, "task": state.pop("task", "autoencoder")}, root)
    folder = create_sweep_folder(root, "ae")
    data = load_dataset("digits", limit=40, data_dir=root).digest
    known = SweepState("k", f"sqlite:///{root}/no.db", "1", 0.0, data, spec.to_yaml())
    folder.write_state(replace(known, **state))  # type: ignore[arg-type]
    folder.spec.write_text(spec.to_yaml() if text is None else text)
    return folder


def test_a_file_with_other_words_for_the_same_is_accepted(tmp_path: Path) -> None:
    text = (
        "# a comment\nspace: {latent_dim: {value: 16}, lr: {log: [0.0001, 1]}}\nepochs: 3\n"
        "dataset: {name: digits, limit: 40}\n"
    )
    opened = open_recorded(recorded(tmp_path, text))
    assert opened.spec == parse_spec(TREE, tmp_path) and list(opened.spec.space) == [
        "lr",
        "latent_dim",
    ]
    assert opened.prepare(tmp_path).spec == opened.spec


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("epochs: 3", "epochs: 5", r"ae: its sweep\.yaml was changed since .*: epochs was 3 and"),
        ("latent_dim: 16", "latent_dim: 16.5", r"space\.latent_dim was 16 and is 16\.5"),
        ("  latent_dim: 16\n", "", r"space\.latent_dim was 16 and is missing; change .* back"),
        ("log:", "uniform:", r"space\.lr\.log was .* and is missing; space\.lr\.uniform was miss"),
    ],
)
def test_a_changed_sweep_file_is_refused_with_the_difference(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    folder = recorded(tmp_path)
    text = folder.spec.read_text()
    assert before in text
    folder.spec.write_text(text.replace(before, after))
    with pytest.raises(StateError, match=said):
        open_recorded(folder)


def test_a_damaged_sweep_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="colour"):
        open_recorded(recorded(tmp_path, "dataset: digits\ncolour: red\n"))


def test_a_key_that_is_newer_than_the_record_is_no_change(tmp_path: Path) -> None:
    folder = recorded(
        tmp_path, spec="dataset: {name: digits, limit: 40}\nepochs: 3\nspace: {lr: 0.1}"
    )
    folder.spec.write_text(
        parse_spec(TREE | {"space": {"lr": 0.1}, "search": {"trials": 20}}, tmp_path).to_yaml()
    )
    assert open_recorded(folder).spec.search.trials == 20


def test_a_record_without_the_file_has_it_in_mlflow(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.record("ae", [])
    folder = SweepFolder(tmp_path, "ae")
    assert folder.read_state().spec == "" and open_recorded(folder).spec.epochs == 3
    folder.spec.write_text(folder.spec.read_text().replace("epochs: 3", "epochs: 4"))
    with pytest.raises(StateError, match="epochs was 3 and is 4"):
        open_recorded(folder)
    folder.write_state(replace(folder.read_state(), key="other"))
    with pytest.raises(StateError, match="ae: it has no run in sqlite"):
        open_recorded(folder)


def test_a_store_that_is_missing_is_said_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is missing"):
        open_recorded(recorded(tmp_path, spec=""))
    assert not (tmp_path / "no.db").exists()


def test_a_record_with_the_digest_of_one_file_is_compared_by_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    opened = open_recorded(recorded(tmp_path, task=f"{file}:Mine", task_digest=digest))
    with pytest.raises(InputError, match=r"space\.latent_dim"):  # the task has no such parameter
        opened.prepare(tmp_path)
    file.write_text(TASK.replace("mean(1)", "sum(1)"))
    with pytest.raises(StateError, match=r"mine\.py:Mine: its code has changed since ae began"):
        opened.prepare(tmp_path)


def test_other_data_are_refused(tmp_path: Path) -> None:
    opened: RecordedSweep = open_recorded(recorded(tmp_path, dataset_digest="another"))
    with pytest.raises(StateError, match="digits: not the data that ae ran on"):
        opened.prepare(tmp_path)


def test_a_module_is_found_where_the_sweep_began_wherever_it_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, elsewhere = tmp_path / "began", tmp_path / "elsewhere"
    for folder in (began / "of_this_test_alone", elsewhere):
        folder.mkdir(parents=True)
    text = TASK.replace("Mine:", "Mine:\n    parameters = {'latent_dim': 16}")
    (began / "of_this_test_alone" / "models.py").write_text(text)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", list(sys.path))
    task = "of_this_test_alone.models:Mine"
    with pytest.raises(InputError, match="does not import"):
        open_recorded(recorded(tmp_path, task=task)).prepare(tmp_path)
    folder = recorded(tmp_path / "again", task=task, code=str(began))
    sources = {"of_this_test_alone.models": text}
    folder.write_state(replace(folder.read_state(), task_sources=sources))
    assert open_recorded(folder).prepare(tmp_path).task.reference == task


def project_at(root: Path, began_at: Path) -> SweepFolder:
    """A project with its sweeps, as it was left at ``began_at``."""
    root.mkdir()
    text = TASK.replace("Mine:", "Mine:\n    parameters = {'latent_dim': 16}")
    (root / "mine.py").write_text(text)
    (root / "runs").mkdir()
    folder = recorded(root / "runs", task=f"{began_at}/mine.py:Mine")
    state, before = folder.read_state(), str(began_at / "runs")
    folder.write_state(replace(state, task_sources={"mine.py": text}, root=before))
    return folder


def test_a_project_that_was_moved_is_computed_with_where_it_is(tmp_path: Path) -> None:
    folder = project_at(tmp_path / "now", tmp_path / "gone")
    opened = open_recorded(folder)
    assert opened.spec.task == f"{tmp_path}/now/mine.py:Mine"
    opened.prepare(tmp_path)
    # what lies there has to be what was recorded
    (tmp_path / "now" / "mine.py").write_text(TASK)
    with pytest.raises(StateError, match=r"its code has changed since ae began: mine.py"):
        open_recorded(folder).prepare(tmp_path)


def test_of_a_copied_project_the_copy_is_used(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "mine.py").write_text(TASK)
    opened = open_recorded(project_at(tmp_path / "copy", tmp_path / "first"))
    assert opened.spec.task == f"{tmp_path}/copy/mine.py:Mine"


def test_a_file_that_was_moved_alone_is_where_sweep_yaml_says(tmp_path: Path) -> None:
    folder = project_at(tmp_path / "here", tmp_path / "here")
    (tmp_path / "models").mkdir()
    (tmp_path / "here" / "mine.py").rename(tmp_path / "models" / "mine.py")
    with pytest.raises(InputError, match="no such file"):
        open_recorded(folder).prepare(tmp_path)
    text = folder.spec.read_text().replace("/here/mine.py", "/models/mine.py")
    folder.spec.write_text(text)
    open_recorded(folder).prepare(tmp_path)
    folder.spec.write_text(text.replace("mine.py:Mine", "mine.py:Other"))
    with pytest.raises(StateError, match=r"task was .*Mine and is .*Other"):
        open_recorded(folder)
