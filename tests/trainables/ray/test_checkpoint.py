"""A checkpoint's file is read whole or refused, and holds no code."""

from __future__ import annotations

import hashlib

import pytest
import torch

from foldrace.errors import StateError
from foldrace.trainables.ray.checkpoint import (
    load_checkpoint_file,
    newest_checkpoints,
    save_checkpoint_file,
)


def test_what_was_saved_is_loaded(tmp_path):
    state = {"trial": 7, "params": {"lr": 0.1}, "weights": torch.arange(3.0)}
    save_checkpoint_file(tmp_path / "trial.pt", state)
    loaded = load_checkpoint_file(tmp_path / "trial.pt")
    assert torch.equal(loaded.pop("weights"), state.pop("weights")) and loaded == state


def test_the_earlier_checkpoints_follow_from_the_newest(tmp_path):
    for number in (0, 2, 9, 10, 11):
        (tmp_path / f"checkpoint_{number:06}").mkdir()
    found = newest_checkpoints(tmp_path / "checkpoint_000010")
    assert [int(path.name[-6:]) for path in found] == [10, 9, 2, 0]


@pytest.mark.parametrize("missing", ["trial.pt", "trial.sha256"])
def test_a_checkpoint_without_one_of_its_files_is_refused(tmp_path, missing):
    save_checkpoint_file(tmp_path / "trial.pt", {"trial": 7})
    (tmp_path / missing).unlink()
    with pytest.raises(StateError, match=r"trial.pt: this checkpoint is damaged"):
        load_checkpoint_file(tmp_path / "trial.pt")


class Harmful:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self):
        return open, ("harm.txt", "w")


def test_a_checkpoint_with_a_pickled_object_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trial.pt"
    save_checkpoint_file(path, {"trial": 7})
    torch.save({**load_checkpoint_file(path), "more": Harmful()}, path)
    with pytest.raises(StateError, match=r"its digest differs"):
        load_checkpoint_file(path)
    path.with_suffix(".sha256").write_text(
        hashlib.sha256(path.read_bytes()).hexdigest()
    )  # as who may write one
    with pytest.raises(StateError, match=r"weights_only|Weights only"):
        load_checkpoint_file(path)
    assert not (tmp_path / "harm.txt").exists()
